"""The Why and What if tabs in a real Chromium, over a fake model."""

import time

import pytest

from tests.support.fakes_ui import GREEN
from tests.support.page_actions import ask, captioned, picture, said

pytestmark = pytest.mark.browser


def about(page, question):
    """A finished answer to a question, about the image at hand."""
    ask(page, question)
    page.wait_for_function(
        "(text) => document.querySelector('#chat').innerText.includes(text)", arg=f"you asked {question}"
    )


def test_from_a_word_to_its_query_and_patches(url, open_page):
    page = open_page(url)
    page.locator("#why-run").click()
    page.get_by_text("There is no image yet").last.wait_for()
    captioned(page)
    about(page, "<b>one?</b>")
    page.locator("#why-run").click()
    page.wait_for_selector(".qfv-chip")
    chips = page.locator(".qfv-chip")
    assert chips.locator("span").all_inner_texts() == ["you", "asked", "<b>one?</b>"]
    requests = len(page.requests)
    status, body = page.locator(".qfv-why [role=status]"), page.locator(".qfv-why-body")
    # The first word with a map is chosen; the one from language says so and has none.
    assert "“asked”" in status.inner_text() and body.is_visible()
    chips.nth(0).click()
    assert "already settled by the words before it" in status.inner_text() and not body.is_visible()
    chips.nth(0).press("ArrowLeft")
    assert chips.nth(2).get_attribute("aria-checked") == "true"
    queries = page.locator(".qfv-why .qfv-moved button")
    assert queries.all_inner_texts()[0].split() == ["02", "+1.000"] and queries.count() == 1
    queries.first.click()
    assert page.evaluate("[qfvHandle.get().query, qfvHandle.get().layer]") == [2, 4]
    page.locator(".qfv-why select").select_option(label="Raw attention")
    assert "row" in page.locator(".qfv-why canvas").get_attribute("aria-label")
    assert len(page.requests) == requests
    # A slow method runs when asked for, and the view goes on where it was.
    page.locator(".qfv-why select").select_option(label="Patch occlusion")
    assert "has not run yet, and may take a while" in status.inner_text() and not body.is_visible()
    page.get_by_role("button", name="Run Patch occlusion").click()
    page.locator(".qfv-why-body").get_by_text("without going through single queries").wait_for()
    assert "“<b>one?</b>”" in status.inner_text() and queries.count() == 0
    assert "row 1, column 3" in page.locator(".qfv-why canvas").get_attribute("aria-label")
    requests = len(page.requests)
    chips.nth(1).click()
    assert "row 1, column 2" in page.locator(".qfv-why canvas").get_attribute("aria-label")
    assert len(page.requests) == requests
    # One that works word by word has run for no other word.
    page.locator(".qfv-why select").select_option(label="Gradient × attention")
    page.get_by_role("button", name="Run Gradient × attention for “asked”").click()
    body.wait_for(state="visible")
    chips.nth(2).click()
    assert "has not run yet" in status.inner_text()
    chips.nth(1).click()
    page.get_by_role("button", name="Check this map").click()
    page.locator("#why-sentence").get_by_text("✓ Confirmed: ").wait_for()
    page.locator("#why-curves .js-plotly-plot").wait_for()
    captioned(page, picture("blue"))
    page.wait_for_function("!document.querySelector('.qfv-chip')")
    page.wait_for_function("!document.querySelector('#why-sentence').innerText.trim()")
    assert not page.locator("#why-curves .js-plotly-plot").is_visible()


