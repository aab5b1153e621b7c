"""The only image decoder: any upload becomes an RGB picture on white, or an `ImageError` that names the fix.

Limits are read from the header before a pixel is decoded. `decode` here works in this process, as a script wants it; a
server decodes what strangers send in another one, with limits that no file can break:
`qformer_viz.media.decode_pool`. Loads neither torch nor transformers.
"""

from __future__ import annotations

import hashlib
import io
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import ExifTags, Image

from qformer_viz.errors import ImageError
from qformer_viz.media import heap_fill, image_headers, pixels, png_chunks, video
from qformer_viz.media.image_files import MAX_BYTES, READABLE, file_bytes, short
from qformer_viz.media.image_headers import Header, check_size
from qformer_viz.media.video import Video

if TYPE_CHECKING:
    from qformer_viz.types import ImageSource, OneSource

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
MAX_PIXELS = 64_000_000
WORKING_SIDE = 2048
"""Long side, in pixels, of what is kept: enough for any view, and 12 MB at most where 64 MP would be 192."""

EXACT = 24_000_000
"""Pixels up to which a picture is decoded at its full size before it is reduced; a larger one is halved on the way."""

LENIENT = {
    *("tiff_ccitt", "group3", "group4", "tiff_raw_16", "packbits"),
    *("tiff_jpeg", "jpeg", "tiff_thunderscan", "tiff_sgilog", "tiff_sgilog24"),
}
"""Compressions of TIFF whose decoders leave damaged pixels out and report nothing: such files are decoded twice."""

MAX_TIFF_PAGES = 200
"""Pages of a TIFF that its reader may walk through to count them."""

DAMAGED = (
    "This image file is damaged ({}). Open and save it again as PNG or JPEG, or upload it once more if the transfer "
    "was cut short."
)
# One decode at a time: it bounds the memory of simultaneous uploads, and the warning filter is process-wide.
_DECODING = threading.Lock()
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = {_TURNS[orientation] for orientation in (5, 6, 7, 8)}


@dataclass(frozen=True, eq=False)
class Decoded:
    """An upload made safe.

    image    mode RGB, own aspect ratio, EXIF rotation applied, alpha on white, long side <= WORKING_SIDE
    sha256   of the working size and the working pixels: equal pictures share it whatever their file format
    size     (width, height) after rotation, before the reduction to the working size
    notices  what was done to the picture that its owner should know
    video    where the upload moves, what a model of moving pictures sees of it: `image` is its first frame, `sha256`
             is that of all its frames
    """

    image: Image.Image
    sha256: str
    size: tuple[int, int]
    notices: tuple[str, ...] = ()
    video: Video | None = None

    @property
    def frames(self) -> tuple[Image.Image, ...]:
        return (self.image,) if self.video is None else self.video.frames

    def still(self) -> Decoded:
        """The first frame alone, and a notice that it is."""
        if self.video is None:
            return self
        whole = f" of {self.video.length}" if self.video.length else ""
        notices = (f"Animated: only the first frame{whole} is used.", *self.notices[1:])
        return replace(self, sha256=_digest((self.image,)), notices=notices, video=None)


class _Moving(NamedTuple):
    """What moves, if it is shown, and what there is to say where it is not."""

    video: Video | None
    notices: tuple[str, ...]


class _Keep:
    """Reduces the frames of a film as they come; `size` is that of the first, upright, before it was reduced."""

    def __init__(self) -> None:
        self._size: tuple[int, int] | None = None

    def __call__(self, frame: Image.Image) -> Image.Image:
        image, size = _working(frame)
        self._size = self._size or size
        return image

    @property
    def size(self) -> tuple[int, int]:
        assert self._size is not None, "a film has a frame"
        return self._size


