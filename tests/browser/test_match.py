"""The Match tab in a real Chromium, over the fake matcher."""

import pytest

from tests.support.page_actions import ask, captioned, picture, said

pytestmark = pytest.mark.browser


def compare(page, *texts):
    page.get_by_role("tab", name="Match").click()
    page.locator("#match-texts textarea").fill("\n".join(texts))
    page.locator("#match-compare").click()


def test_texts_are_compared_and_their_maps_shown(url, open_page):
    page = open_page(url)
    captioned(page)
    own = page.evaluate("qfvHandle.stats().entropy")
    compare(page, "a cat", "<img src=x onerror=window.hacked=1> three buses")
    page.wait_for_selector("#match-table tbody tr")
    rows = page.locator("#match-table tbody tr").all_inner_texts()
    assert len(rows) == 2 and rows[0].startswith("<img src=x") and "%" in rows[0]
    assert page.evaluate("window.hacked") is None
    page.wait_for_selector("#match-plot .js-plotly-plot")
    page.locator("#match-show").click()
    page.wait_for_function("document.querySelector('#canvas').innerText.includes('this image and text')")
    assert page.evaluate("qfvHandle.stats().entropy") != own
    # The canvas says whose maps they are, and has the way back; the next answer ends them.
    banner, back = (
        page.locator(".qfv-visiting"),
        page.get_by_role("button", name="Back to the model that chats"),
    )
    assert (
        "Fake <i>matcher</i>, for “<img src=x" in banner.inner_text() and page.locator(".qfv i").count() == 0
    )
    back.first.click()
    banner.wait_for(state="detached")
    assert page.evaluate("qfvHandle.stats().entropy") == own
    page.locator("#match-show").click()
    banner.wait_for()
    ask(page, "one?")
    said(page, "you asked one?")
    banner.wait_for(state="detached")
    assert page.evaluate("qfvHandle.stats().entropy") == own


def test_a_new_image_forgets_what_was_compared(url, open_page):
    page = open_page(url)
    compare(page, "a cat")
    page.wait_for_function("document.querySelector('#match-table').innerText.includes('no image yet')")
    captioned(page)
    compare(page, "a cat")
    page.wait_for_selector("#match-table tbody tr")
    captioned(page, picture("blue"))
    page.wait_for_function("!document.querySelector('#match-table tbody tr')")
    assert not page.locator("#match-show").is_visible()
