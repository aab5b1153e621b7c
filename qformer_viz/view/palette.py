"""Colour scales for attention maps: perceptually ordered, readable with any colour vision.

The one source of colours: Pillow exports read it here, the browser receives `STOPS` inside the payload.
Needs numpy only.
"""

from functools import cache

import numpy as np

from qformer_viz.errors import BadSelection

LEVELS = 256

# Equally spaced sRGB control points of published scales: viridis, magma, inferno (Smith, van der Walt 2015),
# cividis (Nunez, Anderton, Renslow 2018). Lightness rises from end to end in each.
STOPS: dict[str, tuple[str, ...]] = {
    "viridis": (
        "#440154", "#482475", "#414487", "#355f8d", "#2a788e", "#21918c",
        "#22a884", "#44bf70", "#7ad151", "#bddf26", "#fde725",
    ),
    "magma": (
        "#000004", "#140e36", "#3b0f70", "#641a80", "#8c2981", "#b73779",
        "#de4968", "#f7705c", "#fe9f6d", "#fecf92", "#fcfdbf",
    ),
    "inferno": (
        "#000004", "#160b39", "#420a68", "#6a176e", "#932667", "#bc3754",
        "#dd513a", "#f37819", "#fca50a", "#f6d746", "#fcffa4",
    ),
    "cividis": (
        "#00224e", "#123570", "#3b496c", "#575d6d", "#707173",
        "#8a8678", "#a59c74", "#c3b369", "#e1cc55", "#fee838",
    ),
    "grey": ("#000000", "#ffffff"),
}  # fmt: skip
DEFAULT = "viridis"
# Less to more around a neutral middle: PuOr (Brewer 2003), told apart with any colour vision.
DIVERGING: tuple[str, ...] = ("#2d004b", "#542788", "#8073ac", "#f7f7f7", "#e08214", "#b35806", "#7f3b08")

# Outlines of compared queries: Okabe and Ito (2008), without black, which a dark image would swallow.
OUTLINES: tuple[str, ...] = (
    "#e69f00",
    "#56b4e9",
    "#009e73",
    "#f0e442",
    "#0072b2",
    "#d55e00",
    "#cc79a7",
    "#ffffff",
)


def rgb(colour: str) -> tuple[int, int, int]:
    """`#rrggbb` as three integers."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


@cache
def table(name: str) -> np.ndarray:
    """uint8 `[256, 3]`: the scale from zero to its top, linear in sRGB between the control points."""
    if name not in STOPS:
        raise BadSelection(f"colour scale {name!r}", f"one of {', '.join(STOPS)}", "choose a listed scale")
    stops = np.array([rgb(stop) for stop in STOPS[name]], float)
    at = np.arange(LEVELS) * (len(stops) - 1) / (LEVELS - 1)
    channels = [np.interp(at, np.arange(len(stops)), stops[:, c]) for c in range(3)]
    # Half up, as Math.floor(x + 0.5) does in the browser: both draw the same bytes.
    colours = np.floor(np.stack(channels, 1) + 0.5).astype(np.uint8)
    colours.setflags(write=False)
    return colours


def cover(values: np.ndarray, top: float, opacity: float) -> np.ndarray:
    """Float `[...]`: how much of the picture values cover, on the scale 0..top. Nothing at zero,
    `opacity` at the top; between them by the square root of the share. `cover` of stage.paint.js is the same."""
    share = np.clip(np.asarray(values, float) / top, 0, 1) if top > 0 else np.zeros(np.shape(values))
    return opacity * np.sqrt(share)


def colour(values: np.ndarray, top: float, name: str = DEFAULT) -> np.ndarray:
    """uint8 `[..., 3]` for values on the scale 0..top; what lies outside takes the colour of the end."""
    share = np.clip(np.asarray(values, float) / top, 0, 1) if top > 0 else np.zeros(np.shape(values))
    return table(name)[np.floor(share * (LEVELS - 1) + 0.5).astype(int)]
