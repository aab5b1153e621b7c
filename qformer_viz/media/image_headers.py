"""What the first bytes of an image file say it would cost to decode, read before any decoder sees the file.

Pure functions over bytes: nothing is allocated that grows with what a header claims.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from qformer_viz.errors import ImageError
from qformer_viz.media import png_chunks

MAX_GIF_BLOCKS = 250_000
"""Blocks of a GIF; a full 20 MiB of ordinary frames has about 85,000."""
MAX_GIF_COMMENT = 2**16
"""Bytes of all comments of a GIF: readers join them block by block, in time that grows with the square."""
MAX_WEBP = 20_000_000
"""Pixels of a WebP, which its reader holds four times over."""
MAX_SCAN_PIXELS = 1_300_000_000
"""Pixels of a JPEG times its scans: 20 scans of 64 megapixels."""
MAX_COEFFICIENTS = 280 * 2**20
"""Bytes that a progressive JPEG keeps of all its coefficients until its last scan."""

_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""What ends the compressed pixels of a JPEG: any marker but a restart."""


@dataclass(frozen=True)
class Header:
    """size: (width, height), None where this module does not know the kind; frames: pictures in the file, 0 where they
    were not counted; grows: whether a later frame is larger than the first picture."""

    size: tuple[int, int] | None = None
    frames: int = 0
    grows: bool = False


def read(data: bytes, max_pixels: int) -> Header:
    """What the header says, once nothing in it promises more than may be decoded.

    Args:
        data: a whole file of any kind; kinds not known here pass.
        max_pixels: most pixels of one picture.

    Raises:
        ImageError: says what was found, what is allowed and the way out.
    """
    header = Header()
    if data.startswith(png_chunks.SIGNATURE):
        header = Header(_png_size(data), png_chunks.frames(data))
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        header = Header(_webp_size(data))
        if header.size and MAX_WEBP < header.size[0] * header.size[1] <= max_pixels:
            raise ImageError(
                f"This WebP has {header.size[0] * header.size[1] / 1e6:.0f} megapixels; of this format at most "
                f"{MAX_WEBP / 1e6:.0f} are accepted. Save it as JPEG or reduce it, and upload it again."
            )
    elif data[:4] == b"GIF8":
        header = _gif(data)
    elif data[:2] == b"\xff\xd8":
        header = Header(_check_jpeg(data))
    elif data[:2] in (b"II", b"MM"):
        header = Header(frames=tiff_pages(data))
    if header.size:
        check_size(header.size, max_pixels)
    return header


def check_size(size: tuple[int, int], max_pixels: int) -> None:
    """Refuse a size (width, height) with more than `max_pixels` pixels, or with none."""
    width, height = size
    if width * height > max_pixels:
        raise ImageError(
            f"This image is {width} × {height} = {width * height / 1e6:.0f} megapixels; at most "
            f"{max_pixels / 1e6:.4g} are accepted. Reduce it (2000 pixels on the long side are plenty) and "
            "upload it again."
        )
    if width * height == 0:
        raise ImageError(f"This image is {width} × {height}: it has no pixels. Choose another one.")


def _png_size(data: bytes) -> tuple[int, int] | None:
    return struct.unpack_from(">II", data, 16) if data[12:16] == b"IHDR" and len(data) >= 24 else None


