"""Read arrays out of an NPZ that may come from anybody: every size is known and bounded before memory is asked for.

numpy's own reader believes what a header says of shape and type, and asks for that much memory. Here the header must be
one that `numpy.savez` writes for a plain array, and its shape must agree with the size of the archive's entry.
"""

import math
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import numpy as np

from qformer_viz.errors import BadArchive

LIMIT = 1 << 30
"""Bytes that all arrays of a file may take together."""

TEXT_LIMIT = 1 << 24
"""Bytes of one text, at four for each letter."""

KINDS = {"float": "f4", "integer": "i[48]", "text": r"U\d{1,8}"}
"""What numpy writes of float32, of whole numbers, and of text."""

_HEADER = re.compile(
    rb"\{'descr': '(?P<type>[<>](?P<kind>f4|i[48]|U\d{1,8}))', 'fortran_order': (?P<fortran>False|True), "
    rb"'shape': \((?P<shape>(?:\d{1,18}, ?)*(?:\d{1,18})?)\), \} *\n"
)
_LONGEST_HEADER = 1 << 12
_WANTED = "an NPZ written by qformer_viz.view.archive.save_npz"
_FIX = "export the capture again"


def read(
    path: str | Path, wanted: Mapping[str, str], optional: tuple[str, ...] = (), limit: int = LIMIT
) -> dict[str, np.ndarray]:
    """The named arrays of an NPZ, in the machine's own byte order; text as an array of one string.

    Args:
        wanted: the arrays to read and the kind of each, a key of KINDS. Others in the file are passed over.
        optional: those that may be missing.
        limit: bytes that the arrays may take together.
    Raises:
        BadArchive: no such NPZ, or one that is damaged, too large, or lacks an array. FileNotFoundError.
    """
    with _told(path), ZipFile(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        there = {name: entries[f"{name}.npy"] for name in wanted if f"{name}.npy" in entries}
        missing = sorted(wanted.keys() - there.keys() - set(optional))
        if missing:
            raise refused(path, f"without {', '.join(missing)}")
        size = sum(entry.file_size for entry in there.values())
        if size > limit:
            raise BadArchive(
                f"{Path(path).name}, whose arrays take {size / 1e9:.1f} GB",
                f"at most {limit / 1e9:.1f} GB",
                "pass limit= to load_npz if you trust the file, or save the images in several files",
            )
        return {name: _array(archive, entry, wanted[name], path) for name, entry in there.items()}


def refused(path: str | Path, found: str) -> BadArchive:
    """What to raise for a file that is not what `save_npz` writes."""
    return BadArchive(f"{Path(path).name}, {found}", _WANTED, _FIX)


def _array(archive: ZipFile, entry: ZipInfo, kind: str, path: str | Path) -> np.ndarray:
    if entry.flag_bits & 1 or entry.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        raise refused(path, f"with {entry.filename} encrypted or packed in another way than numpy does")
    with archive.open(entry) as file:
        start, header = _header(file)
        match = _HEADER.fullmatch(header)
        if match is None or not re.fullmatch(KINDS[kind], match["kind"].decode()):
            raise refused(path, f"with {entry.filename} of another type ({header[:80]!r})")
        shape = tuple(int(side) for side in re.findall(rb"\d+", match["shape"]))
        stored = np.dtype(match["type"].decode())
        if math.prod(shape) * stored.itemsize != entry.file_size - start or 0 in shape:
            raise refused(
                path, f"with {entry.filename} of shape {list(shape)} in {entry.file_size - start} bytes"
            )
        if kind == "text" and entry.file_size > TEXT_LIMIT:
            raise refused(path, f"with {entry.filename} of {entry.file_size} bytes")
        content = _filled(file, entry.file_size - start)
    if content is None:
        raise refused(path, f"with {entry.filename} cut short")
    if kind == "text":
        text = content.decode("utf-32-le" if stored.byteorder != ">" else "utf-32-be")
        return np.array(text.rstrip("\0"), object)
    values = np.frombuffer(content, stored).reshape(shape, order="F" if match["fortran"] == b"True" else "C")
    return values.astype(stored.newbyteorder("="), copy=False)


def _filled(file: IO[bytes], size: int) -> bytearray | None:
    """The next `size` bytes, which are the last, in one copy; None if there are fewer. The end checks the sum."""
    content, at = bytearray(size), 0
    while at < size and (part := file.read(min(size - at, 1 << 20))):
        content[at : at + len(part)] = part
        at += len(part)
    return content if at == size and not file.read(1) else None


def _header(file: IO[bytes]) -> tuple[int, bytes]:
    """(bytes up to the numbers, the header's text) of an array in numpy's format, version 1.0."""
    first = file.read(10)
    if len(first) < 10 or first[:8] != b"\x93NUMPY\x01\x00":
        return len(first), first
    length = min(int.from_bytes(first[8:], "little"), _LONGEST_HEADER)
    return 10 + length, file.read(length)


@contextmanager
def _told(path: str | Path) -> Iterator[None]:
    """What `zipfile` and `zlib` raise for damaged files, as BadArchive."""
    try:
        yield
    except (FileNotFoundError, BadArchive):
        raise
    except MemoryError as error:
        raise refused(path, "for which there is not enough memory") from error
    except (
        OSError,
        EOFError,
        BadZipFile,
        zlib.error,
        struct.error,
        ValueError,
        NotImplementedError,
        OverflowError,
    ) as error:
        raise refused(path, f"not readable as NPZ ({error})") from error
