"""Plotly figures on the page in a real Chromium: every click counts, each saves itself, nought is dark in the dark."""

import io
import xml.etree.ElementTree as ET

import pytest
from PIL import Image

from tests.support.page_actions import captioned

pytestmark = pytest.mark.browser
PLOT = "document.querySelector('#similarity-plot .js-plotly-plot')"


def matrix(page):
    """The similarity of queries, drawn."""
    captioned(page)
    page.get_by_role("tab", name="Similarity").click()
    page.locator("#similarity-plot .heatmaplayer image").wait_for(state="attached")
    cells = page.locator("#similarity-plot .nsewdrag").first
    cells.scroll_into_view_if_needed()
    return cells.bounding_box()


def again(page):
    """The figure, drawn again in another order."""
    page.locator("#similarity-order input").click()
    page.get_by_role("option", name="Index").click()
    page.wait_for_function(f"String({PLOT}.data[0].x.map(Number)) === '0,1,2,3,4,5,6,7'")


def test_quick_clicks_on_different_cells_are_choices_each(url, open_page):
    page = open_page(url)
    matrix(page)
    names = page.evaluate(f"{PLOT}.data[0].x.map(Number)")
    page.evaluate("""window.heard = [];
        document.addEventListener('qfv:select', (event) => heard.push(event.detail.queries));""")
    cells = [(1, 2), (5, 4), (6, 0), (0, 5), (3, 3), (7, 1)]
    for column, row in cells:
        # Two queries take more room on the canvas than one, so the figure may have moved.
        box = page.locator("#similarity-plot .nsewdrag").first.bounding_box()
        x, y = box["x"] + (column + 0.5) * box["width"] / 8, box["y"] + (row + 0.5) * box["height"] / 8
        page.mouse.click(x, y)
    page.wait_for_function(f"heard.length >= {len(cells)}")
    assert page.evaluate("heard") == [[*dict.fromkeys((names[c], names[r]))] for c, r in cells]


def test_a_tap_on_a_cell_is_a_choice(url, open_page):
    page = open_page(url, width=390, height=844, touch=True)
    captioned(page)
    page.get_by_role("button", name="More tabs").click()
    page.get_by_role("button", name="Statistics").click()
    page.locator("#statistics-plot .heatmaplayer image").wait_for(state="attached")
    cells = page.locator("#statistics-plot .nsewdrag").first
    cells.scroll_into_view_if_needed()
    for query, row, layer in ((5, 1, 2), (2, 3, "mean")):
        box = cells.bounding_box()
        cells.tap(position={"x": (query + 0.5) * box["width"] / 8, "y": (row + 0.5) * box["height"] / 4})
        page.wait_for_function(
            "want => String([qfvHandle.get().query, qfvHandle.get().layer]) === want", arg=f"{query},{layer}"
        )


def test_only_what_is_a_query_or_a_head_chooses_one(url, open_page):
    page = open_page(url)
    captioned(page)
    page.locator("#why-run").click()
    page.get_by_role("button", name="Check this map").click()
    page.locator("#why-curves .nsewdrag").first.scroll_into_view_if_needed()
    page.locator("#why-curves .scatterlayer").first.wait_for(state="attached")
    before = page.evaluate("JSON.stringify(qfvHandle.get())")
    box = page.locator("#why-curves .nsewdrag").first.bounding_box()
    for share in (0.1, 0.3, 0.9):  # the axis is a share of the patches, in per cent
        page.mouse.click(box["x"] + share * box["width"], box["y"] + box["height"] / 2)
    assert page.evaluate("JSON.stringify(qfvHandle.get())") == before


def test_two_quick_clicks_on_patches_and_thumbnails_are_two_choices(url, open_page):
    page = open_page(url)
    captioned(page)
    page.locator(".qfv-item").nth(1).dblclick()
    assert page.evaluate("qfvHandle.get().queries") == [1]
    page.evaluate("""window.heard = [];
        document.addEventListener('qfv:select', (event) => heard.push([event.detail.patch, event.detail.pinned]));""")
    box = page.locator(".qfv-stage").bounding_box()
    for patch in (0, 5, 10):
        row, column = divmod(patch, 4)
        page.mouse.click(
            box["x"] + (column + 0.5) * box["width"] / 4, box["y"] + (row + 0.5) * box["height"] / 4
        )
    assert page.evaluate("heard") == [[0, True], [5, True], [10, True]]


def test_every_figure_is_saved_from_the_keyboard_or_by_pointer(url, open_page):
    page = open_page(url, dark=True)
    matrix(page)
    buttons = page.locator("#similarity-plot .qfv-save button")
    assert buttons.count() == 2
    buttons.first.focus()
    page.wait_for_function(
        "getComputedStyle(document.querySelector('#similarity-plot .qfv-save')).opacity === '1'"
    )
    with page.expect_download() as got:
        page.keyboard.press("Enter")
    assert got.value.suggested_filename == "qformer-viz_similarity-plot.png"
    drawn = Image.open(io.BytesIO(got.value.path().read_bytes())).convert("RGB")
    width = page.evaluate(f"{PLOT}.clientWidth")
    assert drawn.width == 3 * width and drawn.getpixel((2, 2)) == (255, 255, 255)
    with page.expect_download() as got:
        page.get_by_role("button", name="Save this figure as SVG").first.click()
    assert got.value.suggested_filename == "qformer-viz_similarity-plot.svg"
    assert ET.fromstring(got.value.path().read_bytes()).tag.endswith("svg")
    # Another drawing of the figure has them too, once.
    again(page)
    assert buttons.count() == 2


@pytest.mark.parametrize("dark", [False, True])
def test_nought_is_as_dark_as_the_page(url, open_page, dark):
    page = open_page(url, dark=dark)
    matrix(page)
    middle = f"{PLOT}.data[0].colorscale.find((s) => s[0] === 0.5)[1]"
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    if dark:
        page.wait_for_function(f"{middle}.startsWith('rgb(')")
        numbers = [int(part) for part in page.evaluate(middle)[4:-1].split(",")]
        assert max(numbers) < 60 and ground != "rgb(255, 255, 255)"
        # Drawn again by the server, it is dark again.
        page.locator("#similarity-order input").click()
        page.get_by_role("option", name="Index").click()
        page.wait_for_function(f"{PLOT}.data[0].x[1] === '01' && {middle}.startsWith('rgb(')")
    else:
        assert page.evaluate(middle) == "rgb(247,247,247)"
