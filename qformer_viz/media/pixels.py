"""Pixels of any mode and depth as RGB on white, band by band, so that a large picture is held once and not four times.

Every conversion looks at one pixel at a time, so bands give the same picture as the whole at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from qformer_viz.errors import ImageError

BAND = 2_000_000
"""Pixels that are converted at a time."""

_ALPHA = {"RGBA", "LA", "PA", "RGBa", "La"}


def from_array(array: np.ndarray) -> Image.Image:
    """An array [h, w] or [h, w, 1 | 3 | 4] as a picture. Raises ImageError for any other shape or type."""
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ImageError(
            f"An array of shape {array.shape} is no picture; expected [h, w], [h, w, 3] or [h, w, 4]. Move "
            "the colour channels last."
        )
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    return Image.fromarray(_to_bytes(array, _extent([array])))


def to_rgb(picture: Image.Image, factor: int = 1) -> Image.Image:
    """The picture as RGB on white, 16-bit and float samples scaled, not clipped; with `factor` reduced by it, each
    pixel the mean of factor × factor. The picture itself where there is nothing to do."""
    if picture.mode == "RGB" and "transparency" not in picture.info and factor == 1:
        return picture
    convert = _converter(picture)
    if factor == 1 and picture.width * picture.height <= BAND:
        return convert(picture)
    size = -(-picture.width // factor), -(-picture.height // factor)
    out = Image.new("RGB", size)
    for top, band in _bands(picture, factor):
        rgb = convert(band)
        out.paste(rgb.reduce(factor) if factor > 1 else rgb, (0, top // factor))
    return out


def _bands(picture: Image.Image, multiple: int = 1) -> Iterator[tuple[int, Image.Image]]:
    """(top row, rows from there on) over the whole picture, heights a multiple of `multiple` but for the last."""
    rows = max(1, BAND // max(1, picture.width) // multiple) * multiple
    for top in range(0, picture.height, rows):
        yield top, picture.crop((0, top, picture.width, min(picture.height, top + rows)))


def _converter(picture: Image.Image) -> Callable[[Image.Image], Image.Image]:
    if picture.mode.startswith("I") or picture.mode == "F":
        wide = (
            None
            if picture.mode.startswith("I;16")
            else _extent(_samples(band) for _, band in _bands(picture))
        )
        return lambda band: Image.fromarray(_to_bytes(_samples(band), wide)).convert("RGB")
    if "transparency" in picture.info or picture.mode in _ALPHA:
        return _on_white
    return lambda band: band.convert("RGB") if band.mode != "RGB" else band


def _samples(band: Image.Image) -> np.ndarray:
    samples = np.asarray(band)
    return (
        samples.astype(np.uint16) if band.mode.startswith("I;16") else samples
    )  # big-endian files arrive as >u2


def _on_white(band: Image.Image) -> Image.Image:
    layer = band.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _extent(parts: Iterator[np.ndarray] | list[np.ndarray]) -> tuple[float, float] | None:
    """(lowest, highest) sample of numbers that come in no range of their own; None for the other types."""
    low, high = np.inf, -np.inf
    for part in parts:
        if part.dtype in (np.uint8, bool, np.uint16):
            return None
        if part.dtype.kind not in "iuf":
            raise ImageError(f"Pixels of type {part.dtype} cannot be shown; give uint8, uint16 or floats.")
        if part.size == 0:
            continue
        if not np.isfinite(part).all():
            raise ImageError("This image holds NaN or infinite values. Replace them by 0.")
        low, high = min(low, float(part.min())), max(high, float(part.max()))
    return low, high


def _to_bytes(values: np.ndarray, extent: tuple[float, float] | None) -> np.ndarray:
    """Scale numbers to uint8 by the range their type promises: 16 bits over 65535, floats from 0 to 1."""
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    if values.dtype == bool:
        return values.astype(np.uint8) * 255
    if values.dtype == np.uint16:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    low, high = extent or (0.0, 0.0)
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
