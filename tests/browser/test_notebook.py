"""The page with an answer's words, alone and in the frame of a notebook, in a real Chromium."""

import pytest
from PIL import Image

from qformer_viz.attribution.explanation import attribute, prepare
from qformer_viz.view.stage_payload import canvas_payload
from qformer_viz.view.standalone_page import standalone_page
from qformer_viz.view.word_payload import words_payload
from tests.support.fakes_ui import FakePipeline

pytestmark = pytest.mark.browser


def explore(page):
    """From a word to its query, in the page or a frame of it."""
    chips, status = page.locator(".qfv-chip"), page.locator(".qfv-why [role=status]")
    chips.first.wait_for()
    assert chips.locator("span").all_inner_texts() == ["you", "asked", "<b>one?</b>"]
    # The first word with a map is chosen; nothing offers to compute what a server would.
    assert "“asked”" in status.inner_text()
    assert not page.locator(".qfv-why-ask button").filter(visible=True).count()
    chips.nth(2).click()
    queries = page.locator(".qfv-why .qfv-moved button")
    assert queries.all_inner_texts()[0].split() == ["02", "+1.000"]
    queries.first.click()
    page.locator(".qfv-current").get_by_text("02").wait_for()
    page.locator(".qfv-why select").select_option(label="Patch occlusion")
    assert "row 1, column 3" in page.locator(".qfv-why canvas").get_attribute("aria-label")
    chips.nth(2).press("ArrowLeft")
    assert "“asked”" in status.inner_text()
    chips.nth(0).click()
    assert (
        "already settled by the words before it" in status.inner_text()
        and not page.locator(".qfv-why-body").is_visible()
    )


def test_a_saved_page(view, open_page, tmp_path):
    page = open_page(view.save(tmp_path / "view.html").as_uri())
    explore(page)
    assert page.evaluate("[qfvHandle.get().query, qfvHandle.get().layer]") == [2, 4]
    assert "q=2&layer=4" in page.url
    assert page.requests == []


def test_what_was_not_computed_is_said_and_not_offered(open_page, tmp_path):
    pipe = FakePipeline()
    encoded = pipe.encode(Image.new("RGB", (60, 40), "red"))
    case = prepare(pipe, encoded, pipe.ask(encoded, "one?"))
    every, one = attribute(case, "knockout"), attribute(case, "gradient", words=[1])

    def known(method, word):
        return (every, word) if method == "knockout" else (one, 0) if word == 1 else None

    words = words_payload(every, known, ["knockout", "gradient"])
    path = tmp_path / "page.html"
    path.write_text(standalone_page(canvas_payload(encoded.capture, encoded.image), words=words))
    page = open_page(path.as_uri())
    page.locator(".qfv-why select").select_option(label="Gradient × attention")
    page.locator(".qfv-why-body").wait_for()
    page.locator(".qfv-chip").nth(2).click()
    assert "This method was not run for it." in page.locator(".qfv-why-told").inner_text()
    assert not page.locator(".qfv-why-body").is_visible()
    assert not page.locator(".qfv-why-ask button").filter(visible=True).count()


@pytest.mark.parametrize("dark", [False, True])
def test_it_is_readable_and_fits_a_phone(view, open_page, tmp_path, dark):
    page = open_page(view.save(tmp_path / "view.html").as_uri(), width=390, height=844, touch=True, dark=dark)
    page.locator(".qfv-chip").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    ink, paper = page.evaluate(
        """() => [["button.qfv-chip", "color"], ["body", "backgroundColor"]].map(([where, what]) =>
          getComputedStyle(document.querySelector(where))[what].match(/\\d+/g).slice(0, 3)
            .reduce((sum, v) => sum + Number(v), 0))"""
    )
    assert (ink > 380 and paper < 150) if dark else (ink < 380 and paper > 700)
    # Its map lies on the picture.
    boxes = [page.locator(f".qfv-why figure {tag}").bounding_box() for tag in ("img", "canvas")]
    assert boxes[0] == boxes[1] and boxes[0]["width"] > 250


def test_in_the_frame_of_a_notebook(view, open_page, tmp_path):
    (tmp_path / "notebook.html").write_text(
        f"<!doctype html><script>window.secret = 1</script>{view._repr_html_()}", encoding="utf-8"
    )
    page = open_page((tmp_path / "notebook.html").as_uri())
    frame = page.frame_locator("iframe")
    explore(frame)
    # There is no address that could be copied; what is drawn can be saved.
    assert not frame.get_by_role("button", name="Copy link").count()
    with page.expect_download() as started:
        frame.get_by_role("button", name="SVG").click()
    assert started.value.suggested_filename == "qformer-viz_q02_layer-4_head-mean.svg"
    inside = page.frames[1]
    assert (
        inside.evaluate("(() => { try { return parent.secret } catch (e) { return e.name } })()")
        == "SecurityError"
    )
