"""Give new memory a known content for a while, so that pixels which a decoder never wrote are recognised.

Some of libtiff's decoders leave out what is damaged and report nothing; such pixels are whatever the memory held. Only
glibc can fill its memory; elsewhere this does nothing.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

UNCACHED = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}
"""Environment for a process in which every block is filled, those too that a thread has just freed."""

_M_PERTURB = -6


@contextmanager
def filled(value: int) -> Iterator[None]:
    """Within the block, memory that is asked for is filled with the inverse of the byte `value`."""
    fill = _mallopt()
    if fill is None:
        yield
        return
    fill(_M_PERTURB, value)
    try:
        yield
    finally:
        fill(_M_PERTURB, 0)


def _mallopt() -> Callable[[int, int], int] | None:
    return getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
