"""Training sequences: a caption and several question turns behind the 32 slots, as one row of tokens.

The inputs read exactly like the history of a conversation, with no end token between turns; the end of an
answer is trained by labels alone: the full stop that closes a turn in the history is labelled `</s>`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cache

import numpy as np
import torch
from transformers import OPTForCausalLM, PreTrainedTokenizerBase

from model import scene_text
from model.scene_text import DESCRIPTION_SLOTS
from model.wordings import mumble
from qformer_viz.domains.emoji.scenes import Scene

IGNORE = -100


@dataclass(frozen=True)
class Rows:
    """A batch of texts behind the slots: `ids`, `labels`, `positions` `[b, t]` (positions counted from the first
    slot) and `segments` `[b, t]`: 0 is read by all, other segments only read themselves and 0."""

    ids: torch.Tensor
    labels: torch.Tensor
    positions: torch.Tensor
    segments: torch.Tensor

    def to(self, device: torch.device) -> "Rows":
        return Rows(*(getattr(self, field.name).to(device) for field in fields(self)))


class SequenceBuilder:
    """Turns scenes into rows of text, `turns` questions each, a caption in `caption_share` of them.

    A row is either one conversation, or *packed*: its turns do not see one another and all stand where the first
    turn of a conversation stands. Packed rows are as good as a row per question at a ninth of the cost. They may
    hold several wordings of the caption, `captions`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        turns: int = 9,
        caption_share: float = 0.6,
        packed_share: float = 0.7,
        captions: int = 1,
        mix: dict[str, float] | None = None,
        wording: str = "plain",
        positions: int = 256,
        mumbled: float = 0.0,
    ):
        """`mix`, `wording`: as in `text.questions`; turns that would pass position `positions` are left out;
        `mumbled`: share of questions that hold words which are in no dictionary."""
        self.tokenizer = tokenizer
        self.mix = mix
        self.wording = wording
        self.positions = positions
        self.mumbled = mumbled
        self.turns = turns
        self.caption_share = caption_share
        self.packed_share = packed_share
        self.captions = captions
        # Pieces repeat endlessly; byte-level BPE splits at spaces, so pieces and whole agree.
        self.encode = cache(lambda piece: tuple(tokenizer(piece, add_special_tokens=False).input_ids))

    def turn(self, prompt: str, answer: str, start: int, segment: int = 0) -> list[tuple[int, int, int, int]]:
        """A prompt and its answer from position `start` on; the full stop that ends it is labelled `</s>`."""
        asked, answered = self.encode(prompt), self.encode(" " + answer)
        ids = [*asked, *answered, *self.encode(".")]
        labels = [IGNORE] * len(asked) + [*answered, self.tokenizer.eos_token_id]
        return [(i, label, start + n, segment) for n, (i, label) in enumerate(zip(ids, labels, strict=True))]

    def single(self, prompt: str, answer: str) -> list[tuple[int, int, int, int]]:
        """A row of one turn."""
        first = (self.tokenizer.eos_token_id, IGNORE, DESCRIPTION_SLOTS, 0)
        return [first, *self.turn(prompt, answer, DESCRIPTION_SLOTS + 1)]

    def row(self, scene: Scene, rng: np.random.Generator) -> list[tuple[int, int, int, int]]:
        """One scene's text as (id, label, position, segment) per token, from `</s>` on; labels are not shifted."""
        packed = rng.random() < self.packed_share
        row = [(self.tokenizer.eos_token_id, IGNORE, DESCRIPTION_SLOTS, 0)]

        def add(prompt: str, answer: str) -> None:
            first = packed or len(row) == 1
            start = DESCRIPTION_SLOTS + 1 if packed else row[-1][2] + 1
            segment = row[-1][3] + 1 if packed else 0
            turn = self.turn(prompt if first else " " + prompt, answer, start, segment)
            if start + len(turn) <= self.positions:
                row.extend(turn)

        if rng.random() < self.caption_share:
            for _ in range(self.captions if packed else 1):
                add(scene_text.CAPTION_PROMPT, scene_text.caption(scene, rng))
        for question in scene_text.questions(scene, rng, self.turns, self.mix, self.wording):
            asked = question.text
            if self.mumbled and rng.random() < self.mumbled:
                asked = mumble(asked, rng)
            add(scene_text.QUESTION_PROMPT.format(as_typed(asked, rng)), question.answer)
        return row

    def batch(self, scenes: Iterable[Scene], rng: np.random.Generator) -> Rows:
        return self.pad([self.row(scene, rng) for scene in scenes])

    def pad(self, rows: list[list[tuple[int, int, int, int]]]) -> Rows:
        """Padded on the right, in a segment of its own that nothing reads."""
        longest = max(map(len, rows))
        filler = (self.tokenizer.pad_token_id, IGNORE, 0, -1)
        padded = torch.tensor([row + [filler] * (longest - len(row)) for row in rows])
        return Rows(*padded.unbind(-1))


def as_typed(question: str, rng: np.random.Generator) -> str:
    """People capitalise, and leave out the question mark; the model should not mind."""
    if rng.random() < 0.3:
        question = question.capitalize()
    return question.removesuffix("?") if rng.random() < 0.15 else question


def answer_loss(language_model: OPTForCausalLM, prefix: torch.Tensor, rows: Rows):
    """Next-token loss on the answers behind a prefix `[b, q, d]`, and the share of them predicted exactly."""
    batch, slots = prefix.shape[:2]
    embedded = torch.cat([prefix, language_model.get_input_embeddings()(rows.ids)], 1)
    segments = torch.nn.functional.pad(rows.segments, (slots, 0))
    # Rows count from 32 slots; with more or fewer of them the text moves.
    texts = rows.positions + (slots - DESCRIPTION_SLOTS) * (rows.segments >= 0)
    positions = torch.cat([torch.arange(slots, device=prefix.device).expand(batch, -1), texts], 1)
    length = embedded.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=prefix.device).tril()
    readable = (segments[:, None, :] == 0) | (segments[:, None, :] == segments[:, :, None])
    hidden = language_model.model.decoder(
        inputs_embeds=embedded, position_ids=positions, attention_mask=(causal & readable)[:, None]
    ).last_hidden_state
    target = rows.labels[:, 1:]
    wanted = target != IGNORE
    logits = language_model.lm_head(hidden[:, slots:-1][wanted]).float()
    loss = torch.nn.functional.cross_entropy(logits, target[wanted])
    return loss, (logits.argmax(-1) == target[wanted]).float().mean().detach()
