"""The only image decoder: any upload becomes an RGB picture on white, or an `ImageError` that names the fix.

Limits are read from the header before a pixel is decoded. Loads neither torch nor transformers.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import threading
import urllib.parse
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from model import films
from model.errors import ImageError
from model.films import Film

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
MAX_BYTES = 20 * 2**20
MAX_PIXELS = 64_000_000
WORKING_SIDE = 2048
"""Long side, in pixels, of what is kept: enough for any view, and 12 MB at most where 64 MP would be 192."""

_READABLE = "JPEG, PNG, WebP, GIF, BMP or TIFF"
# One decode at a time: it bounds the memory of simultaneous uploads, and the warning filter is process-wide.
_DECODING = threading.Lock()


@dataclass(frozen=True, eq=False)
class Decoded:
    """An upload made safe.

    image    mode RGB, own aspect ratio, EXIF rotation applied, alpha on white, long side <= WORKING_SIDE
    sha256   of the working size and the working pixels: equal pictures share it whatever their file format
    size     (width, height) after rotation, before the reduction to the working size
    notices  what was done to the picture that its owner should know
    film     where the upload moves, what a model of moving pictures sees of it: `image` is its first frame, `sha256`
             is that of all its frames
    """

    image: Image.Image
    sha256: str
    size: tuple[int, int]
    notices: tuple[str, ...] = ()
    film: Film | None = None

    @property
    def frames(self) -> tuple[Image.Image, ...]:
        return (self.image,) if self.film is None else self.film.frames

    def still(self) -> Decoded:
        """The first frame alone, and a notice that it is."""
        if self.film is None:
            return self
        whole = f" of {self.film.length}" if self.film.length else ""
        notices = (f"Animated: only the first frame{whole} is used.", *self.notices[1:])
        return replace(self, sha256=_digest((self.image,)), notices=notices, film=None)


def decode(source: Any, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> Decoded:
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
            raise ImageError(
                f"This image file is damaged ({_short(error)}). Open and save it again as PNG or JPEG, or "
                "upload it once more if the transfer was cut short."
            ) from error


def _decode(source: Any, max_pixels: int, max_bytes: int) -> Decoded:
    if isinstance(source, (list, tuple)):
        return _decode_pictures(source, max_pixels, max_bytes)
    if isinstance(source, np.ndarray):
        picture = _from_array(source)
    elif isinstance(source, Image.Image):
        picture = source
    else:
        data = _read(source, max_bytes)
        if kind := films.container(data):
            film = films.video(data, kind)
            return _finished(film.frames[0], film, ())
        picture = _open(data)
    width, height = picture.size
    if width * height > max_pixels:
        raise ImageError(
            f"This image is {width} × {height} = {width * height / 1e6:.0f} megapixels; at most "
            f"{max_pixels / 1e6:.4g} are accepted. Reduce it (2000 pixels on the long side are plenty) and "
            "upload it again."
        )
    if width * height == 0:
        raise ImageError(f"This image is {width} × {height}: it has no pixels. Choose another one.")
    film, notices = _frames(picture)
    picture.load()
    return _finished(picture, film, notices)


def _decode_pictures(given: Sequence[Any], max_pixels: int, max_bytes: int) -> Decoded:
    if not given:
        raise ImageError("A film of no pictures. Give at least one.")
    indices = films.sample(len(given))
    seen = {index: _decode(given[index], max_pixels, max_bytes).still() for index in sorted(set(indices))}
    film = films.pictures([seen[index].image for index in indices], indices, len(given))
    return _finished(film.frames[0], film, ())


def _finished(picture: Image.Image, film: Film | None, notices: tuple[str, ...]) -> Decoded:
    """What is kept of a picture, or of the frames of a film."""
    upright = _upright(picture)
    shape = _shape_notices(upright.size)
    if film is None:
        frames = (_working(upright),)
        return Decoded(frames[0], _digest(frames), upright.size, (*notices, *shape))
    frames = tuple(_working(_upright(frame)) for frame in film.frames)
    notices = (film.notice, *shape)
    return Decoded(frames[0], _digest(frames), upright.size, notices, replace(film, frames=frames))


def _working(upright: Image.Image) -> Image.Image:
    working = _reduce(_to_rgb(upright))
    working.info.clear()
    return working


def _digest(frames: Sequence[Image.Image]) -> str:
    digest = hashlib.sha256()
    for frame in frames:
        digest.update(f"{frame.width}x{frame.height}:".encode())
        digest.update(frame.tobytes())
    return digest.hexdigest()


def _read(source: Any, max_bytes: int) -> bytes:
    """Bytes of a path, a data URL or a byte string, never more than `max_bytes`."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        _check_bytes(len(source), max_bytes)
        return bytes(source)
    if isinstance(source, str) and source[:5].lower() == "data:":
        return _read_data_url(source, max_bytes)
    if isinstance(source, str) and source.split("://")[0].lower() in {"http", "https", "ftp", "file"}:
        raise ImageError(
            "Images are not fetched from web addresses. Download the picture and upload the file itself."
        )
    if not isinstance(source, (str, Path)) or not str(source):
        raise ImageError(
            f"Expected an image file, got {_kind(source)}. Upload a {_READABLE} file (from Python: a path, "
            "bytes, a data: URL, a PIL image or an array)."
        )
    path = Path(source)
    if not path.is_file():
        raise ImageError(f"There is no file {path.name!r}. Check the path, or upload the image again.")
    _check_bytes(path.stat().st_size, max_bytes)
    return path.read_bytes()


