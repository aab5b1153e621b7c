"""Where a model's square input lies on a picture: measured by running the image processor, for its settings do not tell
(classes ignore some of them, and crop, pad and round in ways of their own)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from qformer_viz.errors import CheckpointError, ImageError
from qformer_viz.runtime.lru_cache import LRUCache

if TYPE_CHECKING:
    from transformers import BaseImageProcessor

Box = tuple[float, float, float, float]
Size = tuple[int, int]

KEPT = 256
LEAST = 32
"""Pixels of the shorter side of a picture that can be measured: a ramp over a few has no slope."""
SHAPES: tuple[Size, ...] = ((64, 48), (48, 64), (56, 56), (600, 100), (100, 600), (700, 500))
"""A processor that shows all of these whole squashes every picture."""
_UNFIT = (ValueError, TypeError, KeyError, IndexError, RuntimeError)
"""What the libraries raise where settings and picture do not go together."""
_LEVELS = 255
_DITHER = 16


@dataclass(frozen=True)
class Placement:
    """Which part of a picture a model's input shows.

    size  (width, height) of the picture as decoded, in pixels
    box   (left, top, right, bottom) of the input in those pixels; what lies outside the picture is padding
    """

    size: Size
    box: Box

    @property
    def whole(self) -> bool:
        """Whether the input is the picture, squashed into a square."""
        return self.box == (0, 0, *self.size)

    @property
    def shares(self) -> Box:
        """The box in shares of the picture's width and height."""
        (width, height), (left, top, right, bottom) = self.size, self.box
        return left / width, top / height, right / width, bottom / height

    @property
    def unseen(self) -> float:
        """Share of the picture that the input does not show."""
        left, top, right, bottom = (min(max(share, 0.0), 1.0) for share in self.shares)
        return 1 - (right - left) * (bottom - top)

    @property
    def padding(self) -> float:
        """Share of the input that shows nothing of the picture."""
        left, top, right, bottom = self.shares
        return 1 - (1 - self.unseen) / ((right - left) * (bottom - top))

    @property
    def notice(self) -> str:
        """What the picture's owner should know, "" where all of it is seen."""
        sentences = []
        if self.unseen >= 0.001:
            left, top, right, bottom = self.shares
            central = abs(left + right - 1) < 0.05 and abs(top + bottom - 1) < 0.05
            part = "the middle" if central else "a part"
            sentences.append(
                f"The model sees only {part} of this picture: {self.unseen:.0%} was cut off by its image processor."
            )
        if self.padding >= 0.001:
            sentences.append(
                f"The image processor pads this picture to a square: {self.padding:.0%} of the model's input is "
                "padding."
            )
        return " ".join(sentences)


class Placer:
    """The placements of one image processor, kept by the picture's size."""

    def __init__(self, image_processor: BaseImageProcessor) -> None:
        self._processor = image_processor
        self._known: LRUCache[Placement] = LRUCache(KEPT)

    @cached_property
    def squashes(self) -> bool:
        """Whether every picture is squashed whole, so that none needs to be measured."""
        return all(measure(self._processor, size).whole for size in SHAPES)

    def __call__(self, size: Size) -> Placement:
        """The placement of a picture of (width, height).

        Raises ImageError for a size that the processor cannot prepare, CheckpointError as `measure` does.
        """
        if self.squashes:
            return Placement(size, (0, 0, *size))
        known = self._known.get(size)
        if known is None:
            known = self._measured(size)
            self._known.put(size, known)
        return known

    def _measured(self, size: Size) -> Placement:
        try:
            return measure(self._processor, size)
        except _UNFIT as error:
            raise ImageError(
                f"This model's image processor cannot prepare a picture of {size[0]} × {size[1]} ({error}). Choose one "
                "that is less thin."
            ) from error


