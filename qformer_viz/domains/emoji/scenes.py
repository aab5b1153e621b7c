"""Scenes of one to four emoji objects, rendered with their true masks.

A `Scene` is data (JSON round trip); `render` draws it at 224 x 224 and knows every object's visible pixels.
Needs numpy and Pillow only.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from qformer_viz.asset_folder import ASSETS
from qformer_viz.domains.emoji.backgrounds import BACKGROUNDS, Background, draw_background, random_background
from qformer_viz.errors import SceneError

SceneData = dict[str, Any]
"""A scene as JSON holds it: objects, background, seed."""

SHEETS = ASSETS / "emoji"
NOUNS: tuple[str, ...] = tuple(json.loads((SHEETS / "nouns.json").read_text()))
STYLES = ("noto", "twemoji", "fluent-emoji-flat", "fluent-emoji", "emojione")
# Further artwork from which the ViT learns what a noun can look like; no scene of the domain is drawn with it, and some
# nouns are missing from most of these sets.
TEACHING_STYLES = (
    "openmoji",
    "emojione-v1",
    "streamline-emojis",
    "emojione-monotone",
    "fluent-emoji-high-contrast",
    "mdi",
    "game-icons",
    "ph",
)
# Never drawn in training, with the nouns that they hold.
_NOT_IN_FXEMOJI = ("rabbit", "crab", "butterfly", "owl", "duck", "carrot", "egg", "drum", "shoe")
UNSEEN_STYLES: dict[str, tuple[str, ...]] = {
    "noto-v1": NOUNS,
    "fxemoji": tuple(noun for noun in NOUNS if noun not in _NOT_IN_FXEMOJI),
}
LAYOUTS = ("row", "column", "grid", "scatter")
IMAGE_SIZE = 224
MAX_OBJECTS = 4
CELL = 96
SHEET_COLUMNS = 8
# Meshes a side by which a drawing is bent, and how far their knots move, as a share of its sides.
MESHES, BEND = 3, 0.07

ZONE = IMAGE_SIZE / 3
ZONE_MARGIN = 8.0
# Gaps between the levels keep the word for a size unambiguous.
SIZE_LEVELS = {"small": (40.0, 50.0), "medium": (60.0, 74.0), "large": (88.0, 104.0)}
# Centres at least this share of the summed sizes apart: corners may overlap, bodies do not.
SEPARATION = 0.42
ZONES = (
    ("top left", "top", "top right"),
    ("left", "center", "right"),
    ("bottom left", "bottom", "bottom right"),
)


@dataclass(frozen=True)
class SceneObject:
    """One drawing. `x`, `y`: centre in pixels; `size`: longer side in pixels before rotation;
    `angle`: degrees counter-clockwise; `hue`: degrees; `saturation`, `brightness`: factors; `warp`: seed of a bend of
    the drawing itself, 0 leaves it as it is."""

    noun: str
    style: str
    x: float
    y: float
    size: float
    angle: float = 0.0
    flip: bool = False
    hue: float = 0.0
    saturation: float = 1.0
    brightness: float = 1.0
    warp: int = 0


@dataclass(frozen=True)
class Scene:
    """Objects in drawing order (later ones in front), on a background; `seed` says where it came from."""

    objects: tuple[SceneObject, ...]
    background: Background
    seed: int | None = None

    def to_dict(self) -> SceneData:
        """The scene as JSON holds it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: SceneData) -> "Scene":
        """The scene from what `to_dict` returned or JSON holds.

        Raises:
            KeyError, TypeError: the data is of something else.
        """
        background: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in data["background"].items()
        }
        objects = tuple(SceneObject(**item) for item in data["objects"])
        return cls(objects, Background(**background), data["seed"])


@dataclass(frozen=True)
class Rendered:
    """`image`: RGB, 224 x 224; `masks`: bool `[n, 224, 224]`, the visible pixels of each object;
    `boxes`: int `[n, 4]`, left, top, right, bottom (exclusive) of those pixels."""

    image: Image.Image
    masks: np.ndarray
    boxes: np.ndarray


