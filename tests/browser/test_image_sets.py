"""The Images tab in a real Chromium, over fake models."""

import pytest
from PIL import Image

from qformer_viz.analysis import image_sets
from tests.support.fakes_ui import FakePipeline
from tests.support.page_actions import CELL, captioned, choose, picture, selection

pytestmark = pytest.mark.browser
TILES = "n => document.querySelectorAll('.qfv-album figure').length === n"


def choose_files(page, *files):
    with page.expect_file_chooser() as chooser:
        page.locator("#across-files").click()
    chooser.value.set_files(list(files))


def test_the_query_of_the_canvas_on_every_picture_of_a_set(url, open_page):
    page = open_page(url)
    captioned(page)
    page.get_by_role("tab", name="Images").click()
    page.locator("#across-run").click()
    page.wait_for_function(TILES, arg=3)  # the mean, and two pictures that come with the fake
    told = page.locator(".qfv-across [role=status]")
    assert "Query 02, layer 4, mean of heads. Content-dependent: " in told.inner_text()
    drawn = "() => [...document.querySelectorAll('.qfv-album canvas')].map(c => c.toDataURL())"
    examples = [Image.new("RGB", (60, 40), colour) for colour in ("red", "green")]
    found = image_sets.image_set_statistics([FakePipeline().encode(image).capture for image in examples])
    for change, says, row in (
        ("{ queries: [5] }", "Query 05, layer 4", 2),
        ("{ layer: 'mean' }", "Query 05, mean of layers 0, 2, 4", 3),
    ):
        before = page.evaluate(drawn)
        page.evaluate(f"qfvHandle.select({change})")
        page.wait_for_function(
            "says => document.querySelector('.qfv-across [role=status]').innerText.includes(says)", arg=says
        )
        assert all(one != other for one, other in zip(before, page.evaluate(drawn), strict=True))
        share = float(told.inner_text().split("Content-dependent: ")[1].split(" %")[0])
        assert share == pytest.approx(100 * float(found.content_dependence[row, 5]), abs=0.11)
    assert " at row " in page.locator(".qfv-album canvas").nth(1).get_attribute("aria-label")
    # A click on the figure chooses query and layer on the canvas, and this view follows.
    cell = page.locator("#across-plot " + CELL).bounding_box()
    page.mouse.click(cell["x"] + 0.01 * cell["width"], cell["y"] + 0.4 * cell["height"])
    page.wait_for_function(
        "document.querySelector('.qfv-across [role=status]').innerText.includes('Query 00, layer 2')"
    )
    assert [selection(page)[name] for name in ("query", "layer")] == [0, 2]
    choose(page, "Fake InstructBLIP")
    page.wait_for_function(TILES, arg=0)
    assert not page.locator("#across-plot").is_visible()


def test_ones_own_pictures_without_one_on_the_canvas(url, open_page):
    page = open_page(url)
    page.get_by_role("tab", name="Images").click()
    choose_files(page, picture("red"), picture("blue"), picture("white"))
    page.wait_for_function(TILES, arg=4)
    assert "over 3 images" in page.locator("#across-told").inner_text()
    assert "Query 00, mean of layers" in page.locator(".qfv-across [role=status]").inner_text()
    choose_files(page, picture("red"))
    page.get_by_text("1 images were chosen. Choose 2 to 24.").wait_for()
    page.wait_for_function(TILES, arg=0)
