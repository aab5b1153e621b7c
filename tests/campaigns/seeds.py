"""Sound files of every kind that an upload may be, small, and ways to damage them."""

import importlib.util
import io
import struct
import zlib

import numpy as np
from PIL import Image

from tests.campaigns.bombs import chunk, png

PICTURES = {
    "png": ("PNG", "RGB", {}),
    "png_alpha": ("PNG", "RGBA", {}),
    "png_palette": ("PNG", "P", {}),
    "png_bilevel": ("PNG", "1", {}),
    "png_16": ("PNG", "I;16", {}),
    "jpeg": ("JPEG", "RGB", {}),
    "jpeg_grey": ("JPEG", "L", {"quality": 40}),
    "jpeg_progressive": ("JPEG", "RGB", {"progressive": True}),
    "jpeg_cmyk": ("JPEG", "CMYK", {}),
    "jpeg_restarts": ("JPEG", "RGB", {"restart_marker_rows": 1}),
    "webp": ("WEBP", "RGB", {}),
    "webp_lossless": ("WEBP", "RGBA", {"lossless": True}),
    "gif": ("GIF", "P", {}),
    "gif_transparent": ("GIF", "P", {"transparency": 3}),
    "bmp": ("BMP", "RGB", {}),
    "bmp_palette": ("BMP", "P", {}),
    "tiff": ("TIFF", "RGB", {}),
    "tiff_lzw": ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    "tiff_deflate": ("TIFF", "L", {"compression": "tiff_adobe_deflate"}),
    "tiff_float": ("TIFF", "F", {}),
    "tiff_16": ("TIFF", "I;16", {}),
    "tiff_fax": ("TIFF", "1", {"compression": "group4"}),
    "tiff_group3": ("TIFF", "1", {"compression": "group3"}),
    "tiff_packbits": ("TIFF", "RGB", {"compression": "packbits"}),
    "tiff_jpeg": ("TIFF", "RGB", {"compression": "jpeg"}),
    "ppm": ("PPM", "RGB", {}),
    "pgm": ("PPM", "L", {}),
    "pbm": ("PPM", "1", {}),
}
"""name -> format, mode, options of Pillow."""

MOVING = {
    "gif_moving": ("GIF", {"duration": 80, "disposal": 2}),
    "webp_moving": ("WEBP", {"duration": 80, "lossless": True}),
    "png_moving": ("PNG", {"duration": 80, "disposal": 1}),
    "tiff_pages": ("TIFF", {}),
}
VIDEOS = {
    "mp4": ("mp4", "mpeg4"),
    "mp4_h264": ("mp4", "libx264"),
    "webm": ("webm", "libvpx"),
    "avi": ("avi", "mpeg4"),
    "mkv": ("matroska", "mpeg4"),
}


def sound_files() -> dict[str, bytes]:
    """name -> a file that is in order. Videos are among them where PyAV is installed."""
    made = {name: picture(*how) for name, how in PICTURES.items()}
    made |= {
        f"{name}_turned": picture(*PICTURES[name], orientation=6) for name in ("jpeg", "png", "tiff", "webp")
    }
    made |= {name: moving(*how) for name, how in MOVING.items()}
    made["png_interlaced"] = interlaced_png()
    if importlib.util.find_spec("av"):
        made |= {name: video(*how) for name, how in VIDEOS.items()}
    return made