def measure(image_processor: BaseImageProcessor, size: Size) -> Placement:
    """Find the part of a picture that an image processor shows to its model.

    The processor prepares a black and a white picture, which tell its normalisation and its padding, and two ramps,
    which tell for every pixel of its output how far right and how far down in the picture it comes from.

    Args:
        image_processor: prepares a list of pictures as `pixel_values` [b, c, h, w].
        size: (width, height) of the picture.

    Raises:
        CheckpointError: where the output is no upright rectangle of the picture, on which a patch grid can lie.
    """
    enlarged = getattr(image_processor, "do_resize", True)
    times = math.ceil(LEAST / min(size)) if enlarged and min(size) < LEAST else 1
    width, height = (side * times for side in size)

    def run(levels: np.ndarray) -> np.ndarray:
        grey = np.broadcast_to(levels.astype(np.uint8), (height, width))
        picture = Image.fromarray(np.ascontiguousarray(grey)).convert("RGB")
        pixels = np.asarray(image_processor([picture], return_tensors="pt")["pixel_values"], np.float64)
        if pixels.ndim != 4 or len(pixels) != 1:
            raise _refused(size, f"it makes pixel_values of shape {list(pixels.shape)} of one picture")
        return pixels[0].mean(0)

    black, white = run(np.zeros((1, 1))), run(np.full((1, 1), _LEVELS))
    contrast = np.abs(white - black)
    if not contrast.max() > 0:
        raise _refused(size, "black and white pictures come out alike")
    seen = contrast > 0.99 * contrast.max()
    span = np.where(seen, white - black, 1)
    edges = []
    for axis, side in ((1, width), (0, height)):
        found = np.where(seen, (run(_ramp(width, height, axis)) - black) / span, np.nan) * side
        edges.append(_fitted(found if axis else found.T, side, size))
    (left, right), (top, bottom) = edges
    return Placement(size, (left / times, top / times, right / times, bottom / times))


def check(name: str, image_processor: BaseImageProcessor) -> None:
    """Refuse an image processor whose input is no upright rectangle of the picture."""
    for size in SHAPES:
        try:
            measure(image_processor, size)
        except CheckpointError as error:
            raise CheckpointError(f"{name}: {error}") from error
        except _UNFIT as error:
            raise CheckpointError(
                f"{name}: the image processor cannot prepare a picture of {size[0]}×{size[1]} ({error}). Save the "
                "processor that the model was trained with."
            ) from error


def _ramp(width: int, height: int, axis: int) -> np.ndarray:
    """Levels that rise from 0 to 255 along an axis; the fractions are spread over the other axis, so that its mean is
    finer than a level."""
    side, other = (width, height) if axis else (height, width)
    along = (np.arange(side) + 0.5) / side * _LEVELS
    across = (np.arange(other) % _DITHER + 0.5) / _DITHER
    levels = np.minimum(np.floor(along[None] + across[:, None]), _LEVELS)
    return levels if axis else levels.T


def _fitted(found: np.ndarray, side: int, size: Size) -> tuple[float, float]:
    """Where the output's first and last edge lie along one side of the picture, in its pixels.

    found: for every pixel of the output [other, along] where it comes from, NaN where it is padding.
    """
    rows, columns = (~np.isnan(found).all(1), ~np.isnan(found).all(0))
    inner = found[np.ix_(rows, columns)]
    if np.isnan(inner).any():
        raise _refused(size, "what it shows of the picture is no rectangle")
    centres, means = np.flatnonzero(columns) + 0.5, inner.mean(0)
    step = max(1.0, np.ptp(means) / max(1, len(means) - 1))
    middle = (means > step) & (
        means < side - step
    )  # at its ends a picture is continued, which bends the ramp
    if middle.sum() < 4:
        if columns.all():
            raise _refused(size, "too little of the picture is left to see where it lies")
        slope = side / columns.sum()  # padding beside it: nothing was cut off along this side
        first = np.flatnonzero(columns)[0]
        return float(slope * -first), float(slope * (len(columns) - first))
    slope, start = np.polyfit(centres[middle], means[middle], 1)
    if slope <= 0:
        raise _refused(size, "it turns or mirrors the picture")
    off = np.abs(slope * centres[middle] + start - means[middle]).max()
    half = max(1, len(inner) // 2)
    slant = np.abs(inner[:half].mean(0) - inner[-half:].mean(0))[middle].max()
    if max(off, slant) > max(slope, 1.0, 1.5 * side / _LEVELS):
        raise _refused(size, "it bends or turns the picture")
    first, last = start, start + slope * found.shape[1]
    near = slope / 2
    return 0.0 if abs(first) < near else float(first), float(side) if abs(last - side) < near else float(last)


def _refused(size: Size, why: str) -> CheckpointError:
    return CheckpointError(
        f"The image processor's output of a picture of {size[0]}×{size[1]} is not an upright rectangle of it ({why}), "
        "so no patch can be laid over the pixels it came from. Use one that resizes, crops or pads, such as "
        "BlipImageProcessor, or save the processor that the model was trained with."
    )
