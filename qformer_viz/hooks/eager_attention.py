"""Eager attention for the time of a block, so that transformers returns its attention weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from transformers import PreTrainedModel


@contextlib.contextmanager
def eager(part: PreTrainedModel) -> Iterator[None]:
    """Eager attention in a part of a model, whose weights a pass then returns; to be called in the device queue."""
    before = part.config._attn_implementation
    part.set_attn_implementation("eager")
    try:
        yield
    finally:
        part.set_attn_implementation(before)
