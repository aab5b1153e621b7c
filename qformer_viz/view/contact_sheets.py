"""The contact sheet: the maps of all queries side by side in one picture."""

from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw

from qformer_viz.runtime.map_placement import Placement, aspect, box
from qformer_viz.types import Capture
from qformer_viz.view.map_images import (
    COLUMNS,
    DIM,
    DIMMED,
    INK,
    PAD,
    SCALES,
    SOFT,
    WIDTH,
    Selection,
    draw_legend,
    draw_text,
    format_number,
    map_scene,
    paint_map,
    wrap_text,
)


def contact_sheet(
    capture: Capture,
    image: Image.Image,
    selection: Selection | None = None,
    *,
    source: str = "",
    placement: Placement | None = None,
) -> Image.Image:
    """All queries' maps for the chosen layer and head, eight in a row, each with its entropy and CLS share.

    Each map lies over what the model saw of the image, dimmed, at full opacity, in an aspect ratio between 0.6 and 1.8.
    The queries and the opacity of `selection` change nothing.
    """
    selection = selection or Selection()
    full = replace(selection, opacity=1.0)
    scene = map_scene(capture, selection, placement)
    where = box(placement)
    gap, head = 14, 60
    cell = (WIDTH - gap * (COLUMNS - 1)) / COLUMNS
    thumb = round(cell / min(max(aspect(image.size, where), 0.6), 1.8))
    rows = -(-len(scene.maps) // COLUMNS)
    scale = SCALES[selection.scale].format(queries=len(scene.maps)).replace("this map's", "each map's")
    text = f"Attention weight; {scale}. H: entropy in nats over patches; CLS: share of attention on CLS."
    text = " ".join(filter(None, (text, placement.notice if placement and where else "")))
    lines = wrap_text(text, 18) + wrap_text(source, 18)
    page = Image.new(
        "RGB", (WIDTH + 2 * PAD, PAD + head + rows * (thumb + 46) + 86 + 26 * len(lines)), "white"
    )
    below = image.convert("RGB")
    if where:
        (left, top, right, bottom), (width, height) = where, image.size
        edges = round(left * width), round(top * height), round(right * width), round(bottom * height)
        below = below.crop(edges)
    below = below.resize((round(cell), thumb), Image.Resampling.LANCZOS)
    below = Image.blend(below, Image.new("RGB", below.size, DIM), DIMMED)
    draw = ImageDraw.Draw(page)
    draw_text(draw, (PAD, PAD), f"All {len(scene.maps)} queries, {scene.where}", 26, INK)
    for q, values in enumerate(scene.maps):
        x = round(PAD + (q % COLUMNS) * (cell + gap))
        y = PAD + head + q // COLUMNS * (thumb + 46)
        top = values.max() if selection.scale == "map" else scene.top
        tile = Image.fromarray(np.dstack(paint_map(values, float(top), full)), "RGBA")
        tile = tile.resize((round(cell), thumb), Image.Resampling.NEAREST)
        page.paste(below, (x, y))
        page.paste(tile, (x, y), tile)
        draw_text(draw, (x, y + thumb + 5), f"{q:02d}", 18, INK)
        small = f"H {scene.entropy[q]:.2f}  CLS {100 * scene.cls[q]:.0f} %"
        draw_text(draw, (x + cell, y + thumb + 7), small, 14, SOFT, "ra")
    ends = ["0", "half of each map's maximum", "each map's maximum"]
    if selection.scale != "map":
        ends = [format_number(v) for v in (0, scene.top / 2, scene.top)]
    y = PAD + head + rows * (thumb + 46) + 8
    draw_legend(page, (PAD, y), ends, full)
    for i, line in enumerate(lines):
        draw_text(draw, (PAD, y + 50 + 26 * i), line, 18, SOFT)
    return page