@cache
def _glyph(style: str, noun: str) -> tuple[Image.Image, ...]:
    """The drawing cropped to its own extent, at full and half resolution."""
    cell = _cell(style, noun)
    glyph = cell.crop(_extent(cell))
    half = (max(1, glyph.width // 2), max(1, glyph.height // 2))
    return glyph, glyph.resize(half, Image.Resampling.BOX)


@cache
def has_drawing(style: str, noun: str) -> bool:
    """Whether a set of artwork holds a noun."""
    return _extent(_cell(style, noun)) is not None


def _cell(style: str, noun: str) -> Image.Image:
    row, column = divmod(NOUNS.index(noun), SHEET_COLUMNS)
    return _sheet(style).crop((column * CELL, row * CELL, (column + 1) * CELL, (row + 1) * CELL))


def _extent(cell: Image.Image) -> tuple[int, int, int, int] | None:
    return cell.getchannel("A").point(lambda a: 255 * (a > 8)).getbbox()


@cache
def _sheet(style: str) -> Image.Image:
    return Image.open(SHEETS / f"{style}.png").convert("RGBA")


def _warped(glyph: Image.Image, seed: int) -> Image.Image:
    """The drawing stretched and bent: a net of 3 x 3 meshes over it, with its knots moved."""
    rng = np.random.default_rng(seed)
    stretch = float(np.exp(rng.uniform(-0.3, 0.3)))
    width, height = round(glyph.width * stretch**0.5), round(glyph.height * stretch**-0.5)
    knots = np.stack(np.meshgrid(*[np.linspace(0, 1, MESHES + 1)] * 2), -1)
    moved = (knots + rng.uniform(-BEND, BEND, knots.shape)) * glyph.size
    left, top = (np.linspace(0, side, MESHES + 1).round().astype(int).tolist() for side in (width, height))
    meshes = [
        (
            (left[x], top[y], left[x + 1], top[y + 1]),
            tuple(moved[[y, y + 1, y + 1, y], [x, x, x + 1, x + 1]].ravel().tolist()),
        )
        for y in range(MESHES)
        for x in range(MESHES)
    ]
    return glyph.transform((width, height), Image.Transform.MESH, meshes, Image.Resampling.BILINEAR)


def _colour_matrix(hue: float, saturation: float, brightness: float) -> tuple[float, ...]:
    """Hue rotation about the luminance axis, then saturation and brightness, as Pillow's 3 x 4 matrix."""
    luma = np.array([0.2126, 0.7152, 0.0722])
    cos, sin = math.cos(math.radians(hue)), math.sin(math.radians(hue))
    axis = np.ones((3, 3)) / 3
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    rotate = cos * np.eye(3) + (1 - cos) * axis + sin * cross
    saturate = saturation * np.eye(3) + (1 - saturation) * np.tile(luma, (3, 1))
    return tuple(np.hstack([brightness * saturate @ rotate, np.zeros((3, 1))]).ravel())


def _draw(item: SceneObject) -> tuple[Image.Image, Image.Image, tuple[int, int]]:
    """The object's colours, its alpha, and where its top left corner goes."""
    levels = _glyph(item.style, item.noun)
    scale = item.size / max(levels[0].size)
    glyph = levels[1] if scale < 0.6 else levels[0]
    if item.warp:
        glyph = _warped(glyph, item.warp)
    scale = item.size / max(glyph.size)
    cos, sin = math.cos(math.radians(item.angle)), math.sin(math.radians(item.angle))
    width, height = (side * scale for side in glyph.size)
    out_w = math.ceil(abs(width * cos) + abs(height * sin)) + 2
    out_h = math.ceil(abs(width * sin) + abs(height * cos)) + 2
    left, top = math.floor(item.x - out_w / 2), math.floor(item.y - out_h / 2)
    # Pillow wants the inverse map: from a pixel of the result to a point of the drawing.
    mirror = -1.0 if item.flip else 1.0
    a, b = mirror * cos / scale, -mirror * sin / scale
    d, e = sin / scale, cos / scale
    cx, cy = item.x - left, item.y - top
    matrix = (a, b, glyph.width / 2 - a * cx - b * cy, d, e, glyph.height / 2 - d * cx - e * cy)
    drawn = glyph.transform((out_w, out_h), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    alpha = drawn.getchannel("A")
    colour = drawn.convert("RGB")
    if (item.hue, item.saturation, item.brightness) != (0.0, 1.0, 1.0):
        colour = colour.convert("RGB", _colour_matrix(item.hue, item.saturation, item.brightness))
    return colour, alpha, (left, top)


def render(scene: Scene, size: int = IMAGE_SIZE) -> Rendered:
    """Draw the scene, or its top left `size` pixels.

    A pixel belongs to the front-most object that covers at least half of it.
    """
    canvas = Image.fromarray(draw_background(scene.background, size))
    owner = np.full((size, size), -1, np.int8)
    for index, item in enumerate(scene.objects):
        if not -item.size < min(item.x, item.y) <= max(item.x, item.y) < size + item.size:
            continue
        colour, alpha, (left, top) = _draw(item)
        canvas.paste(colour, (left, top), alpha)
        x0, y0 = max(left, 0), max(top, 0)
        x1, y1 = max(x0, min(left + alpha.width, size)), max(y0, min(top + alpha.height, size))
        covered = np.asarray(alpha)[y0 - top : y1 - top, x0 - left : x1 - left] >= 128
        owner[y0:y1, x0:x1][covered] = index
    masks = owner[None] == np.arange(len(scene.objects), dtype=np.int8)[:, None, None]
    return Rendered(canvas, masks, np.array([_box(mask) for mask in masks], int).reshape(-1, 4))


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return 0, 0, 0, 0
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


def patch_labels(rendered: Rendered, grid: int = 16) -> np.ndarray:
    """Int `[grid, grid]`: the object that covers most of each patch, or -1 where none covers a quarter."""
    side = rendered.masks.shape[-1] // grid
    cover = rendered.masks.reshape(len(rendered.masks), grid, side, grid, side).mean((2, 4))
    return np.where(cover.max(0) >= 0.25, cover.argmax(0), -1)


def size_level(size: float) -> str:
    """The word for a size in pixels: small, medium or large (cut in the middle of the gaps)."""
    return "small" if size < 55 else "medium" if size < 81 else "large"


def _off_boundary(value: float) -> bool:
    return all(abs(value - edge) >= ZONE_MARGIN for edge in (ZONE, 2 * ZONE))


def _place(rng: np.random.Generator, sizes: Sequence[float]) -> list[tuple[float, float]] | None:
    """Centres for the sizes, apart from one another and from the zone boundaries; None if crowded out."""
    placed: list[tuple[float, float]] = []
    for size in sizes:
        margin = 0.47 * size
        for x, y in rng.uniform(margin, IMAGE_SIZE - margin, (40, 2)).tolist():
            apart = all(
                math.hypot(x - px, y - py) >= SEPARATION * (size + sizes[other])
                for other, (px, py) in enumerate(placed)
            )
            if apart and _off_boundary(x) and _off_boundary(y):
                placed.append((x, y))
                break
        else:
            return None
    return placed


def _random_sizes(rng: np.random.Generator, count: int) -> list[float]:
    weights = {1: (0.25, 0.35, 0.4), 2: (0.3, 0.35, 0.35), 3: (0.35, 0.4, 0.25), 4: (0.45, 0.37, 0.18)}
    levels = rng.choice(len(SIZE_LEVELS), size=count, p=weights[min(count, MAX_OBJECTS)])
    bounds = [list(SIZE_LEVELS.values())[level] for level in levels]
    return [float(rng.uniform(low, high)) for low, high in bounds]


def _scatter(rng: np.random.Generator, count: int) -> tuple[list[float], list[tuple[float, float]]]:
    while True:
        sizes = _random_sizes(rng, count)
        placed = _place(rng, sizes)
        if placed is not None:
            return sizes, placed


def _random_nouns(rng: np.random.Generator, count: int, nouns: Sequence[str]) -> list[str]:
    """Half of all scenes with room for it repeat a noun, so that counting is worth learning."""
    kinds = int(rng.integers(1, count)) if count > 1 and rng.random() < 0.5 else count
    chosen = rng.choice(len(nouns), size=min(kinds, len(nouns)), replace=False)
    extra = rng.choice(chosen, size=count - len(chosen))
    picked = rng.permutation(np.concatenate([chosen, extra]))
    return [nouns[i] for i in picked]


def random_scene(
    rng: np.random.Generator | int,
    *,
    min_objects: int = 1,
    max_objects: int = MAX_OBJECTS,
    nouns: Sequence[str] = NOUNS,
    styles: Sequence[str] = STYLES,
    backgrounds: Sequence[str] = BACKGROUNDS,
) -> Scene:
    """A random scene; the same integer gives the same scene. Objects overlap little and lie inside."""
    seed = int(rng) if not isinstance(rng, np.random.Generator) else None
    rng = np.random.default_rng(rng)
    count = int(rng.integers(min_objects, max_objects + 1))
    names = _random_nouns(rng, count, nouns)
    sizes, centres = _scatter(rng, count)
    one_style = styles[int(rng.integers(len(styles)))] if rng.random() < 0.5 else None
    objects = []
    for noun, size, (x, y) in zip(names, sizes, centres, strict=True):
        recoloured = rng.random() < 0.5
        style = one_style or styles[int(rng.integers(len(styles)))]
        if not has_drawing(style, noun):
            style = (known := [s for s in styles if has_drawing(s, noun)])[rng.integers(len(known))]
        objects.append(
            SceneObject(
                noun=noun,
                style=style,
                x=round(x, 2),
                y=round(y, 2),
                size=round(size, 2),
                angle=round(float(rng.uniform(-25, 25)), 2),
                flip=bool(rng.random() < 0.5),
                hue=round(float(rng.uniform(-25, 25)), 2) if recoloured else 0.0,
                saturation=round(float(rng.uniform(0.6, 1.3)), 3) if recoloured else 1.0,
                brightness=round(float(rng.uniform(0.75, 1.2)), 3) if recoloured else 1.0,
            )
        )
    return Scene(tuple(objects), random_background(rng, backgrounds), seed)


def layout_scene(
    nouns: Sequence[str], layout: str, style: str | None = None, background: str = "plain", seed: int = 0
) -> Scene:
    """The scene maker: one to four chosen nouns in a row, a column, a grid or scattered.

    `style=None` draws each object in a random style. Raises SceneError naming what was wrong.
    """
    if not 1 <= len(nouns) <= MAX_OBJECTS:
        raise SceneError(f"choose one to {MAX_OBJECTS} nouns, not {len(nouns)}")
    for kind, value, known in [
        *(("noun", noun, NOUNS) for noun in nouns),
        ("layout", layout, LAYOUTS),
        ("style", style or STYLES[0], STYLES),
        ("background", background, BACKGROUNDS),
    ]:
        if value not in known:
            raise SceneError(f"unknown {kind} {value!r}; choose from {', '.join(known)}")
    rng = np.random.default_rng(seed)
    count = len(nouns)
    size = {1: 100.0, 2: 72.0, 3: 62.0, 4: 48.0}[count]
    middle = IMAGE_SIZE / 2
    spaced = [IMAGE_SIZE * (i + 0.5) / count for i in range(count)]
    if layout == "row":
        sizes, centres = [size] * count, [(x, middle) for x in spaced]
    elif layout == "column":
        sizes, centres = [size] * count, [(middle, y) for y in spaced]
    elif layout == "grid":
        quarter, last = IMAGE_SIZE / 4, 3 * IMAGE_SIZE / 4
        corners = [(quarter, quarter), (last, quarter), (quarter, last), (last, last)]
        sizes, centres = [72.0] * count, corners[:count] if count > 1 else [(middle, middle)]
    else:
        sizes, centres = _scatter(rng, count)
    objects = tuple(
        SceneObject(
            noun, style or STYLES[rng.integers(len(STYLES))], round(x, 2), round(y, 2), round(side, 2)
        )
        for noun, side, (x, y) in zip(nouns, sizes, centres, strict=True)
    )
    return Scene(objects, random_background(rng, (background,)), seed)


def zone(item: SceneObject) -> str:
    """The name of the third of the image, both ways, that holds the object's centre."""
    return ZONES[_third(item.y)][_third(item.x)]


def _third(value: float) -> int:
    return min(2, int(value / ZONE))
