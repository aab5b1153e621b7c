import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest

from qformer_viz import attention_maps
from qformer_viz.errors import BadSelection
from qformer_viz.view.contact_sheets import contact_sheet
from qformer_viz.view.map_images import PAD, WIDTH, Selection, overlay_png, overlay_svg
from qformer_viz.view.palette import table
from tests.support.planted import blobs, home, picture

SVG = "{http://www.w3.org/2000/svg}"
CAPTURE = blobs(2, 3, 8, grid=(4, 6))
OPAQUE = Selection((3,), layer=2, head=1, scale="map", opacity=1.0)


def cell_centres(image, grid=(4, 6)):
    """What a drawn picture shows in the middle of every patch, `[gh, gw, 3]`."""
    pixels = np.asarray(image)
    high = WIDTH * 200 / 320
    rows = (PAD + (np.arange(grid[0]) + 0.5) * high / grid[0]).astype(int)
    columns = (PAD + (np.arange(grid[1]) + 0.5) * WIDTH / grid[1]).astype(int)
    return pixels[np.ix_(rows, columns)]


def blended(values, opacity=1.0):
    """The colours of values `[gh, gw]` over the picture, each covering by the square root of its share."""
    share = values / values.max()
    bare = cell_centres(overlay_png(CAPTURE, picture(), Selection((3,), opacity=0.0))).astype(float)
    alpha = opacity * np.sqrt(share)[..., None]
    return alpha * table("viridis")[np.floor(share * 255 + 0.5).astype(int)] + (1 - alpha) * bare


def test_every_patch_has_the_colour_of_its_value_over_the_picture():
    values = CAPTURE.cross_attention[1, 0, 1, 3, 1:].reshape(4, 6).numpy()
    shown = cell_centres(overlay_png(CAPTURE, picture(), OPAQUE))
    assert np.abs(shown - blended(values)).max() <= 1.5


def test_no_weight_leaves_the_picture_as_it_is():
    cross = CAPTURE.cross_attention.clone()
    cross[1, 0, 1, 3, 1:5] = 0
    capture = replace(CAPTURE, cross_attention=cross)
    bare, drawn = (
        cell_centres(overlay_png(capture, picture(), replace(OPAQUE, opacity=opacity))) for opacity in (0, 1)
    )
    assert (drawn[0, :4] == bare[0, :4]).all() and (drawn != bare).any(-1).sum() == 20
    cells = ET.fromstring(overlay_svg(capture, picture(), OPAQUE)).findall(f"{SVG}g/{SVG}rect")
    assert [float(cell.get("fill-opacity")) for cell in cells[:4]] == [0] * 4


def test_the_legend_is_as_clear_as_the_map():
    page = np.asarray(overlay_png(CAPTURE, picture(), Selection((3,), opacity=0.5)), float)
    bar = page[PAD + round(WIDTH * 200 / 320) + 22 + 46 + 7, PAD : PAD + WIDTH]
    for share in (0.0, 0.25, 1.0):
        at, alpha = int(share * (WIDTH - 1)), 0.5 * share**0.5
        colour = table("viridis")[round(255 * share)]
        assert np.abs(bar[at] - (alpha * colour + (1 - alpha) * 255)).max() <= 6
    stops = list(
        ET.fromstring(overlay_svg(CAPTURE, picture(), Selection((3,), opacity=0.5))).iter(f"{SVG}stop")
    )
    assert [float(stops[i].get("stop-opacity")) for i in (0, 8, 32)] == pytest.approx(
        [0, 0.25, 0.5], abs=0.003
    )


def test_the_brightest_patch_is_the_planted_one():
    for query in range(8):
        drawn = cell_centres(overlay_png(CAPTURE, picture(), Selection((query,), scale="map", opacity=1.0)))
        assert drawn.sum(-1).argmax() == home(query, (4, 6))


def test_the_picture_shows_through_where_little_is_read():
    clear = cell_centres(overlay_png(CAPTURE, picture(), Selection((3,), scale="map", opacity=0.0)))
    expected = np.asarray(picture())[25::50, 26::53][:4, :6].astype(int)
    assert np.abs(clear.astype(int) - expected).max() <= 6


