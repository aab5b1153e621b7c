"""What lies behind the objects: plain, gradient, noisy and textured backgrounds, drawn with numpy.

A `Background` is data; the same data draws the same pixels.
"""

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

BACKGROUNDS = ("plain", "gradient", "noise", "stripes", "checks", "dots", "clouds")


@dataclass(frozen=True)
class Background:
    """`first`, `second`: RGB 0-255; `angle`: degrees; `scale`: pixels per period; `seed`: for noise."""

    kind: str
    first: tuple[int, int, int]
    second: tuple[int, int, int]
    angle: float
    scale: float
    seed: int


def random_background(rng: np.random.Generator, kinds: Sequence[str] = BACKGROUNDS) -> Background:
    """One of the kinds, the two colours alike enough to stay behind the objects."""
    hue, saturation = rng.random(), rng.uniform(0.0, 0.6)
    value = rng.uniform(0.35, 1.0)
    second = (
        (hue + rng.uniform(-0.12, 0.12)) % 1.0,
        saturation,
        float(np.clip(value + rng.uniform(-0.2, 0.2), 0, 1)),
    )
    return Background(
        kind=kinds[int(rng.integers(len(kinds)))],
        first=_rgb(hue, saturation, value),
        second=_rgb(*second),
        angle=round(float(rng.uniform(0, 360)), 1),
        scale=round(float(rng.uniform(12, 40)), 1),
        seed=int(rng.integers(2**31)),
    )


def _rgb(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw_background(background: Background, size: int) -> np.ndarray:
    """Uint8 `[size, size, 3]`."""
    first = np.array(background.first, np.float32)
    if background.kind == "plain":
        return np.broadcast_to(first.astype(np.uint8), (size, size, 3)).copy()
    if background.kind == "noise":
        grain = np.random.default_rng(background.seed).standard_normal((size, size), np.float32)
        return np.clip(first + 0.6 * background.scale * grain[..., None], 0, 255).astype(np.uint8)
    blend = _blend(background, size)
    second = np.array(background.second, np.float32)
    blended: np.ndarray = (first + blend[..., None] * (second - first)).astype(np.uint8)
    return blended


def _blend(background: Background, size: int) -> np.ndarray:
    """Float `[size, size]` in [0, 1]: the share of the second colour."""
    axis = np.arange(size, dtype=np.float32)
    cos, sin = math.cos(math.radians(background.angle)), math.sin(math.radians(background.angle))
    along = cos * axis[None, :] + sin * axis[:, None]
    across = -sin * axis[None, :] + cos * axis[:, None]
    if background.kind == "gradient":
        low, high = along.min(), along.max()
        ramp: np.ndarray = (along - low) / (high - low)
        return ramp
    if background.kind == "stripes":
        return ((along // background.scale) % 2).astype(np.float32)
    if background.kind == "checks":
        return ((along // background.scale + across // background.scale) % 2).astype(np.float32)
    if background.kind == "dots":
        u = along % background.scale - background.scale / 2
        v = across % background.scale - background.scale / 2
        dots: np.ndarray = (u * u + v * v < (0.28 * background.scale) ** 2).astype(np.float32)
        return dots
    if background.kind == "clouds":
        cells = max(2, round(size / background.scale))
        coarse = np.random.default_rng(background.seed).random((cells, cells), np.float32)
        return np.clip(
            np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)), 0, 1
        )
    raise ValueError(f"unknown background {background.kind!r}; choose from {', '.join(BACKGROUNDS)}")
