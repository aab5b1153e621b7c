"""The page as a visitor uses it, in a real Chromium, over the fake pipeline of `tests.support.serve_fake`."""

import json
import re

import pytest
from PIL import Image

from qformer_viz.view.archive import load_npz
from tests.support.fakes_ui import QUERIES
from tests.support.page_actions import CELL, ask, captioned, picture, said, selection, text, upload

pytestmark = pytest.mark.browser


def test_upload_brings_caption_canvas_and_figures(url, open_page):
    page = open_page(url)
    page.get_by_role("img", name="An image is cut into patches").wait_for()
    captioned(page)
    assert not page.locator(".qfv-welcome").count()
    page.get_by_role("tab", name="Similarity").click()
    page.wait_for_selector("#similarity-plot .js-plotly-plot .heatmaplayer image")
    page.wait_for_function(
        "(document.querySelector('#similarity-facts')?.innerText ?? '').includes('Effective rank')"
    )
    assert page.locator("#canvas .qfv-item").count() == QUERIES


def test_conversation_streams_stops_retries_and_clears(url, open_page):
    page = open_page(url)
    captioned(page)
    ask(page, "slow please")
    page.locator("#stop").wait_for(state="visible")
    said(page, "you")
    assert page.locator("#send").is_hidden()
    page.locator("#stop").click()
    said(page, "stopped")
    page.locator("#send").wait_for(state="visible")
    ask(page, "what is it?")
    said(page, "you asked what is it?")
    assert page.locator("#question textarea").input_value() == ""
    page.locator("#decoding button").first.click()
    page.get_by_label("Sampled", exact=True).check()
    page.locator("#retry").click()
    said(page, "you asked what is it? number")
    assert text(page).count("you asked what is it?") == 1
    page.locator("#clear").click()
    page.wait_for_function("!(document.querySelector('#chat')?.innerText ?? '').includes('you asked')")
    ask(page, "still there?")
    said(page, "you asked still there?")


def test_markup_is_shown_as_it_was_typed(url, open_page):
    page = open_page(url)
    captioned(page)
    evil = "<b>bold</b><img src=x onerror='window.hacked=1'>"
    ask(page, evil)
    said(page, f"you asked {evil}")
    assert page.evaluate("window.hacked") is None
    assert page.locator("#chat b, #chat img[src=x]").count() == 0


def test_question_without_an_image_and_empty_question_are_explained(url, open_page):
    page = open_page(url)
    ask(page, "what is it?")
    said(page, "There is no image yet")
    captioned(page)
    ask(page, "   ")
    said(page, "The question is empty")
    ask(page, "nothing")
    said(page, "ended its answer before the first word")


@pytest.mark.parametrize(
    "content",
    [b"", b"plain words", picture()["buffer"][:60]],
    ids=["empty", "not an image", "truncated"],
)
def test_bad_upload_leaves_everything_as_it_was(url, open_page, content):
    page = open_page(url)
    captioned(page)
    before, shown = text(page), page.locator("#canvas .qfv-host").get_attribute("data-image")
    upload(page, {"name": "bad.png", "mimeType": "image/png", "buffer": content})
    said(page, "ⓘ")
    assert before.strip() in text(page)
    assert page.locator("#canvas .qfv-host").get_attribute("data-image") == shown
    ask(page, "and now?")
    said(page, "you asked and now?")


def test_exploring_asks_the_server_for_nothing(url, open_page):
    page = open_page(url)
    captioned(page)
    page.get_by_role("tab", name="Similarity").click()
    page.wait_for_selector("#similarity-plot .heatmaplayer image")
    page.wait_for_function(
        "(document.querySelector('#similarity-facts')?.innerText ?? '').includes('Effective rank')"
    )
    page.wait_for_timeout(1000)
    page.requests.clear()
    stage = page.locator("#canvas .qfv-stage").bounding_box()
    page.mouse.move(stage["x"] + stage["width"] * 0.4, stage["y"] + stage["height"] * 0.4)
    # Patch 5 of 4 x 4 lies there, and query 2 looks at nothing else.
    page.wait_for_function("(document.querySelector('#canvas .qfv-rank')?.innerText ?? '').includes('02')")
    page.locator("#canvas .qfv-item").nth(3).click()
    assert selection(page)["queries"] == [3]
    calls = [address for address in page.requests if "gradio_api" in address and "heartbeat" not in address]
    assert calls == []


def test_a_click_on_a_similarity_puts_both_queries_on_the_canvas(url, open_page):
    page = open_page(url)
    captioned(page)
    page.get_by_role("tab", name="Similarity").click()
    page.wait_for_selector("#similarity-plot .heatmaplayer image")
    page.locator("#similarity-plot").scroll_into_view_if_needed()
    labels = page.evaluate("document.querySelector('#similarity-plot .js-plotly-plot').data[0].x")
    box = page.locator(f"#similarity-plot {CELL}").bounding_box()
    cell = box["width"] / QUERIES
    page.mouse.click(box["x"] + 1.5 * cell, box["y"] + 4.5 * cell)
    wanted = sorted(int(labels[i]) for i in (1, 4))
    page.wait_for_function(
        "wanted => String([...qfvHandle.get().queries].sort((a, b) => a - b)) === String(wanted)",
        arg=wanted,
    )


