"""Chunks of a PNG, its frames, and whether each holds all the rows that its header promises.

A PNG whose compressed rows end early is shown by readers with the rest black; only counting the rows tells.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from itertools import islice

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_SLICE, _PIECE = 2**16, 2**20


def chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, end) of the content of every chunk, as far as the file goes."""
    place = len(SIGNATURE)
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        yield kind, place + 8, min(place + 8 + length, len(data))
        place += 12 + length


def frames(data: bytes) -> int:
    """How many frames the file says that it has; 1 where it does not move."""
    for kind, start, end in chunks(data):
        if kind == b"acTL" and end - start >= 4:
            return int.from_bytes(data[start : start + 4], "big")
        if kind == b"IDAT":
            break
    return 1


def without_animation(data: bytes) -> bytes:
    """The default image alone, as readers show it that know no animated PNG."""
    kept = (
        data[start - 8 : end + 4]
        for kind, start, end in chunks(data)
        if kind not in (b"acTL", b"fcTL", b"fdAT")
    )
    return SIGNATURE + b"".join(kept)


def are_whole(data: bytes, count: int = 1) -> bool:
    """Whether the first `count` pictures in the file hold all their rows."""
    return all(_inflates_to(length, parts) for length, parts in islice(_streams(data), count))


def _streams(data: bytes) -> Iterator[tuple[int, list[memoryview]]]:
    """(bytes of filtered rows, compressed parts) of the default image and then of every further frame."""
    view = memoryview(data)
    header: tuple[int, ...] = ()
    size = (0, 0)
    parts: list[memoryview] = []
    for kind, start, end in chunks(data):
        if kind == b"IHDR" and end - start >= 13:
            header = struct.unpack_from(">IIBBBBB", data, start)
            size = header[0], header[1]
        elif kind == b"fcTL" and end - start >= 12:
            if parts:
                yield _length(size, header), parts
                parts = []
            width, height = struct.unpack_from(">II", data, start + 4)
            size = width, height
        elif kind == b"IDAT":
            parts.append(view[start:end])
        elif kind == b"fdAT":
            parts.append(view[start + 4 : end])
    if header and parts:
        yield _length(size, header), parts


def _length(size: tuple[int, int], header: tuple[int, ...]) -> int:
    (width, height), (depth, colour), interlaced = size, header[2:4], header[6]
    bits, total = _CHANNELS.get(colour, 0) * depth, 0
    for left, top, step_x, step_y in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // step_x), -(-(height - top) // step_y)
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * bits + 7) // 8)
    return total


def _inflates_to(length: int, parts: list[memoryview]) -> bool:
    """Whether compressed parts hold at least so many bytes; never more than a piece of them is held at once."""
    inflater, found = zlib.decompressobj(), 0
    try:
        for part in parts:
            for start in range(0, len(part), _SLICE):
                rest: bytes | memoryview = part[start : start + _SLICE]
                while len(rest) and not inflater.eof and found < length:
                    found += len(inflater.decompress(rest, _PIECE))
                    rest = inflater.unconsumed_tail
        while found < length and not inflater.eof and (more := inflater.decompress(b"", _PIECE)):
            found += len(more)
    except zlib.error:
        return False
    return found >= length