def test_answers_with_something_taken_away(url, open_page):
    page = open_page(url)
    page.get_by_role("tab", name="What if").click()
    page.get_by_role("tab", name="Queries").last.click()
    page.locator("#whatif-again").click()
    page.locator("#whatif-outcome").get_by_text("There is no image yet").wait_for()
    captioned(page)
    about(page, "<b>one?</b>")
    numbers = page.locator("#whatif-queries input, #whatif-queries textarea")
    numbers.fill("2, 99")
    page.locator("#whatif-again").click()
    page.get_by_text("Name queries by their numbers, 0 to 7").wait_for()
    numbers.fill("2")
    page.locator("#whatif-again").click()
    page.locator("#whatif-outcome table").wait_for()

    def losses():
        rows = [row.split("\t") for row in page.locator("#whatif-outcome tbody tr").all_inner_texts()]
        return [(row[0], row[-1]) for row in rows]

    assert losses() == [("you", "+0.00"), ("asked", "+0.00"), ("<b>one?</b>", "-1.00")]
    # Painting: by pointer, by keys, and from the map of the other tab.
    page.get_by_role("tab", name="Patches").click()
    canvas, told = page.locator(".qfv-painter canvas"), page.locator(".qfv-painter [role=status]")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()

    def at(row, column):
        return box["x"] + (column + 0.5) * box["width"] / 4, box["y"] + (row + 0.5) * box["height"] / 4

    page.mouse.move(*at(0, 1))
    page.mouse.down()
    page.mouse.move(*at(0, 2), steps=4)
    page.mouse.up()
    assert told.inner_text().startswith("2 of 16 patches hidden. At row 1, column 3, hidden.")
    canvas.press("ArrowLeft")
    canvas.press("Space")
    assert told.inner_text().startswith("1 of 16 patches hidden. At row 1, column 2, shown.")
    page.get_by_role("button", name="Answer again without them").click()
    page.locator("#whatif-outcome").get_by_text("With 1 of 16 patches hidden from the Q-Former:").wait_for()
    assert losses() == [("you", "+0.00"), ("asked", "+0.00"), ("<b>one?</b>", "-1.00")]
    page.get_by_role("button", name="Invert").click()
    assert told.inner_text().startswith("15 of 16")
    page.get_by_role("button", name="Strongest tenth").click()
    assert "There is no map in Why yet" in told.inner_text()
    page.get_by_role("tab", name="Why").click()
    page.locator("#why-run").click()
    page.wait_for_selector(".qfv-chip")
    page.locator(".qfv-chip").nth(2).click()
    page.get_by_role("tab", name="What if").click()
    page.get_by_role("button", name="Strongest tenth").click()
    # The fake's query 2 looks at patch 5 only.
    assert told.inner_text().startswith("2 of 16")
    page.locator(".qfv-painter select").select_option(value="vit")
    page.get_by_role("button", name="Answer again without them").click()
    page.locator("#whatif-outcome").get_by_text("changed <i>answer").wait_for()
    captioned(page, picture("blue"))
    page.wait_for_function("!document.querySelector('#whatif-outcome table')")
    page.wait_for_function(
        "document.querySelector('.qfv-painter [role=status]').innerText.startsWith('0 of 16')"
    )


def test_an_object_of_a_known_scene_is_taken_out(url, open_page, tmp_path):
    page = open_page(url)
    captioned(page)
    page.get_by_role("tab", name="What if").click()
    page.get_by_role("tab", name="An object of the scene").click()
    page.locator("#whatif-draw").click()
    page.get_by_text("What is in this image is not known").wait_for()
    captioned(page, picture(GREEN))
    page.wait_for_function("document.querySelector('#whatif-object input').value === 'cat'")
    page.locator("#whatif-draw").click()
    page.locator("#whatif-outcome").get_by_text("Without the cat:").wait_for()
    assert page.locator("#whatif-outcome img").count() == 2


def test_queries_are_weighed_together(url, open_page):
    page = open_page(url)
    captioned(page)
    about(page, "<b>one?</b>")
    page.get_by_role("tab", name="Queries", exact=True).first.click()
    page.locator("#together-run").click()
    page.locator("#together-told").get_by_text(
        "2 of 8 queries are enough for the same answer, word for word: 01, 02"
    ).wait_for()
    for plot in ("matrix", "shares", "pairs"):
        page.locator(f"#together-{plot} .js-plotly-plot").wait_for()
    assert "“asked”" in page.locator("#together-shares").inner_text()
    page.locator("#together-word input").click()
    page.get_by_role("option", name="<b>one?</b> (3)").click()
    page.locator("#together-shares").get_by_text("Queries of “<b>one?</b>”, nats").wait_for()
    # A click in the matrix shows the query on the canvas.
    page.locator("#together-matrix .nsewdrag").scroll_into_view_if_needed()
    page.locator("#together-matrix .nsewdrag").first.click(position={"x": 5, "y": 5})
    page.wait_for_function("qfvHandle.get().query === 0")
    page.locator("#together-lens button").first.click()
    page.get_by_text("The logit lens is known to mislead").wait_for()
    assert page.locator("#together-lens tbody tr").count() == 8
    captioned(page, picture("blue"))
    page.wait_for_function("!document.querySelector('#together-told').innerText.trim()")
    assert not page.locator("#together-matrix .js-plotly-plot").is_visible()


