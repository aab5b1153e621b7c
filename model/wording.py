"""From token ids to what a person reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


def readable(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of the ids, without special tokens, stripped."""
    return _decode(tokenizer, ids).strip()


def pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """[t] strings, one per id, whose concatenation is the text before stripping.

    Each is the growth of the decoded text, so that white space and sub-words come out as the tokenizer joins
    them. A character spread over several byte-level tokens belongs to the last of them.
    """
    result: list[str] = []
    done = ""
    for end in range(1, len(ids) + 1):
        text = _decode(tokenizer, ids[:end])
        if (text.endswith(_INCOMPLETE) and end < len(ids)) or not text.startswith(done):
            result.append("")
            continue
        result.append(text[len(done) :])
        done = text
    return result


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    return tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