def test_threshold_moves_the_redundancy(url, open_page):
    page = open_page(url)
    captioned(page)
    page.get_by_role("tab", name="Similarity").click()
    facts = page.locator("#similarity-facts")
    page.wait_for_function("(document.querySelector('#similarity-facts')?.innerText ?? '').includes('0.80')")
    before = facts.inner_text()
    page.locator("#similarity-threshold input[type=number]").fill("0")
    page.locator("#similarity-threshold input[type=number]").press("Enter")
    page.wait_for_function("(document.querySelector('#similarity-facts')?.innerText ?? '').includes('0.00')")
    assert facts.inner_text() != before


def test_statistics_select_on_the_canvas_too(url, open_page):
    page = open_page(url)
    captioned(page)
    page.get_by_role("tab", name="Statistics").click()
    page.wait_for_selector("#statistics-plot .heatmaplayer image")
    page.wait_for_function(
        "Number(document.querySelector('#statistics-table [role=grid]')?.getAttribute('aria-rowcount')) > 3"
    )
    page.locator("#statistics-plot").scroll_into_view_if_needed()
    box = page.locator(f"#statistics-plot {CELL}").bounding_box()
    page.mouse.click(box["x"] + 5.5 * box["width"] / QUERIES, box["y"] + 0.4 * box["height"])
    page.wait_for_function("qfvHandle.get().queries[0] === 5 && qfvHandle.get().layer === 2")


def test_downloads(url, open_page, tmp_path):
    page = open_page(url)
    captioned(page)
    ask(page, "why?")
    said(page, "you asked why?")
    page.get_by_role("tab", name="Export").click()
    got = {}
    for name in ("npz", "manifest", "page", "sheet", "csv", "png", "svg"):
        with page.expect_download() as download:
            page.locator(f"#export-{name}").click()
        got[name] = tmp_path / download.value.suggested_filename
        download.value.save_as(got[name])
    capture, manifest = load_npz(got["npz"])
    assert capture.query_tokens.shape[0] == QUERIES and manifest["question"] == "why?"
    assert json.loads(got["manifest"].read_text()) == manifest
    for name in ("sheet", "png"):
        with Image.open(got[name]) as image:
            assert image.width > 50
    assert "<svg" in got["svg"].read_text()
    assert len(got["csv"].read_text().splitlines()) == 1 + 4 * QUERIES
    again = open_page(got["page"].as_uri())
    again.wait_for_selector(".qfv-item")
    assert again.locator(".qfv-item").count() == QUERIES
    assert "why?" in again.content()


def test_export_without_an_image_is_explained(url, open_page):
    page = open_page(url)
    page.get_by_role("tab", name="Export").click()
    page.locator("#export-npz").click()
    page.get_by_text("There is no image yet.").wait_for()


def test_example_and_scene_maker_bring_captions(url, open_page):
    page = open_page(url)
    page.locator("#examples button.thumbnail-item, #examples button").first.click()
    page.wait_for_function("/picture [0-9a-f]{8}/.test((document.querySelector('#chat')?.innerText ?? ''))")
    first = re.search("picture [0-9a-f]{8}", text(page)).group()
    page.locator("#scene-maker button").first.click()
    page.locator("#scene-draw").click()
    page.wait_for_function(
        "first => /picture [0-9a-f]{8}/.test((document.querySelector('#chat')?.innerText ?? ''))"
        " && !(document.querySelector('#chat')?.innerText ?? '').includes(first)",
        arg=first,
    )


def test_two_visitors_do_not_meet(url, open_page):
    one, two = open_page(url), open_page(url)
    captioned(one, picture("red"))
    captioned(two, picture("blue"))
    ask(one, "slow one")
    said(one, "you")
    ask(two, "from two")
    one.locator("#stop").wait_for(state="visible")
    one.locator("#stop").click()
    said(one, "stopped")
    said(two, "you asked from two")
    assert "from two" not in text(one) and "slow" not in text(two)
    assert "stopped" not in text(two)
    images = {p.locator("#canvas .qfv-host").get_attribute("data-image") for p in (one, two)}
    assert len(images) == 2


def test_new_image_ends_a_running_answer(url, open_page):
    page = open_page(url)
    captioned(page)
    ask(page, "slow please")
    page.locator("#stop").wait_for(state="visible")
    said(page, "you")
    before = page.locator("#canvas .qfv-host").get_attribute("data-image")
    upload(page, picture("blue"))
    page.wait_for_function(
        "before => document.querySelector('#canvas .qfv-host')?.dataset.image !== before", arg=before
    )
    page.wait_for_function(
        "/picture [0-9a-f]{8}/.test((document.querySelector('#chat')?.innerText ?? ''))"
        " && !(document.querySelector('#chat')?.innerText ?? '').includes('slow')"
    )


def test_phone_shows_image_canvas_conversation_in_that_order(url, open_page):
    page = open_page(url, width=390, height=844, touch=True)
    captioned(page)
    tops = [page.locator(name).bounding_box()["y"] for name in ("#image", "#canvas", "#chat", "#tabs")]
    assert tops == sorted(tops)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("dark", [False, True])
def test_a_laptop_shows_conversation_and_canvas_at_once(url, open_page, dark):
    page = open_page(url, dark=dark)
    captioned(page)
    for name in ("#image", "#chat", "#question", "#send", "#canvas .qfv-stage", "#canvas .qfv-sheet"):
        box = page.locator(name).first.bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= 900, name
    assert page.evaluate("document.documentElement.scrollWidth") <= 1440
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", paper)[:3])) < 200) == dark
