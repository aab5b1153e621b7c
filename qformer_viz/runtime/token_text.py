"""From token ids to what a person reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


class Wording:
    """The text of a growing list of token ids, piece by piece, without special tokens.

    pieces has one string per id; their concatenation is the text before stripping. Each is the growth of the
    decoded text, so that white space and sub-words come out as the tokenizer joins them. A character spread
    over several byte-level tokens belongs to the last of them.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
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


def text_of(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """What a token writes; its name in the vocabulary where that cannot be shown, as of a line break or a part of a
    character; its number where it has none, as in an output layer larger than the vocabulary."""
    text = tokenizer.decode([token]).strip()
    if text and text.isprintable() and _INCOMPLETE not in text:
        return text
    return tokenizer.convert_ids_to_tokens(token) or f"token {token}"


def split_words(pieces: Sequence[str]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The words of a text from its token pieces, and the word of every piece.

    A word begins where white space does; punctuation is a word of its own.
    """
    words: list[str] = []
    owner = []
    for piece in pieces:
        bare = piece.strip()
        mark = bool(bare) and not any(letter.isalnum() for letter in bare)
        was_mark = bool(words) and not any(letter.isalnum() for letter in words[-1])
        if not words or piece[:1].isspace() or mark or (was_mark and bare):
            words.append(bare)
        else:
            words[-1] += bare
        owner.append(len(words) - 1)
    return tuple(words), tuple(owner)