def test_little_attention_covers_less_of_the_picture():
    selection = Selection((3,), layer=2, head=1, scale="map", opacity=0.5)
    root = ET.fromstring(overlay_svg(CAPTURE, picture(), selection))
    shown = [float(cell.get("fill-opacity")) for cell in root.findall(f"{SVG}g/{SVG}rect")]
    values = CAPTURE.cross_attention[1, 0, 1, 3, 1:].numpy()
    assert shown == pytest.approx(0.5 * np.sqrt(values / values.max()), abs=0.003)


def test_a_raw_scale_ends_at_one_and_a_shared_one_at_the_largest_of_all_maps():
    top = float(attention_maps.select(CAPTURE.cross_attention, 1, 1)[0, :, 1:].max())
    shared, raw = (overlay_svg(CAPTURE, picture(), Selection((3,), 2, 1, scale=s)) for s in ("shared", "raw"))
    assert f">{top:.3f}</text>" in shared
    assert ">1.000</text>" in raw and "raw probability" in raw


def test_several_queries_are_their_mean():
    values = CAPTURE.cross_attention[0, 0, 0, [1, 6], 1:].mean(0).reshape(4, 6).numpy()
    drawn = cell_centres(overlay_png(CAPTURE, picture(), Selection((1, 6), 0, 0, scale="map", opacity=1.0)))
    assert np.abs(drawn - blended(values)).max() <= 1.5


def test_svg_is_xml_with_a_rectangle_per_patch_and_escaped_text():
    source = '<script>alert(1)</script> & "quotes"'
    root = ET.fromstring(overlay_svg(CAPTURE, picture(), OPAQUE, source=source))
    assert len(root.findall(f"{SVG}g/{SVG}rect")) == 24
    assert source in [node.text for node in root.iter(f"{SVG}text")]
    assert not list(root.iter(f"{SVG}script")) and root.find(f"{SVG}image").get("href").startswith(
        "data:image/png"
    )


def test_cls_is_always_said():
    share = 100 * float(attention_maps.select(CAPTURE.cross_attention)[0, 7, 0])
    assert f"{share:.1f} % of the attention is on CLS" in overlay_svg(CAPTURE, picture(), Selection((7,)))


def test_the_sheet_has_room_for_every_query_and_shows_its_maps():
    sheet = np.asarray(contact_sheet(CAPTURE, picture(), Selection(layer=2, head=1, scale="map")))
    cell, thumb = (WIDTH - 14 * 7) / 8, round((WIDTH - 14 * 7) / 8 / 1.6)
    for query in range(8):
        x = round(PAD + query * (cell + 14))
        tile = sheet[PAD + 60 : PAD + 60 + thumb, x : x + round(cell)]
        values = CAPTURE.cross_attention[1, 0, 1, query, 1:].numpy()
        row, column = divmod(int(values.argmax()), 6)
        middle = tile[int((row + 0.5) * thumb / 4), int((column + 0.5) * cell / 6)]
        assert (middle == table("viridis")[255]).all()
        # The least of the map lets the dimmed picture through.
        row, column = divmod(int(values.argmin()), 6)
        middle = tile[int((row + 0.5) * thumb / 4), int((column + 0.5) * cell / 6)]
        bare = np.asarray(picture().resize((6, 4)))[row, column]
        alpha = (values.min() / values.max()) ** 0.5
        below = (0.3 * bare + 0.7 * np.array([20, 24, 32])) * (1 - alpha)
        assert np.abs(middle - below - alpha * table("viridis")[0]).max() <= 12


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"queries": (8,)}, "0..7"),
        ({"queries": ()}, "at least one"),
        ({"layer": 1}, r"\(0, 2\)"),
        ({"head": 3}, "0..2"),
        ({"scale": "log"}, "raw, shared, map"),
        ({"palette": "jet"}, "viridis"),
    ],
)
def test_a_selection_that_does_not_exist_names_what_does(wrong, says):
    with pytest.raises(BadSelection, match=says):
        overlay_png(CAPTURE, picture(), Selection(**wrong))


def test_extreme_shapes_are_drawn():
    assert overlay_png(CAPTURE, picture(3000, 3)).width == WIDTH + 2 * PAD
    assert contact_sheet(CAPTURE, picture(3, 300)).width == WIDTH + 2 * PAD
