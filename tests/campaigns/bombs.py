"""Small files that cost a careless reader minutes or gigabytes; each is the smallest form of a whole kind.

BOMBS: name -> what makes its bytes.
"""

import io
import struct
import zlib
from functools import partial

from PIL import Image

DOT = b",\0\0\0\0\1\0\1\0\0\2\2\x44\1\0"
"""A GIF frame of one pixel."""


def gif_head(side: int = 1) -> bytes:
    return b"GIF89a" + struct.pack("<HHBBB", side, side, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, *chunks: bytes, interlaced: int = 0) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IEND", b"")


def rows(length: int) -> bytes:
    """So many zero bytes as a zlib stream: one compressed mebibyte of them, repeated."""
    deflate = zlib.compressobj(9, wbits=-15)
    piece = deflate.compress(bytes(2**20)) + deflate.flush(zlib.Z_FULL_FLUSH)
    rest = zlib.compressobj(9, wbits=-15)
    end = rest.compress(bytes(length % 2**20)) + rest.flush()
    return b"\x78\xda" + piece * (length // 2**20) + end + struct.pack(">HH", length % 65521, 1)


def apng_canvas(width: int, height: int, dispose: int = 2) -> bytes:
    """The reader holds a whole canvas to restore before it has read a pixel."""
    frame = struct.pack(">IIIIIHHBB", 0, width, height, 0, 0, 1, 10, dispose, 0)
    return png(
        width,
        height,
        8,
        6,
        chunk(b"acTL", struct.pack(">II", 2, 0)),
        chunk(b"fcTL", frame),
        chunk(b"IDAT", b"x"),
    )


def apng_frames(side: int, count: int, colour: int = 0) -> bytes:
    """Frames as large as the canvas, of nothing but zeros."""
    channels = {0: 1, 6: 4}[colour]
    content = rows(side * (1 + side * channels))
    parts, number = [chunk(b"acTL", struct.pack(">II", count, 0))], 0
    for index in range(count):
        parts.append(chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, side, side, 0, 0, 1, 10, 2, 0)))
        number += 1
        if index == 0:
            parts.append(chunk(b"IDAT", content))
        else:
            parts.append(chunk(b"fdAT", struct.pack(">I", number) + content))
            number += 1
    return png(side, side, 8, colour, *parts)


def png_text(size: int) -> bytes:
    text = chunk(b"zTXt", b"note\0\0" + rows(size))
    return png(1, 1, 8, 0, *[text] * 60, chunk(b"IDAT", zlib.compress(b"\0\0")))


def gif_growing_frame(width: int, height: int, dispose: int = 0) -> bytes:
    """Two small frames, then one that is far larger than the screen."""
    control = b"!\xf9\4" + bytes([dispose << 2, 0, 0, 0]) + b"\0"
    large = b"," + struct.pack("<HHHH", 0, 0, width, height) + DOT[9:]
    return gif_head(10) + DOT + control + DOT + control + large + DOT + b";"


def gif_blocks(kind: bytes, count: int, block: bytes) -> bytes:
    return gif_head() + kind + block * count + b"\0" + DOT + b";"


def gif_frames(count: int) -> bytes:
    return gif_head() + DOT * count + b";"


def gif_canvas(side: int, count: int) -> bytes:
    """One-pixel frames on a large screen, each of which is laid onto the whole canvas."""
    return gif_head(side) + (b"!\xf9\4\x0d\0\0\0\0" + DOT) * count + b";"


def tiff(entries: list[tuple[int, int, int, int]], tail: bytes = b"") -> bytes:
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + body + struct.pack("<I", 0) + tail


def tiff_pages(count: int) -> bytes:
    """A chain of one-pixel pages."""
    tags = (
        (256, 3, 1),
        (257, 3, 1),
        (258, 3, 8),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 0),
        (277, 3, 1),
        (279, 4, 1),
    )
    out = bytearray(b"II*\0\x08\0\0\0")
    for page in range(count):
        end = len(out) + 2 + 12 * len(tags) + 4
        out += struct.pack("<H", len(tags))
        for tag, kind, value in tags:
            out += struct.pack("<HHII", tag, kind, 1, end if tag == 273 else value)
        out += struct.pack("<I", end + 2 if page < count - 1 else 0) + b"\x80\0"
    return bytes(out)


def tiff_strip(side: int) -> bytes:
    """One strip of zeros, deflated."""
    strip = rows(side * side)
    tags = (
        (256, side),
        (257, side),
        (258, 8),
        (259, 8),
        (262, 1),
        (273, 122),
        (277, 1),
        (278, side),
        (279, len(strip)),
    )
    return tiff([(tag, 4, 1, value) for tag, value in tags], strip)