def _webp_size(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X" and len(data) >= 30:
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L" and len(data) >= 25:
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 " and len(data) >= 30:
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _gif(data: bytes) -> Header:
    """Size and whether a frame is larger; refuses so many blocks or so long comments that walking takes seconds."""
    if len(data) < 13:
        return Header()
    size = first = struct.unpack_from("<HH", data, 6)
    place = 13 + _palette(data[10])
    blocks = comment = frames = 0
    while place < len(data) and data[place] != 0x3B:
        kind, start = data[place], place + 1
        if kind == 0x2C and place + 10 <= len(data):
            left, top, width, height, flags = struct.unpack_from("<HHHHB", data, place + 1)
            size = max(size[0], left + width), max(size[1], top + height)
            first = first if frames else size
            frames += 1
            place += 11 + _palette(flags)
        elif kind == 0x21:
            place += 2
        else:
            place += 1  # readers skip what they do not know
        if kind in (0x2C, 0x21):
            place, count = _after_blocks(data, place)
            blocks += count
            comment += place - start if kind == 0x21 and data[start : start + 1] == b"\xfe" else 0
        blocks += 1
        if blocks > MAX_GIF_BLOCKS or comment > MAX_GIF_COMMENT:
            raise ImageError(
                f"This GIF is made of more than {MAX_GIF_BLOCKS} blocks or {MAX_GIF_COMMENT // 1024} KiB of "
                "comments, far more than pictures need. Save it again, as GIF with fewer frames or as PNG."
            )
    return Header(first, grows=size != first)


def _palette(flags: int) -> int:
    """Bytes of the palette that follows."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _after_blocks(data: bytes, place: int) -> tuple[int, int]:
    """(place after a chain of blocks, how many they were); no more are followed than a GIF may have."""
    count = 0
    while place < len(data) and data[place] and count <= MAX_GIF_BLOCKS:
        place += data[place] + 1
        count += 1
    return place + 1, count


def _check_jpeg(data: bytes) -> tuple[int, int] | None:
    """A JPEG's size; refuses scans without end, and progressive ones whose coefficients need too much memory."""
    found = _jpeg_frame(data)
    if found is None:
        return None
    kind, place = found
    height, width, components = struct.unpack_from(">HHB", data, place + 5)
    if kind not in (0xC2, 0xC6, 0xCA, 0xCE):
        return width, height
    scans = data.count(b"\xff\xda")
    if width * height * scans > MAX_SCAN_PIXELS:
        raise ImageError(
            f"This JPEG has {scans} scans of {width} × {height} pixels, which take too long to decode. Save it again "
            "as a baseline JPEG, or reduce it."
        )
    factors = [
        data[place + 11 + 3 * index] for index in range(components) if place + 11 + 3 * index < len(data)
    ]
    across, down = (
        max((factor >> 4 for factor in factors), default=1),
        max((f & 15 for f in factors), default=1),
    )
    share = sum((factor >> 4) * (factor & 15) for factor in factors) / max(1, across * down)
    if 2 * width * height * share > MAX_COEFFICIENTS:
        raise ImageError(
            f"This progressive JPEG of {width} × {height} pixels needs {2 * width * height * share / 2**20:.0f} MiB to "
            "decode. Save it again as a baseline JPEG, or reduce it to 24 megapixels."
        )
    return width, height


def _jpeg_frame(data: bytes) -> tuple[int, int] | None:
    """(kind, place) of the marker that tells the size, or None where it is not found before the first scan."""
    place = 2
    while place + 4 <= len(data):
        if data[place] != 0xFF:
            place += 1
            continue
        kind = data[place + 1]
        if kind in (0xFF, 0x00) or 0xD0 <= kind <= 0xD8:
            place += 1 if kind == 0xFF else 2
            continue
        if kind in (0xD9, 0xDA):
            return None
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            return (kind, place) if place + 10 <= len(data) else None
        place += 2 + max(2, int.from_bytes(data[place + 2 : place + 4], "big"))
    return None


def jpeg_ends_early(data: bytes) -> bool:
    """Whether a JPEG's pixels stop at a marker that is no end of the file: bytes follow that no reader looks at. Some
    cameras put more pictures there, so it takes grey rows as well to say that a JPEG is damaged."""
    place = data.find(b"\xff\xda")
    while place >= 0:
        found = _MARKER.search(data, place + 2)
        if found is None:
            return False
        kind, place = data[found.start() + 1], found.start()
        if kind not in (0xC4, 0xDA, 0xDB, 0xDD, 0xFE) and not 0xE0 <= kind <= 0xEF:
            return kind != 0xD9 or place + 2 < len(data)
        place = data.find(b"\xff\xda", place)
    return False


def tiff_pages(data: bytes, most: int = 100_000) -> int:
    """Pages of a TIFF, counted along their chain and no further than `most`; 0 for no TIFF. A chain that returns to a
    page ends there."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 16:
        return 0
    big = data[2:4] in (b"+\0", b"\0+")
    count, entry, link = ("Q", 20, "Q") if big else ("H", 12, "I")
    count_size, link_size = struct.calcsize(order + count), struct.calcsize(order + link)
    place = struct.unpack_from(order + link, data, 8 if big else 4)[0]
    seen: set[int] = set()
    while place and place not in seen and len(seen) < most and place + count_size <= len(data):
        seen.add(place)
        end = place + count_size + entry * struct.unpack_from(order + count, data, place)[0]
        if end + link_size > len(data):
            break
        place = struct.unpack_from(order + link, data, end)[0]
    return len(seen)
