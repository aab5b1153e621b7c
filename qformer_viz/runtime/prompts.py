"""From a question and the conversation so far to the exact token ids the processor would build.

Questions are text, never markup: a typed "<image>" or "</s>" stays the characters it is. The operator's prompts and a
chat template keep their special tokens.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from qformer_viz.errors import QuestionError
from qformer_viz.runtime.checkpoints import Checkpoint
from qformer_viz.runtime.prompt_format import ChatFormat, CleanTurn, PlainFormat
from qformer_viz.runtime.prompt_tokens import Piece, PromptTokens
from qformer_viz.types import Answer, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, ProcessorMixin


@dataclass(frozen=True)
class Prompt:
    """text: what the language model reads after the image; ids: [t] with one placeholder per query in front;
    text_ids: those after the placeholders; instruction: what the Q-Former reads (InstructBLIP), the current question
    only."""

    text: str
    ids: tuple[int, ...]
    text_ids: tuple[int, ...]
    instruction: str
    notices: tuple[str, ...] = ()


class Prompter:
    """Builds prompts for one checkpoint and refuses what its language model cannot read."""

    def __init__(self, checkpoint: Checkpoint, processor: ProcessorMixin, config: PreTrainedConfig) -> None:
        self.checkpoint = checkpoint
        self.tokenizer = processor.tokenizer
        self._tokens = PromptTokens(processor.tokenizer)
        self._format = ChatFormat(checkpoint, self.tokenizer) if checkpoint.chat else PlainFormat(checkpoint)
        image: int | None = getattr(config, "image_token_index", None)
        film: int | None = getattr(config, "video_token_index", None)
        self.image_token = film if image is None else image
        self.film_token = image if film is None else film
        self.queries = config.num_query_tokens
        text = config.text_config
        # T5 has relative positions and no hard limit; n_positions is what it was trained on.
        limits = (getattr(text, name, None) for name in ("max_position_embeddings", "n_positions"))
        self.limit = next(filter(None, limits), 512)
        self.decoder_only = config.use_decoder_only_language_model
        self.qformer_tokenizer = getattr(processor, "qformer_tokenizer", None)
        self._qformer_tokens = (
            None if self.qformer_tokenizer is None else PromptTokens(self.qformer_tokenizer)
        )
        self.qformer_limit = getattr(config.qformer_config, "max_position_embeddings", 512)

    def caption(self, max_new_tokens: int, slots: int | None = None) -> Prompt:
        return self._fit(None, (), max_new_tokens, slots)

    def question(
        self, question: object, history: Sequence[Turn], max_new_tokens: int, slots: int | None = None
    ) -> Prompt:
        """The newest question after as many earlier turns as fit; the oldest go first, with a notice.

        slots: how many vectors the image takes; None: one for each query, as a still picture does.
        Raises QuestionError when the question is empty, not text, or too long by itself.
        """
        question = clean(question, "The question")
        return self._fit(question, [_turn(turn) for turn in history], max_new_tokens, slots)

    def instruction(self, question: str | None) -> str:
        """What InstructBLIP's Q-Former reads for this question (None: the caption prompt)."""
        if question is None:
            return self.checkpoint.caption_prompt
        return self.checkpoint.question_prompt.format(clean(question, "The question"))

    def instruction_inputs(self, instruction: str) -> dict[str, torch.Tensor]:
        """input_ids and attention_mask [1, t] for InstructBLIP's Q-Former."""
        assert self._qformer_tokens is not None, "only an InstructBLIP's Q-Former reads"
        ids = self._qformer_tokens.encode([Piece(instruction, typed=True)])
        if len(ids) > self.qformer_limit:
            raise QuestionError(
                f"The question has {len(ids)} tokens; this model's Q-Former reads at most {self.qformer_limit}. "
                "Shorten the question."
            )
        return {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}

    def _fit(
        self, question: str | None, turns: Sequence[CleanTurn], max_new_tokens: int, slots: int | None
    ) -> Prompt:
        # A decoder-only model's answer takes positions after its prompt; an encoder-decoder's does not.
        room = self.limit - (max_new_tokens if self.decoder_only else 0)
        for first in range(len(turns) + 1):
            put = self._format
            pieces, framed = put.caption() if question is None else put.question(turns[first:], question)
            text_ids = self._tokens.encode(pieces, framed=framed)
            ids = self.placed(text_ids, slots)
            if len(ids) <= room:
                text = "".join(piece.text for piece in pieces)
                return Prompt(text, ids, text_ids, self.instruction(question), self._dropped(first))
        spent = f"{len(ids)} tokens, {slots or self.queries} of them the image"
        answer = f" and {max_new_tokens} are kept for the answer" if self.decoder_only else ""
        raise QuestionError(
            f"The question is too long: with its prompt it takes {spent}{answer}, but this language model "
            f"reads at most {self.limit}. Shorten the question{' or the answer length' if answer else ''}."
        )

    def _dropped(self, count: int) -> tuple[str, ...]:
        if not count:
            return ()
        turns = "turn was" if count == 1 else f"{count} turns were"
        return (
            f"The conversation is longer than this language model can read ({self.limit} tokens): the oldest "
            f"{turns} left out.",
        )

    def ids(self, text: str, slots: int | None = None) -> tuple[int, ...]:
        """The processor's own order: placeholders, then a typed text with the special tokens around it."""
        return self.placed(self._tokens.encode([Piece(text, typed=True)]), slots)

    def again(self, answer: Answer, slots: int) -> tuple[int, ...]:
        """The prompt of an answer; one that was made by hand has no ids of it, and its text counts as typed."""
        return self.placed(answer.prompt_ids, slots) if answer.prompt_ids else self.ids(answer.prompt, slots)

    def placed(self, text_ids: Sequence[int], slots: int | None = None) -> tuple[int, ...]:
        """The placeholders of an image that takes `slots` vectors, then the ids of a prompt's text."""
        slots = slots or self.queries
        token = self.image_token if slots == self.queries else self.film_token
        assert token is not None, "a model that chats has a placeholder"
        ids = (*[token] * slots, *text_ids)
        if ids.count(token) != slots:
            raise QuestionError(
                f"The prompt holds {ids.count(token)} image placeholders instead of {slots}. Leave the image token "
                "out of the question and of question_prompt and caption_prompt in explorer.json: the program puts the "
                "image in front."
            )
        return ids


def _turn(turn: Any) -> CleanTurn:
    if isinstance(turn, str) or not isinstance(turn, Sequence) or len(turn) != 2:
        raise QuestionError(f"An earlier turn is {turn!r}; expected a pair (question, answer).")
    question, answer = (clean(text, "An earlier turn", empty=True) for text in turn)
    return question, answer


def clean(text: object, what: str, *, empty: bool = False) -> str:
    """One line of text: white space collapsed, control characters and lone surrogates removed."""
    if not isinstance(text, str):
        raise QuestionError(f"{what} is a value of type {type(text).__name__}; expected text.")
    kept = (
        " " if character.isspace() else character
        for character in text
        if character.isspace() or unicodedata.category(character) not in {"Cc", "Cs"}
    )
    line = " ".join("".join(kept).split())
    if not line and not empty:
        raise QuestionError(f"{what} is empty. Type one about the image, such as: what is in the picture?")
    return line