def scene(seed: int = 0, size: tuple[int, int] = (72, 52)) -> Image.Image:
    """Colours that run into one another, with some noise on them."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )
    noisy = np.asarray(coarse).astype(int) + rng.integers(-9, 10, (size[1], size[0], 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def picture(format: str, mode: str, options: dict, orientation: int = 1) -> bytes:
    image = scene()
    if mode in ("I;16", "F"):
        grey = np.asarray(image.convert("L"))
        image = Image.fromarray(
            grey.astype(np.uint16) * 257 if mode == "I;16" else grey.astype(np.float32) / 255
        )
    else:
        image = image.convert(mode)
    if mode == "RGBA":
        image.putalpha(scene(1).convert("L"))
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, format, **options, **({"exif": exif} if orientation > 1 else {}))
    return buffer.getvalue()


def moving(format: str, options: dict) -> bytes:
    frames, buffer = [scene(seed, (48, 36)) for seed in range(6)], io.BytesIO()
    frames[0].save(buffer, format, save_all=True, append_images=frames[1:], **options)
    return buffer.getvalue()


def interlaced_png() -> bytes:
    """Seven passes of grey, which Pillow reads and does not write."""
    grey, passes = np.asarray(scene().convert("L")), b""
    for left, top, across, down in (
        (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)
    ):  # fmt: skip
        passes += b"".join(b"\0" + row.tobytes() for row in grey[top::down, left::across])
    return png(grey.shape[1], grey.shape[0], 8, 0, chunk(b"IDAT", zlib.compress(passes)), interlaced=1)


def video(format: str, codec: str) -> bytes:
    import av

    file = io.BytesIO()
    with av.open(file, "w", format=format) as out:
        stream = out.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 48, "yuv420p", 4
        for number in range(9):
            frame = av.VideoFrame.from_image(scene(number, (64, 48)))
            for packet in stream.encode(frame):
                out.mux(packet)
        for packet in stream.encode():
            out.mux(packet)
    return file.getvalue()


def damaged(whole: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """One to three kinds of damage, one after the other; PNG checksums mended half of the time, as somebody would who
    means it."""
    data = bytearray(whole)
    for how in rng.choice(len(_DAMAGES), rng.integers(1, 4)):
        _DAMAGES[how](data, other, rng)
    mended = mend_checksums(bytes(data)) if rng.random() < 0.5 else bytes(data)
    return mended or b"\0"


def _bytes_changed(data: bytearray, other: bytes, rng: np.random.Generator) -> None:
    for _ in range(rng.integers(1, 7)):
        data[rng.integers(len(data))] = rng.integers(256)


def _bits_flipped(data: bytearray, other: bytes, rng: np.random.Generator) -> None:
    for _ in range(rng.integers(1, 7)):
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))


def _head_changed(data: bytearray, other: bytes, rng: np.random.Generator) -> None:
    data[rng.integers(min(len(data), 64))] = rng.integers(256)


def _number_changed(data: bytearray, other: bytes, rng: np.random.Generator) -> None:
    """A number of two or four bytes becomes an awkward one."""
    value = int(rng.choice([0, 1, 255, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF]))
    code = str(rng.choice(["<I", ">I", "<H", ">H"]))
    size = struct.calcsize(code)
    place = int(rng.integers(max(1, min(len(data), 400) - size)))
    if len(data) >= place + size:
        struct.pack_into(code, data, place, value & (256**size - 1))


def _cut(data: bytearray, other: bytes, rng: np.random.Generator) -> None:
    del data[max(1, int(rng.integers(len(data)))) :]


def _piece_removed(data: bytearray, other: bytes, rng: np.random.Generator) -> None:
    place = int(rng.integers(len(data)))
    del data[max(1, place) : place + int(rng.integers(1, 40))]


def _piece_repeated(data: bytearray, other: bytes, rng: np.random.Generator) -> None:
    place, length = int(rng.integers(len(data))), int(rng.integers(1, 200))
    data[place:place] = data[place : place + length] * int(rng.choice([1, 2, 50]))


def _piece_blanked(data: bytearray, other: bytes, rng: np.random.Generator) -> None:
    place = int(rng.integers(len(data)))
    length = min(len(data) - place, int(rng.integers(1, 100)))
    data[place : place + length] = bytes(length)


def _spliced(data: bytearray, other: bytes, rng: np.random.Generator) -> None:
    """The end of another file."""
    del data[max(1, int(rng.integers(len(data)))) :]
    data += other[int(rng.integers(len(other))) :]


_DAMAGES = (
    _bytes_changed,
    _bits_flipped,
    _head_changed,
    _number_changed,
    _cut,
    _piece_removed,
    _piece_repeated,
    _piece_blanked,
    _spliced,
)


def mend_checksums(data: bytes) -> bytes:
    """A PNG whose chunks have the checksums of what they hold; anything else as it is."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    out, place = bytearray(data), 8
    while place + 12 <= len(out):
        length = int.from_bytes(out[place : place + 4], "big")
        end = place + 8 + length
        if end + 4 > len(out):
            break
        struct.pack_into(">I", out, end, zlib.crc32(out[place + 4 : end]))
        place = end + 4
    return bytes(out)