def decode(source: ImageSource, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> Decoded:
    """Decode a path, a `data:` URL, bytes, a PIL image or an array ([h, w] or [h, w, 1 | 3 | 4]); a list of these is a
    film, and so is an animated picture, and a video where PyAV is installed.

    Raises ImageError, and nothing else, for anything that is not an acceptable picture.
    """
    if isinstance(source, Decoded):
        return source
    with _DECODING, warnings.catch_warnings():
        # Pillow warns about odd metadata and large sizes; sizes are judged here, metadata is not used.
        warnings.simplefilter("ignore")
        try:
            return _decode(source, max_pixels, max_bytes)
        except ImageError:
            raise
        except MemoryError:
            raise ImageError(
                "There is not enough memory to open this image. Reduce it to a few megapixels and upload "
                "it again."
            ) from None
        except Exception as error:
            # The parsers raise OSError, SyntaxError, ValueError, struct.error, IndexError and more.
            raise ImageError(DAMAGED.format(short(error))) from error


def _decode(source: ImageSource, max_pixels: int, max_bytes: int) -> Decoded:
    if isinstance(source, (list, tuple)):
        return _decode_pictures(source, max_pixels, max_bytes)
    if isinstance(source, np.ndarray):
        return _still(pixels.from_array(source), max_pixels)
    if isinstance(source, Image.Image):
        return _decode_own(source, max_pixels)
    return _decode_file(file_bytes(source, max_bytes), max_pixels)


def _decode_pictures(given: Sequence[OneSource], max_pixels: int, max_bytes: int) -> Decoded:
    if not given:
        raise ImageError("A film of no pictures. Give at least one.")
    indices = video.sample(len(given))
    seen = {index: _decode(given[index], max_pixels, max_bytes).still() for index in sorted(set(indices))}
    film = video.pictures([seen[index].image for index in indices], indices, len(given))
    return _film(film, film.frames[0].size)


def _decode_own(picture: Image.Image, max_pixels: int) -> Decoded:
    """A PIL image of the caller's, which is left at its first frame."""
    check_size(picture.size, max_pixels)
    keep = _Keep()
    try:
        moving = _moving(picture, Header(), keep)
    except (ImageError, MemoryError):
        raise
    except Exception:
        moving = _Moving(
            None, ()
        )  # a later frame is damaged; whether the picture opens is for the first one to say
    if getattr(picture, "n_frames", 1) > 1:
        picture.seek(0)
    return _film(moving.video, keep.size) if moving.video else _still(picture, max_pixels, moving.notices)


def _decode_file(data: bytes, max_pixels: int) -> Decoded:
    if kind := video.container(data):
        keep = _Keep()
        return _film(video.video(data, kind, keep), keep.size)
    header = image_headers.read(data, max_pixels)
    still = data
    if header.size and data.startswith(png_chunks.SIGNATURE) and header.frames > 1:
        still = png_chunks.without_animation(data)
    fits = header.size is None or header.size[0] * header.size[1] <= video.MAX_CANVAS
    first = _open(data if fits else still)
    check_size(first.size, max_pixels)
    picture: Image.Image | None = first
    keep = _Keep()
    try:
        film, notices = _moving(first, header, keep, data)
    except (ImageError, MemoryError):
        raise
    except Exception:  # a later frame is damaged; whether the file opens is for the first one to say
        film, notices, picture = None, (), None
    if film:
        return _film(film, keep.size)
    if picture is None or notices:
        del first, picture  # the reader would go on from the frame that it failed at
        picture = _open(still)
    return _still(picture, max_pixels, notices, still)


def _still(
    picture: Image.Image, max_pixels: int, notices: tuple[str, ...] = (), data: bytes | None = None
) -> Decoded:
    """The picture that is open, and nothing that comes behind it. data: the file that it is read from, if it is one."""
    check_size(picture.size, max_pixels)
    if not data or picture.format != "TIFF" or picture.info.get("compression") not in LENIENT:
        image, size = _loaded(picture, data)
        return Decoded(image, _digest((image,)), size, (*notices, *_shape_notices(size)))
    with heap_fill.filled(0x55):
        image, size = _loaded(picture, data)
    with heap_fill.filled(0xAA):
        again, _ = _loaded(_open(data), data)
    if image.tobytes() != again.tobytes():
        raise ImageError(DAMAGED.format("some of its pixels are missing"))
    return Decoded(image, _digest((image,)), size, (*notices, *_shape_notices(size)))


def _loaded(picture: Image.Image, data: bytes | None) -> tuple[Image.Image, tuple[int, int]]:
    """(what is kept of an open picture, its size once upright). data: its file, which must have been decoded whole."""
    size = picture.size
    if data and size[0] * size[1] > EXACT and picture.format in ("JPEG", "MPO"):
        picture.draft(picture.mode, (size[0] // 2, size[1] // 2))
    picture.load()
    if data and picture.format == "PNG" and _ends_blank(picture) and not png_chunks.are_whole(data):
        raise ImageError(DAMAGED.format("its rows end early"))
    if data and picture.format == "JPEG" and _ends_grey(picture) and image_headers.jpeg_ends_early(data):
        raise ImageError(DAMAGED.format("its pixels end early"))
    return _working(picture, size)


def _ends_blank(picture: Image.Image) -> bool:
    """Whether the last two rows are as before decoding; one of them is decoded last even where rows are interlaced."""
    width, height = picture.size
    return not np.asarray(picture.crop((0, max(0, height - 2), width, height))).any()


def _ends_grey(picture: Image.Image) -> bool:
    """Whether the last row has the grey that JPEG readers put where pixels are missing."""
    width, height = picture.size
    row = np.asarray(picture.crop((0, height - 1, width, height)))
    return picture.mode in ("L", "RGB") and bool((row == 128).all())


def _film(film: Video, size: tuple[int, int]) -> Decoded:
    """size: of its first frame, upright, before it was reduced."""
    notices = (film.notice, *_shape_notices(size))
    return Decoded(film.frames[0], _digest(film.frames), size, notices, film)


def _digest(frames: Sequence[Image.Image]) -> str:
    digest = hashlib.sha256()
    for frame in frames:
        digest.update(f"{frame.width}x{frame.height}:".encode())
        digest.update(frame.tobytes())
    return digest.hexdigest()


def _open(data: bytes) -> Image.Image:
    """Read the header only; no pixel is decoded here."""
    if not data:
        raise ImageError("This file is empty (0 bytes). Upload the image again.")
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"This image is far too large ({short(error)}). Reduce it to 2000 pixels on the long side."
        ) from error
    except Image.UnidentifiedImageError:
        raise ImageError(
            f"This file is not an image this program can read{_guess(data)}. Save it as {READABLE} and "
            "upload it again."
        ) from None


def _guess(data: bytes) -> str:
    """Name the formats people upload by mistake."""
    if data[4:8] == b"ftyp":
        return " (it looks like HEIC or AVIF)"
    if data[:5] == b"%PDF-":
        return " (it is a PDF)"
    if b"<svg" in data[:1024].lower():
        return " (it is an SVG drawing)"
    if data[:8] == b"\x89PNG\r\n\x1a\n" or data[:2] == b"\xff\xd8":
        return " (its beginning is an image's, the rest is damaged)"
    return ""


def _moving(picture: Image.Image, header: Header, keep: video.Keep, data: bytes = b"") -> _Moving:
    """What of a file that may hold several pictures is shown besides the first, each frame passed through `keep`. data:
    the file, where the picture is read from one."""
    if picture.format == "TIFF":
        count = header.frames if header.frames > MAX_TIFF_PAGES else getattr(picture, "n_frames", 1)
        pages = f"Several pages: only the first page of {count} is used."
        return _Moving(None, (pages,) if count > 1 else ())
    length = getattr(picture, "n_frames", 1)
    count = max(length, header.frames)
    if count <= 1 or picture.format == "MPO":  # MPO: a phone's JPEG with a depth map or preview behind it
        return _Moving(None, ())
    indices = None if header.grows or length < 2 else video.sampled(length, picture.size)
    if indices and picture.format == "PNG" and data and not png_chunks.are_whole(data, indices[-1] + 1):
        indices = None
    film = video.animation(picture, indices, keep) if indices else None
    return _Moving(film, () if film else (f"Animated: only the first frame of {count} is used.",))


def _orientation(picture: Image.Image) -> int:
    """EXIF's number for how the camera was held; 1, upright, where nothing readable says so."""
    try:
        return int(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return 1  # unreadable metadata must not cost the user the picture


def _working(
    picture: Image.Image, size: tuple[int, int] | None = None
) -> tuple[Image.Image, tuple[int, int]]:
    """(what is kept of a picture, its size once upright). size: the file's, where the picture was drafted smaller.

    Pictures of up to EXACT pixels are reduced in one step; larger ones are halved, or more, while they turn RGB.
    """
    turn = _TURNS.get(_orientation(picture))
    width, height = size = size or picture.size
    longest = max(size)
    factor = max(2, longest // (2 * WORKING_SIDE)) if picture.width * picture.height > EXACT else 1
    left = picture.width / factor, picture.height / factor
    kept = pixels.to_rgb(picture, factor)
    if turn is not None:
        kept = kept.transpose(turn)
    if turn in _SIDEWAYS:
        width, height, left = height, width, left[::-1]
    if longest > WORKING_SIDE:
        to = max(1, round(width * WORKING_SIDE / longest)), max(1, round(height * WORKING_SIDE / longest))
        kept = kept.resize(to, Image.Resampling.BICUBIC, box=(0, 0, *left), reducing_gap=3.0)
    if kept is picture:
        kept = picture.copy()  # the caller may go on drawing on its own image
    kept.info.clear()
    return kept, (width, height)


def _shape_notices(size: tuple[int, int]) -> tuple[str, ...]:
    width, height = size
    notices = []
    if max(size) >= 8 * min(size):
        notices.append(
            f"Extreme shape: {width} × {height} is squeezed into the model's square input; crop the part you "
            "care about."
        )
    if min(size) < 16:
        notices.append(f"Tiny image: {width} × {height} pixels hold next to nothing for a model to see.")
    return tuple(notices)
