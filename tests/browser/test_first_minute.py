"""What a visitor meets first, in a real Chromium: what sticks, and what goes with a picture or an answer."""

import pytest

from tests.support.page_actions import ask, captioned, picture, said, text

pytestmark = pytest.mark.browser
FRAMED = "body:not(.qfv-no-example) #examples button.thumbnail-item.selected"


def explained(page):
    """A finished answer to a question, taken apart."""
    ask(page, "one?")
    said(page, "you asked one?")
    page.locator("#why-run").click()
    page.locator(".qfv-chip").first.wait_for()


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (1024, 768)])
def test_the_left_column_stays_in_sight(url, open_page, width, height):
    page = open_page(url, width=width, height=height)
    captioned(page)
    explained(page)
    page.evaluate("window.scrollTo(0, document.documentElement.scrollHeight)")
    page.wait_for_function("scrollY > 200")
    assert 0 <= page.locator("#image").bounding_box()["y"] < 20
    assert page.locator("#send").bounding_box()["y"] < height
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_all_of_a_picture_goes_with_it(url, open_page):
    page = open_page(url)
    page.locator("#examples button.thumbnail-item").first.click()
    said(page, "picture")
    page.wait_for_selector("#canvas .qfv-host[data-image]")
    page.locator(FRAMED).wait_for()
    explained(page)
    page.get_by_role("tab", name="Queries", exact=True).first.click()
    page.locator("#together-run").click()
    page.locator("#together-matrix .js-plotly-plot").wait_for()
    page.get_by_role("button", name="Remove Image").click()
    page.wait_for_function("!document.querySelector('#canvas .qfv-host').dataset.image")
    page.locator("#canvas .qfv-empty").wait_for()
    page.wait_for_function("!document.querySelector('.qfv-chip')")
    page.wait_for_function("!document.querySelector('#chat').innerText.includes('picture')")
    page.locator(FRAMED).wait_for(state="detached")
    page.wait_for_function("!document.querySelector('#together-told').innerText.trim()")
    assert "example=" not in page.evaluate("location.hash")
    # Asking says that there is none, and another one is welcome.
    ask(page, "still there?")
    said(page, "There is no image yet")
    captioned(page)
    assert "no image yet" not in text(page)


def test_the_frame_of_an_example_goes_with_an_upload_and_stays_with_a_bad_one(url, open_page):
    page = open_page(url)
    page.locator("#examples button.thumbnail-item").first.click()
    said(page, "picture")
    page.locator("#image input[type=file]").set_input_files(
        {"name": "bad.png", "mimeType": "image/png", "buffer": b"no picture"}
    )
    said(page, "ⓘ")
    assert page.locator(FRAMED).count() == 1
    looks = "getComputedStyle(document.querySelector('#examples button.thumbnail-item')).boxShadow"
    assert page.evaluate(looks) != "none"
    captioned(page, picture("blue"))
    page.locator(FRAMED).wait_for(state="detached")
    page.wait_for_function(f"{looks} === 'none'")
    page.wait_for_function("!document.querySelector('#chat').innerText.includes('ⓘ')")


def test_the_words_of_an_answer_go_when_the_conversation_is_cleared(url, open_page):
    page = open_page(url)
    captioned(page)
    explained(page)
    page.locator("#clear").click()
    page.wait_for_function("!document.querySelector('.qfv-chip')")
    assert page.locator("#canvas .qfv-item").count() and "picture" not in text(page)
    assert page.evaluate("window.qfvWord()") is None
