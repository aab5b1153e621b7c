"""Where a map lies on its picture: on all of it, unless the model's input shows another part
(`qformer_viz.runtime.input_placement`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from qformer_viz.types import EncodedImage

Box = tuple[float, float, float, float]


class Placement(Protocol):
    """What a pipeline tells of one picture. `shares`: (left, top, right, bottom) of the model's input in shares of the
    picture's width and height, below 0 and above 1 where it was padded; `notice`: a sentence about it."""

    @property
    def whole(self) -> bool: ...

    @property
    def shares(self) -> Box: ...

    @property
    def notice(self) -> str: ...


def box(placement: Placement | None) -> Box | None:
    """(left, top, right, bottom) in shares of the picture, None where the patch grid covers all of it."""
    return None if placement is None or placement.whole else placement.shares


def of(encoded: EncodedImage, frame: int = 0) -> Placement | None:
    """The placement of one frame of an encoded image; None where its pipeline tells of none."""
    return encoded.placements[frame] if encoded.placements else None


def placed(encoded: EncodedImage, frame: int) -> tuple[Placement, ...]:
    """The placement of one frame as `canvas_payload` takes it for a single picture."""
    return encoded.placements[frame : frame + 1]


def in_padding(grid: tuple[int, int], where: Box) -> np.ndarray:
    """Which patches [gh, gw] show nothing of the picture."""
    left, top, right, bottom = where
    outside = []
    for count, start, end in ((grid[0], top, bottom), (grid[1], left, right)):
        edges = start + (end - start) * np.arange(count + 1) / count
        outside.append((edges[1:] <= 1e-6) | (edges[:-1] >= 1 - 1e-6))
    rows, columns = outside
    return rows[:, None] | columns[None]


def aspect(size: tuple[int, int], where: Box | None) -> float:
    """Width over height of what the map covers, on a picture of this size."""
    left, top, right, bottom = where or (0, 0, 1, 1)
    return size[0] * (right - left) / (size[1] * (bottom - top))


def note(placement: Placement | None, grid: tuple[int, int], values: np.ndarray) -> str:
    """The placement's notice, and the attention that lies on padding; "" where the map covers the whole picture."""
    where = box(placement)
    if placement is None or where is None:
        return ""
    on = values[in_padding(grid, where)].sum()
    share = f"{100 * on:.1f} % of the attention is on patches of padding." if placement.notice and on else ""
    return " ".join(filter(None, (placement.notice, share)))
