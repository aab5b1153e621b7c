"""The picker of models and the Questions tab in a real Chromium, over fake models."""

import pytest
from playwright.sync_api import TimeoutError

from tests.support.page_actions import ask, captioned, choose, picture

pytestmark = pytest.mark.browser


def taken(page, question):
    """Ask until it is: while an answer is being written, a question is refused and stays in its box."""
    for _ in range(20):
        ask(page, question)
        try:
            page.wait_for_function(
                f"document.querySelector('#chat').innerText.includes('you asked {question}')", timeout=3_000
            )
            return
        except TimeoutError:
            continue
    raise AssertionError(f"{question} was never answered")


def test_another_model_takes_over_and_a_failing_one_does_not(url, open_page):
    page = open_page(url)
    captioned(page)
    ask(page, "one?")
    page.wait_for_function("document.querySelector('#chat').innerText.includes('you asked one?')")
    choose(page, "Broken")
    page.get_by_text("Get it again").wait_for()  # once
    page.wait_for_function("document.querySelector('#model input').value === 'Fake BLIP-2'")
    page.get_by_text("Get it again").wait_for(state="hidden")
    page.locator("#model input").focus()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("Brok")
    page.get_by_role("option", name="Broken").wait_for()
    page.keyboard.press("Enter")
    page.get_by_text("Get it again").wait_for()
    assert "you asked one?" in page.locator("#chat").inner_text()
    page.wait_for_function("document.querySelector('#model input').value === 'Fake BLIP-2'")
    choose(page, "Fake InstructBLIP")
    page.wait_for_function("!document.querySelector('#chat').innerText.includes('you asked one?')")
    page.wait_for_function("document.querySelector('#chat').innerText.includes('picture')")


def test_two_models_side_by_side(url, open_page):
    page = open_page(url)
    page.get_by_role("tab", name="Models").click()
    page.locator("#versus-run").click()
    page.locator("#versus-told").get_by_text("There is no image yet").wait_for()
    captioned(page)
    page.wait_for_function("!document.querySelector('#versus-told').innerText.includes('no image')")
    page.locator("#versus-run").click()
    page.wait_for_selector("#versus-view .qfv-difference figure canvas")
    titles = ["Fake BLIP-2", "Fake InstructBLIP", "Second − first"]
    assert page.locator("#versus-view figcaption").all_inner_texts() == titles
    assert "the second model moved 0.0 %" in page.locator("#versus-view [role=status]").inner_text()
    assert page.locator("#versus-told dd").count() == 2
    # The canvas and this view are about the same query.
    page.locator(".qfv-item").nth(3).click()
    page.wait_for_function("document.querySelector('#versus-view select').value === '3'")
    # What was compared belongs to an answer, and a model is compared with another.
    choose(page, "Fake InstructBLIP")
    page.wait_for_function("!document.querySelector('#versus-view canvas')")
    page.wait_for_function("document.querySelector('#versus-other input').value === 'Fake BLIP-2'")
    page.locator("#versus-run").click()
    page.wait_for_selector("#versus-view .qfv-difference figure canvas")
    assert page.locator("#versus-view figcaption").all_inner_texts()[:2] == titles[1::-1]


def test_one_goes_on_talking_while_another_model_is_read(url, open_page):
    page = open_page(url)
    captioned(page)
    choose(page, "Slow")
    ask(page, "meanwhile?")
    page.wait_for_function(
        "document.querySelector('#chat').innerText.includes('you asked meanwhile?')", timeout=6_000
    )
    page.wait_for_function("!document.querySelector('#chat').innerText.includes('you asked meanwhile?')")
    page.wait_for_function("document.querySelector('#chat').innerText.includes('picture')")
    assert page.locator("#model input").input_value() == "Slow"


def test_the_maps_of_two_questions_and_what_moved(url, open_page):
    page = open_page(url)
    captioned(page)
    page.get_by_role("tab", name="Questions").click()
    page.locator("#questions-compare").click()
    page.get_by_text("does not read the question").wait_for()
    choose(page, "Fake InstructBLIP")
    page.wait_for_function("!document.querySelector('#questions-told').innerText.includes('does not read')")
    for question in ("one?", "a longer one?"):
        taken(page, question)
    page.wait_for_function("document.querySelector('#questions-second input').value === 'a longer one?'")
    page.locator("#questions-compare").click()
    page.wait_for_selector(".qfv-difference figure canvas")
    assert page.locator(".qfv-difference figcaption").all_inner_texts()[:2] == ["one?", "a longer one?"]
    told = page.locator(".qfv-difference [role=status]")
    # Query 2 of the fake looks at one patch whatever is asked, so the canvas opens on it, and this view follows.
    assert "Query 02, layer 4, mean of 2 heads" in told.inner_text()
    page.evaluate("qfvHandle.select({ queries: [0] })")
    page.wait_for_function(
        "document.querySelector('.qfv-difference [role=status]').innerText.includes('Query 00')"
    )
    page.evaluate("qfvHandle.select({ queries: [2], layer: 4 })")
    page.wait_for_function(
        "document.querySelector('.qfv-difference [role=status]').innerText.includes('moved 0.0 %')"
    )
    requests = len(page.requests)
    page.locator(".qfv-moved button").first.click()
    page.wait_for_function(
        "!document.querySelector('.qfv-difference [role=status]').innerText.includes('moved 0.0 %')"
    )
    assert page.evaluate("qfvHandle.get().query") != 2 and page.evaluate("qfvHandle.get().layer") == 4
    assert len(page.requests) == requests
    ask(page, "another?")
    page.wait_for_function("document.querySelector('#questions-second input').value === 'another?'")
    assert page.locator(".qfv-difference figure").count() == 3
    captioned(page, picture("blue"))
    page.wait_for_function("!document.querySelector('.qfv-difference')")
