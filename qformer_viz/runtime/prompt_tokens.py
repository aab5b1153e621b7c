"""Text to token ids, so that the operator's markup makes special tokens and a visitor's text never does.

A prompt is a list of pieces. Without a special token in the markup, its whole text is tokenised in one go, as the
library's processor does with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple


class Piece(NamedTuple):
    """A part of a prompt. typed: by a visitor, or answered by the model; else the operator's or the template's."""

    text: str
    typed: bool = False


class PromptTokens:
    """Token ids of prompts, for one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        # A letter that the tokenizer does not know makes an unknown token, and may.
        self._special = {
            i: str(token) for i, token in added.items() if token.special and i != tokenizer.unk_token_id
        }
        self._added = {i: str(token) for i, token in added.items() if i not in self._special}
        bare, framed = self._ids("a", framed=False), self._ids("a")
        starts = [i for i in range(len(framed)) if framed[i : i + len(bare)] == bare]
        start = starts[0] if starts else 0
        self._before, self._after = framed[:start], framed[start + len(bare) :] if starts else []

    def encode(self, pieces: Sequence[Piece], *, framed: bool = True) -> tuple[int, ...]:
        """Token ids [t] of a prompt.

        Args:
            pieces: of which the text is.
            framed: with the special tokens that the tokenizer puts around a text; not for a chat template, which has
                them. A text that begins with the first of them does not get it again.
        """
        text = "".join(piece.text for piece in pieces)
        expected = self._in_markup(pieces)
        before, after = (self._before, self._after) if framed else ([], [])
        if before and expected and text.startswith(self._special.get(before[0], "\0")):
            before = []
        if not any(token in self._special for token in expected):
            ids = self._ids(text, split=True, framed=framed)
            expected = []
        elif before == self._before:
            ids = self._ids(text, framed=framed)
        else:
            ids = [*before, *self._ids(text, framed=False), *after]
        watched = self._special.keys() | set(expected)
        if [i for i in ids if i in watched] == [i for i in (*before, *expected, *after) if i in watched]:
            return tuple(ids)
        return (*before, *self._apart(pieces, watched, bool(expected)), *after)

    def _in_markup(self, pieces: Iterable[Piece]) -> list[int]:
        """The added tokens that the markup is written with, in order."""
        known = self._special.keys() | self._added.keys()
        return [
            i
            for piece in pieces
            if not piece.typed
            for i in self._ids(piece.text, framed=False)
            if i in known
        ]

    def _apart(self, pieces: Iterable[Piece], watched: set[int], marked: bool) -> list[int]:
        """Ids of a prompt in which a visitor's text spells a special token: runs of text and special tokens, each
        tokenised by itself."""
        names = {self._special.get(i) or self._added[i]: i for i in watched} if marked else {}
        pattern = re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))) or r"(?!)")
        ids: list[int] = []
        run = ""
        for piece in pieces:
            last = 0
            for found in () if piece.typed else pattern.finditer(piece.text):
                ids += self._plain(run + piece.text[last : found.start()], watched)
                ids.append(names[found.group()])
                run, last = "", found.end()
            run += piece.text[last:]
        return ids + self._plain(run, watched)

    def _plain(self, text: str, watched: set[int]) -> list[int]:
        """Ids of a text without any of `watched`: a name of one is cut in two, after its first letter."""
        ids = self._ids(text, split=True, framed=False)
        found = {self._special.get(i) or self._added[i] for i in ids if i in watched}
        if not found:
            return ids
        pattern = "|".join(
            f"(?<={re.escape(name[0])})(?={re.escape(name[1:])})" for name in found if len(name) > 1
        )
        parts = re.split(pattern, text) if pattern else [text]
        if len(parts) > 1:
            return [i for part in parts for i in self._plain(part, watched)]
        # Letters that the tokenizer itself makes into the name, such as full-width ones.
        return [i for i in ids if i not in watched]

    def _ids(self, text: str, *, split: bool = False, framed: bool = True) -> list[int]:
        options = {"split_special_tokens": split, "add_special_tokens": framed, "verbose": False}
        return list(self.tokenizer(text, **options)["input_ids"]) if text or framed else []
