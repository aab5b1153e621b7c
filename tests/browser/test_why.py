"""The Why tab in a real Chromium, over a fake model."""

import pytest

from tests.browser.test_app import ask, captioned, open_page, picture, url  # noqa: F401

pytestmark = pytest.mark.browser


def test_from_a_word_to_its_query_and_patches(url, open_page):  # noqa: F811
    page = open_page(url)
    page.locator("#why-run").click()
    page.get_by_text("There is no image yet").last.wait_for()
    captioned(page)
    ask(page, "<b>one?</b>")
    page.wait_for_function("document.querySelector('#chat').innerText.includes('you asked <b>one?</b>')")
    page.locator("#why-occlude input").check()
    page.locator("#why-run").click()
    page.wait_for_selector(".qfv-chip")
    chips = page.locator(".qfv-chip")
    assert chips.locator("span").all_inner_texts() == ["you", "asked", "<b>one?</b>"]
    requests = len(page.requests)
    status, body = page.locator(".qfv-why [role=status]"), page.locator(".qfv-why-body")
    # The first word with a map is chosen; the one from language says so and has none.
    assert "“asked”" in status.inner_text() and body.is_visible()
    chips.nth(0).click()
    assert "from language" in status.inner_text() and not body.is_visible()
    chips.nth(0).press("ArrowLeft")
    assert chips.nth(2).get_attribute("aria-checked") == "true"
    queries = page.locator(".qfv-why .qfv-moved button")
    assert queries.all_inner_texts()[0].split() == ["02", "+1.000"] and queries.count() == 1
    queries.first.click()
    assert page.evaluate("[qfvHandle.get().query, qfvHandle.get().layer]") == [2, 4]
    page.locator(".qfv-why select").select_option(label="Patch occlusion")
    assert "without going through single queries" in body.inner_text() and queries.count() == 0
    assert "row 1, column 3" in page.locator(".qfv-why canvas").get_attribute("aria-label")
    assert len(page.requests) == requests
    page.locator("#why-queries input, #why-queries textarea").fill("2, 99")
    page.locator("#why-again").click()
    page.get_by_text("Name queries by their numbers, 0 to 7").wait_for()
    page.locator("#why-queries input, #why-queries textarea").fill("2")
    page.locator("#why-again").click()
    page.locator("#why-outcome table").wait_for()
    rows = [row.split("\t") for row in page.locator("#why-outcome tbody tr").all_inner_texts()]
    assert [(row[0], row[-1]) for row in rows] == [
        ("you", "+0.00"),
        ("asked", "+0.00"),
        ("<b>one?</b>", "-1.00"),
    ]
    captioned(page, picture("blue"))
    page.wait_for_function("!document.querySelector('#why-outcome table')")
    page.wait_for_function("!document.querySelector('.qfv-chip')")