def _read_data_url(url: str, max_bytes: int) -> bytes:
    header, comma, payload = url.partition(",")
    if not comma:
        raise ImageError("This data: URL has no comma before its content. Send data:image/png;base64,....")
    if not header.lower().endswith(";base64"):
        _check_bytes(len(payload) // 3, max_bytes)  # one byte may be written as three characters, %FF
        data = urllib.parse.unquote_to_bytes(payload)
        _check_bytes(len(data), max_bytes)
        return data
    _check_bytes(len(payload) * 3 // 4 - 2, max_bytes)
    try:
        return base64.b64decode(urllib.parse.unquote_to_bytes(payload), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError(
            f"The base64 content of this data: URL is damaged ({_short(error)}). Encode the file again."
        ) from error


def _check_bytes(count: int, max_bytes: int) -> None:
    if count > max_bytes:
        raise ImageError(
            f"This file has {count / 2**20:.1f} MiB; at most {max_bytes / 2**20:.4g} MiB are accepted. Save "
            "it as JPEG or reduce its size, and upload it again."
        )


def _open(data: bytes) -> Image.Image:
    """Read the header only; no pixel is decoded here."""
    if not data:
        raise ImageError("This file is empty (0 bytes). Upload the image again.")
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"This image is far too large ({_short(error)}). Reduce it to 2000 pixels on the long side."
        ) from error
    except Image.UnidentifiedImageError:
        raise ImageError(
            f"This file is not an image this program can read{_guess(data)}. Save it as {_READABLE} and "
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


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ImageError(
            f"An array of shape {array.shape} is no picture; expected [h, w], [h, w, 3] or [h, w, 4]. Move "
            "the colour channels last."
        )
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    return Image.fromarray(_to_bytes(array))


def _to_bytes(values: np.ndarray) -> np.ndarray:
    """Scale numbers to uint8 by the range their type promises: 16 bits over 65535, floats from 0 to 1."""
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    if values.dtype == bool:
        return values.astype(np.uint8) * 255
    if values.dtype == np.uint16:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if values.dtype.kind not in "iuf":
        raise ImageError(f"Pixels of type {values.dtype} cannot be shown; give uint8, uint16 or floats.")
    if not np.isfinite(values).all():
        raise ImageError("This image holds NaN or infinite values. Replace them by 0.")
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 1 and values.dtype.kind == "f":
        scale, offset = 255.0, 0.0
    elif low >= 0 and high <= 255:
        scale, offset = 1.0, 0.0
    elif low >= 0 and high <= 65535:
        scale, offset = 1 / 257, 0.0
    else:
        # 32-bit samples come in no agreed range: show all of it.
        scale, offset = 255 / max(high - low, 1e-30), low
    return np.clip((values.astype(np.float64) - offset) * scale + 0.5, 0, 255).astype(np.uint8)


def _frames(picture: Image.Image) -> tuple[Film | None, tuple[str, ...]]:
    """(what moves, notices) of a file that may hold several pictures; it is left at the first."""
    try:
        count = getattr(picture, "n_frames", 1)
        if count > 1:
            picture.seek(0)
    except Exception:
        picture.seek(0)
        return None, ()  # a later frame is damaged; whether the file opens is for the first one to say
    if count <= 1 or picture.format == "MPO":  # MPO: a phone's JPEG with a depth map or preview behind it
        return None, ()
    if picture.format == "TIFF":
        return None, (f"Several pages: only the first page of {count} is used.",)
    film = films.animation(picture)
    return film, () if film else (f"Animated: only the first frame of {count} is used.",)


def _upright(picture: Image.Image) -> Image.Image:
    """A copy, EXIF rotation applied: the caller may go on drawing on its own image."""
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:
        return picture.copy()  # unreadable metadata must not cost the user the picture


def _to_rgb(picture: Image.Image) -> Image.Image:
    """RGB on white, whatever the mode; 16-bit and float samples scaled, not clipped."""
    if picture.mode.startswith("I") or picture.mode == "F":
        samples = np.asarray(picture)
        if picture.mode.startswith("I;16"):
            samples = samples.astype(np.uint16)  # big-endian files arrive as >u2
        return Image.fromarray(_to_bytes(samples)).convert("RGB")
    if "transparency" in picture.info or picture.mode in {"RGBA", "LA", "PA", "RGBa", "La"}:
        layer = picture.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return picture.convert("RGB") if picture.mode != "RGB" else picture


def _reduce(picture: Image.Image) -> Image.Image:
    longest = max(picture.size)
    if longest <= WORKING_SIDE:
        return picture
    width, height = (max(1, round(side * WORKING_SIDE / longest)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)


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


def _kind(value: Any) -> str:
    return "nothing" if value is None or value == "" else f"a value of type {type(value).__name__}"


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 120 else text[:119] + "…"
