"""How a conversation is put to a language model: in the prompts of its checkpoint, or in the chat template of its
tokenizer, which the tokenizer renders."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jinja2

from qformer_viz.errors import CheckpointError
from qformer_viz.runtime.checkpoints import Checkpoint
from qformer_viz.runtime.prompt_tokens import Piece

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CAPTION_REQUEST = "Describe the image in one sentence."
"""Asked of a BLIP-2 whose language model was made for chat; an InstructBLIP is asked as it was trained."""
_MARK = "\ue000{}\ue001"
"""Stands for a typed text while a template is filled. Characters for private use: no template holds them."""

CleanTurn = tuple[str, str]
"""(question, answer); the question of a caption is ""."""
Formatted = tuple[list[Piece], bool]
"""(pieces, whether the tokenizer puts its special tokens around them); a chat template has written them itself."""


def with_chat_template(checkpoint: Checkpoint, tokenizer: PreTrainedTokenizerBase) -> Checkpoint:
    """The checkpoint, spoken to through its tokenizer's chat template where there is one and no question_prompt is
    known to be its own."""
    if not getattr(tokenizer, "chat_template", None) or "question_prompt" in checkpoint.own_prompts:
        return checkpoint
    changes: dict[str, Any] = {"chat": True, "question_prompt": "{}"}
    if "caption_prompt" not in checkpoint.own_prompts and not checkpoint.model_family.reads_questions:
        changes["caption_prompt"] = CAPTION_REQUEST
    return replace(checkpoint, **changes)


class PlainFormat:
    """The prompts of a checkpoint, turn after turn in one line."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint

    def question(self, turns: Sequence[CleanTurn], question: str) -> Formatted:
        """Earlier turns, then the question."""
        return [*self._history(turns), *self._asked(question)], True

    def caption(self) -> Formatted:
        return [Piece(self.checkpoint.caption_prompt)], True

    def _history(self, turns: Sequence[CleanTurn]) -> list[Piece]:
        return [piece for turn in turns for piece in (*self._turn(*turn), Piece(" "))]

    def _turn(self, question: str, answer: str) -> list[Piece]:
        end = "" if answer.endswith((".", "!", "?")) else "."
        start = self._asked(question) if question else self.caption()[0]
        pieces = [*start, Piece(" "), Piece(answer, typed=True), Piece(end)]
        while not pieces[0].text.strip():
            pieces.pop(0)
        return [pieces[0]._replace(text=pieces[0].text.lstrip()), *pieces[1:]]

    def _asked(self, question: str) -> list[Piece]:
        return filled(self.checkpoint.question_prompt.format(_MARK.format(0)), [question])


class ChatFormat:
    """The tokenizer's chat template: a turn is a message of the user and one of the assistant."""

    def __init__(self, checkpoint: Checkpoint, tokenizer: PreTrainedTokenizerBase) -> None:
        self.checkpoint, self.tokenizer = checkpoint, tokenizer
        own = "caption_prompt" in checkpoint.own_prompts
        self.request = CAPTION_REQUEST if own else checkpoint.caption_prompt
        self._plain = PlainFormat(checkpoint) if own else None

    def question(self, turns: Sequence[CleanTurn], question: str) -> Formatted:
        """Earlier turns as messages, the question, and what begins an answer. Thinking is off where the template knows
        `enable_thinking`."""
        earlier = [text for asked, answer in turns for text in (asked or self.request, answer)]
        texts = [*earlier, question]
        roles = ("user", "assistant")
        messages = [{"role": roles[i % 2], "content": _MARK.format(i)} for i in range(len(texts))]
        options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
        try:
            rendered = self.tokenizer.apply_chat_template(messages, **options)
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise CheckpointError(_unusable(self.checkpoint, str(error))) from error
        found = [rendered.count(_MARK.format(i)) for i in range(len(texts))]
        if found != [1] * len(texts):
            raise CheckpointError(
                _unusable(self.checkpoint, f"it holds the messages {found} times instead of once")
            )
        return filled(rendered, texts), False

    def caption(self) -> Formatted:
        return self._plain.caption() if self._plain else self.question((), self.request)


def filled(rendered: str, texts: Sequence[str]) -> list[Piece]:
    """A rendered template with its marks replaced by what was typed."""
    parts = re.split("\ue000(\\d+)\ue001", rendered)
    pieces = [Piece(texts[int(part)], typed=True) if i % 2 else Piece(part) for i, part in enumerate(parts)]
    return [piece for piece in pieces if piece.text]


def _unusable(checkpoint: Checkpoint, why: str) -> str:
    return (
        f"{checkpoint.id}: the chat template of its tokenizer cannot be used ({why}). Set question_prompt in "
        'explorer.json beside config.json, such as {"question_prompt": "Question: {} Answer:"}.'
    )
