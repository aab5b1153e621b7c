"""The bytes of an upload, from wherever it comes: a path, a `data:` URL or bytes, never more than are accepted."""

from __future__ import annotations

import base64
import binascii
import urllib.parse
from pathlib import Path
from typing import Any

from qformer_viz.errors import ImageError

MAX_BYTES = 20 * 2**20
READABLE = "JPEG, PNG, WebP, GIF, BMP or TIFF"


def file_bytes(source: object, max_bytes: int = MAX_BYTES) -> bytes:
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
            f"Expected an image file, got {_kind(source)}. Upload a {READABLE} file (from Python: a path, "
            "bytes, a data: URL, a PIL image or an array)."
        )
    path = Path(source)
    try:
        if not path.is_file():
            raise ImageError(f"There is no file {path.name!r}. Check the path, or upload the image again.")
        _check_bytes(path.stat().st_size, max_bytes)
        return path.read_bytes()
    except PermissionError:
        raise ImageError(
            f"The file {path.name!r} is there, but this program may not read it. Allow it to (on Linux and macOS: "
            "chmod a+r, and a+x for its folders), or choose a copy of your own."
        ) from None
    except OSError as error:
        raise ImageError(
            f"The file {path.name!r} cannot be read ({short(error)}). Check the disk or the network that it is on, or "
            "choose a copy."
        ) from error


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
            f"The base64 content of this data: URL is damaged ({short(error)}). Encode the file again."
        ) from error


def _check_bytes(count: int, max_bytes: int) -> None:
    if count > max_bytes:
        raise ImageError(
            f"This file has {count / 2**20:.1f} MiB; at most {max_bytes / 2**20:.4g} MiB are accepted. Save "
            "it as JPEG or reduce its size, and upload it again."
        )


def _kind(value: Any) -> str:
    return "nothing" if value is None or value == "" else f"a value of type {type(value).__name__}"


def short(error: BaseException) -> str:
    """What an error says, in one line of at most 120 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 120 else text[:119] + "…"