def tiff_tags(count: int) -> bytes:
    """A tag that says it holds far more values than the file has bytes."""
    tags = ((256, 1, 9), (257, 1, 9), (258, 1, 8), (259, 1, 1), (262, 1, 1), (273, count, 8), (279, count, 8))
    return tiff([(tag, 4, length, value) for tag, length, value in tags])


def jpeg_scans(side: int, scans: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    buffer = io.BytesIO()
    Image.new("L", (side, side), 128).save(buffer, "JPEG", progressive=True, quality=20)
    data = buffer.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * scans + b"\xff\xd9"


def saved(format: str, size: tuple[int, int], mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, 0).save(buffer, format, **options)
    return buffer.getvalue()


def bmp_runs(side: int) -> bytes:
    """A run-length BMP that ends after one pixel."""
    info = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, 6, 0, 0, 2, 2)
    place = 14 + len(info) + 8
    return (
        b"BM"
        + struct.pack("<IHHI", place + 6, 0, 0, place)
        + info
        + bytes(4)
        + b"\xff\xff\xff\0"
        + b"\1\1\0\0\0\1"
    )


def ppm_numbers(side: int) -> bytes:
    """A PPM in decimal numbers, which are parsed one by one."""
    return b"P2 %d %d 255\n" % (side, side) + b"1 " * (side * side)


def matroska_sizes() -> bytes:
    """Elements that say they are a petabyte long."""
    huge = b"\x01\x03\xff\xff\xff\xff\xff\xff"
    return (
        b"\x1aE\xdf\xa3\x84\x42\x82\x81w"
        + b"\x18\x53\x80\x67"
        + huge
        + b"\x16\x54\xae\x6b"
        + huge
        + b"\xae"
        + huge
    )


def mp4_table(count: int) -> bytes:
    """Sample tables of so many entries, and boxes one inside the other."""

    def box(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I4s", 8 + len(data), kind) + data

    table = box(b"stsz", struct.pack(">III", 0, 1, count)) + box(
        b"stts", struct.pack(">IIII", 0, 1, count, 1)
    )
    table += box(b"stco", struct.pack(">II", 0, count))
    nested = box(b"moov", box(b"trak", box(b"mdia", box(b"minf", box(b"stbl", table)))))
    return box(b"ftyp", b"isom\0\0\2\0isomiso2mp41") + nested


BOMBS = {
    "apng_canvas": partial(apng_canvas, 25000, 25000),
    "apng_canvas_within": partial(apng_canvas, 7999, 7999),
    "apng_frames": partial(apng_frames, 6999, 5),
    "apng_frames_rgba": partial(apng_frames, 3900, 12, 6),
    "png_interlaced": lambda: png(
        7999, 7999, 8, 6, chunk(b"IDAT", rows(7999 * 7999 * 4 + 9**6)), interlaced=1
    ),
    "png_deep": lambda: png(7999, 7999, 16, 6, chunk(b"IDAT", rows(7999 * (1 + 8 * 7999)))),
    "png_alpha": lambda: png(6900, 6900, 8, 6, chunk(b"IDAT", rows(6900 * (1 + 4 * 6900)))),
    "png_text": partial(png_text, 2**20 - 9),
    "gif_growing_frame": partial(gif_growing_frame, 30000, 30000),
    "gif_growing_frame_restored": partial(gif_growing_frame, 16000, 16000, 2),
    "gif_comment_of_single_bytes": partial(gif_blocks, b"!\xfe", 1_500_000, b"\1a"),
    "gif_comments": partial(gif_blocks, b"", 1_000_000, b"!\xfe\1a\0"),
    "gif_unknown_bytes": partial(gif_blocks, b"", 4_000_000, b"z"),
    "gif_frames": partial(gif_frames, 1_300_000),
    "gif_frames_within": partial(gif_frames, 120_000),
    "gif_canvas": partial(gif_canvas, 3900, 900),
    "tiff_pages": partial(tiff_pages, 100_000),
    "tiff_strip": partial(tiff_strip, 7999),
    "tiff_tags": partial(tiff_tags, 2**31),
    "jpeg_scans": partial(jpeg_scans, 7999, 300),
    "jpeg_scans_within": partial(jpeg_scans, 3000, 120),
    "webp_canvas": partial(saved, "WEBP", (16383, 3900), lossless=True, method=0, quality=0),
    "bmp_runs": partial(bmp_runs, 7999),
    "ppm_numbers": partial(ppm_numbers, 3100),
    "matroska_sizes": matroska_sizes,
    "mp4_table": partial(mp4_table, 2**30),
}