def test_nobody_waits_for_anothers_explanation_and_what_is_outdated_is_not_shown(url, open_page):
    first, second = open_page(url), open_page(url)
    captioned(first)
    about(first, "one?")
    first.locator("#why-run").click()
    first.wait_for_selector(".qfv-chip")
    captioned(second)

    def run():
        first.locator(".qfv-why select").select_option(label="Held")
        first.get_by_role("button", name="Run Held").click()
        first.locator("#why-told .progress-text, #why-told .progress-level").first.wait_for()

    run()
    for page, question in ((second, "two?"), (first, "three?")):
        began = time.monotonic()
        ask(page, question)
        said(page, f"you asked {question}")
        assert time.monotonic() - began < 15  # half of what the explanation takes
    # Its own next answer has made it outdated; it is stopped and says nothing any more.
    first.locator("#why-run").click()
    first.locator(".qfv-chip", has_text="three?").wait_for()
    run()
    first.locator("#why-stop").click()
    first.locator("#why-told").get_by_text("Stopped").wait_for()
    run()
    captioned(first, picture("blue"))
    first.wait_for_function("!document.querySelector('.qfv-chip')")
    first.wait_for_timeout(1500)
    assert "Stopped" not in first.locator("#why-told").inner_text()


def test_heads_are_silenced_and_chosen_on_the_canvas(url, open_page):
    page = open_page(url)
    captioned(page)
    page.get_by_role("tab", name="Heads", exact=True).first.click()
    # Which queries each query attends to needs no model.
    page.locator("#heads-attention .heatmaplayer image").wait_for(state="attached")
    about(page, "<b>one?</b>")
    page.locator("#heads-run").click()
    page.locator("#heads-told").get_by_text("3 of 18").wait_for()
    for plot in ("cross", "own", "talk"):
        page.locator(f"#heads-{plot} .js-plotly-plot").wait_for()
    page.locator("#heads-word input").click()
    page.get_by_role("option", name="<b>one?</b> (3)").click()
    page.locator("#heads-told").get_by_text("“<b>one?</b>”").wait_for()

    def click(column, row):
        cells = page.locator("#heads-cross .nsewdrag").first
        box = cells.bounding_box()
        # Where it is by then: it waits until the plot stands still.
        cells.click(position={"x": (column + 0.5) * box["width"] / 3, "y": (row + 0.5) * box["height"] / 3})

    click(1, 1)
    page.wait_for_function("qfvHandle.get().layer === 2 && qfvHandle.get().head === 1")
    click(2, 0)
    page.wait_for_function("qfvHandle.get().layer === 0 && qfvHandle.get().head === 'mean'")
    # The canvas shows cross-attention: a head of self-attention is not on it, and its number is no query's.
    before = page.evaluate("JSON.stringify(qfvHandle.get())")
    page.locator("#heads-own .nsewdrag").first.click(position={"x": 5, "y": 5})
    assert page.evaluate("JSON.stringify(qfvHandle.get())") == before
    # In self-attention both queries of a cell are chosen, and layer and head stay.
    cells = page.locator("#heads-attention .nsewdrag").first
    cells.scroll_into_view_if_needed()
    box = cells.bounding_box()
    page.mouse.click(box["x"] + 4.5 * box["width"] / 8, box["y"] + 1.5 * box["height"] / 8)
    page.wait_for_function(
        "String([...qfvHandle.get().queries].sort()) === '1,4' && qfvHandle.get().layer === 0"
    )
