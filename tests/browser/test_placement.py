"""A picture of which the model saw a part, or which was padded: what is drawn where, and what a pointer finds there."""

import numpy as np
import pytest
from PIL import Image

from qformer_viz.runtime.input_placement import Placement
from qformer_viz.view.stage_payload import canvas_payload, embed
from qformer_viz.view.standalone_page import STATIC, stage_script, stage_style, word_evidence_style
from tests.support.planted import capture_of

pytestmark = pytest.mark.browser

SIZE = (600, 200)
PLACED = {
    "crop": Placement(SIZE, (200, 0, 400, 200)),
    "pad": Placement(SIZE, (0, -200, 600, 400)),
    "squash": Placement(SIZE, (0, 0, *SIZE)),
}
COVERED = {"crop": (200, 400), "pad": (0, 600), "squash": (0, 600)}
"""Left and right edge of what the map covers, in pixels of the picture."""


def blank(open_page, **options):
    page = open_page("about:blank", **options)
    page.add_style_tag(
        content=stage_style() + word_evidence_style() + (STATIC / "app.css").read_text("utf-8")
    )
    page.add_script_tag(content=stage_script() + (STATIC / "patch_brush.js").read_text("utf-8"))
    page.evaluate(
        "() => { document.body.innerHTML = '<div id=root></div>'; document.body.style.margin = '20px'; }"
    )
    return page


def planted():
    """One query that attends to the second row's third patch, of four by four, with a tenth on padding's first."""
    cross = np.full((1, 1, 1, 17), 0.0)
    cross[..., 1 + 6], cross[..., 1] = 0.9, 0.1
    return capture_of(cross, (4, 4))


@pytest.mark.parametrize("name", PLACED)
@pytest.mark.parametrize("dark", [False, True])
def test_the_map_lies_on_what_was_seen_and_a_pointer_elsewhere_finds_no_patch(open_page, name, dark):
    page = blank(open_page, dark=dark)
    payload = canvas_payload(planted(), Image.new("RGB", SIZE, "white"), placements=(PLACED[name],))
    page.evaluate(
        "async (payload) => { window.view = QFormerViz.mount(root, payload, { theme: 'auto' }); await view.ready; }",
        payload,
    )
    page.wait_for_selector(".qfv-item")
    stage = page.locator(".qfv-stage").bounding_box()
    left, right = COVERED[name]
    _, top, _, bottom = PLACED[name].box

    def point(x, y):
        page.mouse.move(stage["x"] + stage["width"] * x / SIZE[0], stage["y"] + stage["height"] * y / SIZE[1])
        return page.evaluate("view.get().patch")

    for x, y in ((20, 100), (150, 20), (580, 180), (300, 100), (220, 190), (399, 1)):
        inside = left <= x < right
        expected = int((y - top) / (bottom - top) * 4) * 4 + int((x - left) / (right - left) * 4)
        assert point(x, y) == (expected if inside else None)
    page.mouse.move(0, 0)

    # The brightest cell, by the canvas's own pixels.
    brightest = page.evaluate(
        """() => {
          const canvas = document.querySelector('.qfv-stage canvas'), { width, height } = canvas;
          view.select({ opacity: 1 });
          const data = canvas.getContext('2d').getImageData(0, 0, width, height).data, found = [];
          for (let p = 0; p < width * height; p++) {
            const [red, green, blue] = data.slice(4 * p, 4 * p + 3);
            if (red > 240 && green > 220 && blue < 60) found.push([(p % width) / width, ~~(p / width) / height]);
          }
          const span = (i) => [Math.min(...found.map((f) => f[i])), Math.max(...found.map((f) => f[i]))];
          return [span(0), span(1)];
        }"""
    )
    step = (right - left) / 4
    assert brightest[0] == pytest.approx([(left + 2 * step) / SIZE[0], (left + 3 * step) / SIZE[0]], abs=0.01)
    rows = [min(max((top + (bottom - top) * row / 4) / SIZE[1], 0), 1) for row in (1, 2)]
    assert brightest[1] == pytest.approx(rows, abs=0.02)
    caption = page.locator(".qfv-caption").inner_text()
    assert ("67% was cut off" in caption) == (name == "crop")
    assert ("10.0 % of the attention is on patches of padding" in caption) == (name == "pad")


def test_the_brush_hides_the_patch_under_it_and_nothing_beside_the_crop(open_page):
    page = blank(open_page)
    shown = {
        "frames": [embed(Image.new("RGB", SIZE, "white"), PLACED["crop"])],
        "timestamps": [],
        "grid": [4, 4],
        "from": {"qformer": ["the Q-Former", ""]},
    }
    page.evaluate(
        "(shown) => { window.sent = []; QFormerViz.patchBrush(root, shown, { ask: (_, data) => sent.push(data) }); }",
        shown,
    )
    box = page.locator(".qfv-painter-picture").bounding_box()
    for x, y in ((100, 100), (500, 20), (330, 80)):
        page.mouse.click(box["x"] + box["width"] * x / SIZE[0], box["y"] + box["height"] * y / SIZE[1])
    page.get_by_role("button", name="Answer again without them").click()
    assert page.evaluate("sent") == [{"patches": [4 * 1 + 2], "where": "qformer"}]
    assert page.locator(".qfv-unseen").count() == 1
