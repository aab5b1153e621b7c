"""The canvas's pictures without a browser: a view as PNG or SVG, and the contact sheet of all queries.

Same numbers, colours and transparency as the canvas, from the exact maps of the capture. Needs Pillow and
numpy only beside this package's pure functions.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from qformer_viz import attention_maps
from qformer_viz.errors import BadSelection
from qformer_viz.runtime.map_placement import Box, Placement, box, note
from qformer_viz.types import Capture
from qformer_viz.view import palette as colours

SHADE, LINE = (20, 22, 30, 150), (255, 255, 255, 90)
"""What lies over pixels that the model did not see."""
INK, SOFT = (28, 33, 39), (86, 96, 107)
# Over the picture under a thumbnail, as in stage.css.
DIM, DIMMED = (20, 24, 32), 0.7
SCALES = {
    "raw": "raw probability, 0 to 1",
    "shared": "one scale for all {queries} maps of this layer and head",
    "map": "this map's own maximum; do not compare maps",
}
WIDTH, PAD, COLUMNS = 1200, 32, 8


@dataclass(frozen=True)
class Selection:
    """What to draw. layer: a number of `capture.cross_layers`, head: 0.., None for the mean of either.
    Several queries are drawn as the mean of their maps. scale: "shared", "map" or "raw"."""

    queries: tuple[int, ...] = (0,)
    layer: int | None = None
    head: int | None = None
    scale: str = "shared"
    palette: str = colours.DEFAULT
    opacity: float = 0.75


@dataclass(frozen=True)
class _Scene:
    """maps: all queries `[q, gh, gw]` and cls `[q]` of the chosen layer and head; values: the drawn map."""

    maps: np.ndarray
    cls: np.ndarray
    entropy: np.ndarray
    values: np.ndarray
    top: float
    where: str
    title: str
    caption: str


def overlay_png(
    capture: Capture,
    image: Image.Image,
    selection: Selection | None = None,
    *,
    source: str = "",
    placement: Placement | None = None,
) -> Image.Image:
    """The image at its own aspect ratio under the chosen map, with a legend in real numbers.

    capture: of one image. source: a line for the foot, for instance the model and its precision.
    placement: which part of the image the patches cover, None for all of it; what the model did not see is hatched.
    """
    selection = selection or Selection()
    scene, where = map_scene(capture, selection, placement), box(placement)
    size = (WIDTH, max(1, round(WIDTH * image.height / image.width)))
    lines = wrap_text(scene.caption, 20) + wrap_text(source, 20)
    page = Image.new("RGB", (WIDTH + 2 * PAD, size[1] + PAD + 150 + 28 * len(lines)), "white")
    cells = Image.fromarray(np.dstack(paint_map(scene.values, scene.top, selection)), "RGBA")
    page.paste(image.convert("RGB").resize(size, Image.Resampling.LANCZOS), (PAD, PAD))
    if where is None:
        cells = cells.resize(size, Image.Resampling.NEAREST)
    else:
        shade = _unseen(size, where)
        page.paste(shade, (PAD, PAD), shade)
        cells = _laid(cells, size, where)
    page.paste(cells, (PAD, PAD), cells)
    draw, y = ImageDraw.Draw(page), PAD + size[1] + 22
    draw_text(draw, (PAD, y), scene.title, 26, INK)
    ticks = [format_number(v) for v in (0, scene.top / 2, scene.top)]
    draw_legend(page, (PAD, y + 46), ticks, selection)
    for i, line in enumerate(lines):
        draw_text(draw, (PAD, y + 98 + 28 * i), line, 20, SOFT)
    return page


def overlay_svg(
    capture: Capture,
    image: Image.Image,
    selection: Selection | None = None,
    *,
    source: str = "",
    placement: Placement | None = None,
) -> str:
    """The same view as vectors: one rectangle per patch over the embedded image. Text is escaped."""
    selection = selection or Selection()
    scene, where = map_scene(capture, selection, placement), box(placement)
    high = WIDTH * image.height / image.width
    rows, columns = scene.values.shape
    rgb, alpha = paint_map(scene.values, scene.top, selection)
    left, top, right, bottom = where or (0, 0, 1, 1)
    sx, sy = WIDTH * (right - left) / columns, high * (bottom - top) / rows
    x0, y0 = PAD + WIDTH * left, PAD + high * top
    cells = "".join(
        f'<rect x="{x0 + c * sx:.2f}" y="{y0 + r * sy:.2f}" width="{sx:.2f}" height="{sy:.2f}" '
        f'fill="{_hex(rgb[r, c])}" fill-opacity="{alpha[r, c] / 255:.3f}"/>'
        for r in range(rows)
        for c in range(columns)
    )
    stops = "".join(
        f'<stop offset="{i / 32}" stop-color="{_hex(c)}" stop-opacity="{a / 255:.3f}"/>'
        for i, (c, a) in enumerate(zip(*paint_map(np.arange(33.0), 32, selection), strict=True))
    )
    y, lines = PAD + high + 48, wrap_text(scene.caption, 20) + wrap_text(source, 20)
    ends = zip((0, scene.top / 2, scene.top), ("start", "middle", "end"), strict=True)
    text = [f'<text x="{PAD}" y="{y:.1f}" font-size="26" font-weight="600">{escape(scene.title)}</text>']
    text += [
        f'<text x="{PAD + i * WIDTH / 2}" y="{y + 60:.1f}" font-size="20" text-anchor="{anchor}">'
        f"{format_number(v)}</text>"
        for i, (v, anchor) in enumerate(ends)
    ]
    text += [
        f'<text x="{PAD}" y="{y + 94 + 28 * i:.1f}" font-size="20" fill="{_hex(SOFT)}">{escape(line)}</text>'
        for i, line in enumerate(lines)
    ]
    width, height = WIDTH + 2 * PAD, round(high + PAD + 150 + 28 * len(lines))
    clip = ' clip-path="url(#picture)"' if where else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="system-ui, sans-serif">'
        f"<title>{escape(scene.title)}</title>"
        f'<linearGradient id="scale">{stops}</linearGradient><rect width="100%" height="100%" fill="#fff"/>'
        f'<image x="{PAD}" y="{PAD}" width="{WIDTH}" height="{high:.2f}" preserveAspectRatio="none" '
        f'href="{_png_url(image)}"/>{_unseen_svg(high, where)}<g shape-rendering="crispEdges"{clip}>{cells}</g>'
        f'<rect x="{PAD}" y="{y + 20:.1f}" width="{WIDTH}" height="14" fill="url(#scale)"/>'
        f"{''.join(text)}</svg>\n"
    )


def _laid(cells: Image.Image, size: tuple[int, int], where: Box) -> Image.Image:
    """One colour a patch, drawn where the patches lie on a picture of this size; clear elsewhere."""
    left, top, right, bottom = where
    across, down = (cells.width / (size[0] * (right - left)), cells.height / (size[1] * (bottom - top)))
    back = (across, 0, -left * size[0] * across, 0, down, -top * size[1] * down)
    return cells.transform(
        size, Image.Transform.AFFINE, back, Image.Resampling.NEAREST, fillcolor=(0, 0, 0, 0)
    )


def _unseen(size: tuple[int, int], where: Box) -> Image.Image:
    """A shade with slanted lines over what the model did not see of a picture of this size."""
    shade = Image.new("RGBA", size, SHADE)
    draw = ImageDraw.Draw(shade)
    for x in range(-size[1], size[0], 20):
        draw.line((x, size[1], x + size[1], 0), LINE, 2)
    left, top, right, bottom = (round(share * side) for share, side in zip(where, 2 * size, strict=True))
    shade.paste((0, 0, 0, 0), (max(left, 0), max(top, 0), min(right, size[0]), min(bottom, size[1])))
    return shade


def _unseen_svg(high: float, where: Box | None) -> str:
    """The same as vectors, and the frame that cuts off patches of padding."""
    if where is None:
        return ""
    left, top, right, bottom = (min(max(share, 0), 1) for share in where)
    seen = (
        f"M{PAD + WIDTH * left:.2f} {PAD + high * top:.2f}H{PAD + WIDTH * right:.2f}V{PAD + high * bottom:.2f}"
        f"H{PAD + WIDTH * left:.2f}Z"
    )
    outside = f"M{PAD} {PAD}h{WIDTH}v{high:.2f}h-{WIDTH}Z{seen}"
    fills = (f'fill="{_hex(SHADE)}" fill-opacity="{SHADE[3] / 255:.3f}"', 'fill="url(#unseen)"')
    drawn = "".join(f'<path class="unseen" fill-rule="evenodd" d="{outside}" {fill}/>' for fill in fills)
    return (
        f'<clipPath id="picture"><rect x="{PAD}" y="{PAD}" width="{WIDTH}" height="{high:.2f}"/></clipPath>'
        '<pattern id="unseen" width="14" height="14" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        f'<rect width="2" height="14" fill="{_hex(LINE)}" fill-opacity="{LINE[3] / 255:.3f}"/></pattern>{drawn}'
    )


def map_scene(capture: Capture, selection: Selection, placement: Placement | None) -> _Scene:
    cross, layers = capture.cross_attention, capture.cross_layers
    if cross.shape[1] != 1:
        raise BadSelection(
            f"a capture of {cross.shape[1]} images", "one image", "choose one with capture.image(i)"
        )
    queries = cross.shape[3]
    if not selection.queries or not all(0 <= q < queries for q in selection.queries):
        raise BadSelection(
            f"queries {selection.queries}", f"some of 0..{queries - 1}", "choose at least one of them"
        )
    if selection.layer is not None and selection.layer not in layers:
        raise BadSelection(
            f"layer {selection.layer}", f"one of {layers}, or None for the mean", "choose one of them"
        )
    if selection.scale not in SCALES:
        raise BadSelection(f"scale {selection.scale!r}", f"one of {', '.join(SCALES)}", "choose one of them")
    index = None if selection.layer is None else layers.index(selection.layer)
    chosen = attention_maps.select(cross, index, selection.head)[0]
    maps = chosen[:, 1:].numpy().reshape(queries, *capture.grid)
    cls = attention_maps.cls_share(chosen).numpy()
    values = maps[list(selection.queries)].mean(0)
    top = {"raw": 1.0, "shared": float(maps.max()), "map": float(values.max())}[selection.scale]
    layer = f"mean of layers {', '.join(map(str, layers))}" if index is None else f"layer {selection.layer}"
    head = f"mean of {cross.shape[2]} heads" if selection.head is None else f"head {selection.head}"
    names = ", ".join(f"{q:02d}" for q in selection.queries)
    who = f"Query {names}" if len(selection.queries) == 1 else f"Mean of queries {names}"
    on_cls = 100 * cls[list(selection.queries)].mean()
    scale = SCALES[selection.scale].format(queries=queries)
    caption = f"Attention weight; {scale}. {on_cls:.1f} % of the attention is on CLS and not in the map."
    caption = " ".join(filter(None, (caption, note(placement, capture.grid, values))))
    entropy = attention_maps.entropy(attention_maps.patches(chosen)).numpy()
    where = f"{layer}, {head}"
    return _Scene(maps, cls, entropy, values, top, where, f"{who}, {where}", caption)


def paint_map(values: np.ndarray, top: float, selection: Selection) -> tuple[np.ndarray, np.ndarray]:
    """Colours uint8 `[gh, gw, 3]` and alpha uint8 `[gh, gw]`: zero is clear, and the top covers by the opacity."""
    alpha = np.floor(255 * colours.cover(values, top, selection.opacity) + 0.5).astype(np.uint8)
    return colours.colour(values, top, selection.palette), alpha


def draw_legend(page: Image.Image, at: tuple[int, int], ticks: list[str], selection: Selection) -> None:
    """The colour bar, as clear as the map."""
    ramp = Image.fromarray(np.dstack(paint_map(np.arange(256.0)[None], 255, selection)), "RGBA")
    ramp = ramp.resize((WIDTH, 14), Image.Resampling.BILINEAR)
    page.paste(ramp, at, ramp)
    for i, (text, anchor) in enumerate(zip(ticks, ("la", "ma", "ra"), strict=True)):
        draw_text(ImageDraw.Draw(page), (at[0] + i * WIDTH / 2, at[1] + 20), text, 18, INK, anchor)


def draw_text(
    draw: ImageDraw.ImageDraw, at: tuple, text: str, size: int, fill: tuple, anchor: str = "la"
) -> None:
    draw.text(at, text, fill, ImageFont.load_default(size), anchor)


def wrap_text(text: str, size: int) -> list[str]:
    font, lines = ImageFont.load_default(size), [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= WIDTH:
            lines[-1] = longer
        else:
            lines.append(word)
    return [line for line in lines if line]


def format_number(value: float) -> str:
    if value == 0:
        return "0"
    digits = next((d for d, least in ((3, 0.1), (4, 0.001), (5, 0.0001)) if value >= least), None)
    return f"{value:.1e}" if digits is None else f"{value:.{digits}f}"


def _hex(rgb: Sequence[int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*(int(c) for c in rgb[:3]))


def _png_url(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
