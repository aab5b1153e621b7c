"""From token ids to what a person reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


class Wording:
    """The text of a growing list of token ids, piece by piece, without special tokens.

    pieces has one string per id; their concatenation is the text before stripping. Each is the growth of the
    decoded text, so that white space and sub-words come out as the tokenizer joins them. A character spread
    over several byte-level tokens belongs to the last of them.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.pieces: list[str] = []
        self._said = ""

    def grow(self, ids: Sequence[int], *, last: bool = False) -> str:
        """Take in the ids not yet seen; return the text so far, stripped. last: nothing will follow."""
        for end in range(len(self.pieces) + 1, len(ids) + 1):
            self.pieces.append("")
            text = self._decode(ids[:end])
            if not text.endswith(_INCOMPLETE):
                self._say(text)
        if last and ids:
            self._say(self._decode(ids))
        return self._said.strip()

    def _say(self, text: str) -> None:
        if text.startswith(self._said):
            self.pieces[-1] += text[len(self._said) :]
            self._said = text

    def _decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
