"""The strip of a film in a real browser: every frame with its own maps, and a page that follows the frame."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from qformer_viz import attention_maps
from qformer_viz.view.stage_payload import canvas_payload
from qformer_viz.view.standalone_page import standalone_page
from tests.support.fakes_ui import QUERIES
from tests.support.page_actions import drawn, selection
from tests.support.planted import blobs, home, picture
from tests.support.serving import serve

pytestmark = pytest.mark.browser

MOMENTS = ["0.0 s", "1.5 s", "3.0 s", "4.5 s"]
STEPS = [0, 0, 3, 5]
"""How many rows every map has moved down in each frame."""


def film():
    still = blobs()
    cls, patches = still.cross_attention[..., :1], still.cross_attention[..., 1:]
    moved = [patches.roll(16 * step, -1) for step in STEPS]
    moved[3] = (moved[3] + patches.mean(-1, keepdim=True)) / 2  # the last is fainter
    frames = [torch.cat([cls, each], -1) for each in moved]
    batched = {name: getattr(still, name).repeat(1, 4, 1, 1, 1) for name in ("self_attention",)}
    return replace(
        still,
        cross_attention=torch.cat(frames, 1),
        query_states=still.query_states.repeat(1, 4, 1, 1),
        **batched,
    )


CAPTURE = film()


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    colours = [picture(), *(Image.new("RGB", (320, 200), colour) for colour in ("red", "green", "blue"))]
    payload = canvas_payload(CAPTURE, colours[0], video=list(zip(colours, MOMENTS, strict=True)))
    path = tmp_path_factory.mktemp("film") / "page.html"
    path.write_text(standalone_page(payload), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def explorer(open_page, url):
    def open_(fragment="#q=3&layer=mean", **options):
        page = open_page(url + fragment, **options)
        page.wait_for_selector(".qfv-item")
        return page

    return open_


def strip(page):
    return page.locator(".qfv-frame")


def test_every_frame_is_in_the_strip_and_says_when_it_is_and_how_far_the_map_moved(explorer):
    page = explorer()
    assert [text.split("\n")[0] for text in strip(page).all_inner_texts()] == MOMENTS
    maps = attention_maps.patches(attention_maps.select(CAPTURE.cross_attention))[:, 3]
    moved = [float((one - other).abs().sum() / 2) for one, other in pairwise(maps)]
    told = [float(text.split("moved ")[1]) for text in strip(page).all_inner_texts()[1:]]
    assert told == pytest.approx(moved, abs=0.011) and told[0] == 0 and told[1] > 0.3


def test_a_chosen_frame_is_drawn_with_its_own_picture_maps_and_words(explorer):
    page = explorer("#q=3&layer=2&head=1")
    before = drawn(page)
    strip(page).nth(2).click()
    assert selection(page)["frame"] == 2 and "3.0 s (3 of 4)" in page.locator(".qfv-status").inner_text()
    after = drawn(page)
    # The overlay is opaque where it is strong, so its brightest patch has moved down with the map.
    assert np.abs(after - np.roll(before, 16 * STEPS[2], 0))[:, :3].max() <= 2
    assert not np.array_equal(after, before)
    source = page.locator(".qfv-image").get_attribute("src")
    assert source == page.locator(".qfv-frame img").nth(2).get_attribute("src")
    shown = page.evaluate("qfvHandle.stats()")
    cls = attention_maps.cls_share(attention_maps.select(CAPTURE.cross_attention, 1, 1)[2])
    assert np.allclose(shown["cls"], cls, atol=1e-4)


def test_the_map_over_a_frame_of_the_strip_is_that_frames_own(explorer):
    page = explorer()
    page.evaluate("qfvHandle.select({opacity: 1, scale: 'map'})")
    peaks = page.evaluate(
        """() => [...document.querySelectorAll(".qfv-frame canvas")].map((c) => {
            const data = c.getContext("2d").getImageData(0, 0, 16, 16).data;
            const light = (p) => data[4 * p] + data[4 * p + 1];
            return [...Array(256).keys()].reduce((best, p) => (light(p) > light(best) ? p : best), 0);
        })"""
    )
    assert peaks == [(home(3) + 16 * step) % 256 for step in STEPS]


def test_one_scale_holds_for_all_frames(explorer):
    page = explorer()
    tops = []
    for frame in range(4):
        strip(page).nth(frame).click()
        tops.append(page.locator(".qfv-ticks span").last.inner_text())
    assert len(set(tops)) == 1 and "in all frames" in page.locator(".qfv-legend .qfv-caption").inner_text()


def test_keys_move_along_the_strip_and_stop_at_its_ends(explorer):
    page = explorer()
    strip(page).first.focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    assert selection(page)["frame"] == 3 and selection(page)["query"] == 3
    assert page.evaluate("document.activeElement.dataset.frame") == "3"
    assert [item.get_attribute("aria-checked") for item in strip(page).all()] == ["false"] * 3 + ["true"]
    page.keyboard.press("ArrowLeft")
    assert selection(page)["frame"] == 2


def test_a_link_names_the_frame_and_one_that_does_not_exist_is_the_first(explorer):
    page = explorer("#q=3&frame=1")
    assert selection(page)["frame"] == 1 and "frame=1" in page.evaluate("location.hash")
    assert selection(explorer("#q=3&frame=9"))["frame"] == 0
    assert selection(explorer("#q=3&frame=x"))["frame"] == 0


def test_queries_are_sorted_by_how_far_they_move(explorer):
    page = explorer()
    page.get_by_role("radio", name="movement").click()
    order = [int(q) for q in page.locator(".qfv-item").evaluate_all("all => all.map((i) => i.dataset.query)")]
    maps = attention_maps.patches(attention_maps.select(CAPTURE.cross_attention))
    moved = (maps[1:] - maps[:-1]).abs().sum(-1).mean(0) / 2
    ranked = moved[order]
    assert (ranked[:-1] - ranked[1:]).min() > -0.02 and ranked[0] > ranked[-1] + 0.05
    assert float(page.locator(".qfv-item .qfv-small").first.inner_text()) == pytest.approx(
        float(ranked[0]), abs=0.02
    )
    assert "from frame to frame" in page.locator(".qfv-key").inner_text()
    name = page.locator(".qfv-item").first.get_attribute("aria-label")
    assert name.startswith(f"Query {order[0]:02} {ranked[0]:.2f} of movement, ")


def test_a_saved_view_is_of_the_frame_on_the_canvas(explorer):
    page = explorer()
    strip(page).nth(1).click()
    with page.expect_download() as started:
        page.get_by_role("button", name="SVG").click()
    saved = started.value
    assert saved.suggested_filename.endswith("_frame-2.svg")
    text = saved.path().read_text()
    assert page.locator(".qfv-image").get_attribute("src") in text and "1.5 s (2 of 4)" in text


def test_it_fits_a_phone(explorer):
    page = explorer(width=390, height=844, touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert strip(page).nth(3).bounding_box()["x"] > strip(page).first.bounding_box()["x"]


def test_a_still_picture_has_no_strip(open_page, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(standalone_page(canvas_payload(blobs(), picture())), encoding="utf-8")
    page = open_page(path.as_uri())
    page.wait_for_selector(".qfv-item")
    assert strip(page).count() == 0 and page.get_by_role("radio", name="movement").count() == 0
    assert "(1 of 1)" not in page.locator(".qfv-status").inner_text()


@pytest.fixture(scope="module")
def served():
    with serve("tests.support.serve_fake") as address:
        yield address


def test_the_tabs_of_the_page_follow_the_frame(open_page, served, tmp_path):
    frames = [Image.new("RGB", (60, 40), colour) for colour in ("red", "green", "blue", "yellow")]
    frames[0].save(tmp_path / "film.png", save_all=True, append_images=frames[1:], duration=100)
    page = open_page(served)
    page.locator("#model input").click()
    page.get_by_role("option", name="Fake InstructBLIP").click()
    page.wait_for_function("document.querySelector('#model input').value === 'Fake InstructBLIP'")
    page.locator("#picture > input[type=file]").set_input_files(tmp_path / "film.png")
    page.wait_for_selector(".qfv-frame")
    page.get_by_role("tab", name="Statistics").click()
    table = "document.querySelector('#statistics-table').innerText"
    page.wait_for_function(f"/\\d\\.\\d{{3}}/.test({table})")
    first = page.evaluate(table)
    strip(page).nth(2).click()
    page.wait_for_function(f"was => {table} !== was", arg=first)
    # An answer brings new maps of the same film; the frame stays.
    page.locator("#question textarea").fill("what?")
    page.locator("#send").click()
    page.wait_for_function("document.querySelector('#chat').innerText.includes('you asked what?')")
    page.wait_for_function("!document.body.classList.contains('qfv-busy')")
    assert page.evaluate("qfvHandle.get().frame") == 2
    # Words are taken apart by frame, and every map can be judged.
    page.get_by_role("tab", name="Why").click()
    page.locator("#why-run").click()
    page.locator(".qfv-chip").nth(2).click()
    assert page.locator(".qfv-why-body canvas").count() == 4
    page.get_by_role("button", name="Check this map").click()
    page.get_by_text("Query knock-out. ").wait_for()
    # A query of any frame can be chosen in a figure; the frame comes with it.
    page.get_by_role("tab", name="Queries").click()
    page.locator("#together-run").click()
    page.locator("#together-told").get_by_text(f"of {4 * QUERIES} queries").wait_for()
    cells = page.locator("#together-matrix .nsewdrag").first
    cells.scroll_into_view_if_needed()
    cells.click(position={"x": cells.bounding_box()["width"] - 3, "y": 5})
    page.wait_for_function("qfvHandle.get().frame === 3")
    assert page.evaluate("qfvHandle.get().query") == QUERIES - 1
    # Patches are hidden in every frame, or in one; the strongest of a map where they are.
    page.get_by_role("tab", name="What if").click()
    canvases, told = page.locator(".qfv-painter canvas"), page.locator(".qfv-painter [role=status]")
    assert canvases.count() == 4
    canvases.nth(1).scroll_into_view_if_needed()
    canvases.nth(1).click(position={"x": 3, "y": 3})
    assert told.inner_text() == "4 of 64 patches of 4 frames hidden. At row 1, column 1 of frame 2, hidden."
    page.get_by_role("radio", name="One frame").click()
    canvases.nth(3).press("ArrowRight")
    canvases.nth(3).press("Space")
    assert told.inner_text() == "5 of 64 patches of 4 frames hidden. At row 1, column 2 of frame 4, hidden."
    canvases.nth(0).press("ArrowLeft")
    canvases.nth(0).press("Space")
    assert told.inner_text() == "4 of 64 patches of 4 frames hidden. At row 1, column 1 of frame 1, shown."
    # Pressing the button takes the focus from the picture; nothing may move from under the pointer.
    answer = page.get_by_role("button", name="Answer again without them")
    before = told.inner_text()
    answer.click()
    assert told.inner_text() == before
    page.locator("#whatif-outcome").get_by_text("With 4 of 64 patches of 4 frames hidden from").wait_for()
    page.get_by_role("button", name="Strongest tenth").click()
    assert told.inner_text().startswith("6 of 64")
