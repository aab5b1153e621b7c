"""Every view by those rules of WCAG 2.2 that a program can check (axe-core): light, dark, on the narrowest screen."""

import io
import re
from collections import Counter

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image

from tests.support.screenshots import IDLE, converse
from tests.support.serving import serve

pytestmark = pytest.mark.browser
RULES = {"rules": {"target-size": {"enabled": True}}, "resultTypes": ["violations"]}
# What Gradio draws itself and offers no way to name: (rule, its markup).
GRADIO = (
    ("image-redundant-alt", r'<img class="svelte-\w+" src="data:image/svg\+xml'),
    ("label-content-name-mismatch", r'<button class="upload-container svelte-'),
)


class Audit:
    """Looks at a page as it stands, by day, by night and 320 pixels wide; `found` holds what is wrong and where."""

    def __init__(self, page):
        self.page, self.found = page, {}

    def look(self, where: str) -> None:
        page = self.page
        for width, dark in ((1440, False), (1440, True), (320, True), (320, False)):
            way = f"{width} pixels, {'dark' if dark else 'light'}"
            page.set_viewport_size({"width": width, "height": 900})
            page.emulate_media(color_scheme="dark" if dark else "light")  # the saved page follows the system,
            page.evaluate("dark => document.body.classList.toggle('dark', dark)", dark)  # Gradio's a class
            page.wait_for_timeout(300)
            for rule in Axe().run(page, options=RULES).response["violations"]:
                for node in rule["nodes"]:
                    if not any(rule["id"] == name and re.match(own, node["html"]) for name, own in GRADIO):
                        what = (rule["id"], node["html"][:200], node.get("failureSummary", "")[:300])
                        self.found.setdefault(what, []).append(f"{where}, {way}")
            if page.evaluate("document.scrollingElement.scrollWidth > innerWidth"):
                self.found.setdefault(("reflow", "scrolls sideways"), []).append(f"{where}, {way}")
        page.set_viewport_size({"width": 1440, "height": 900})
        page.wait_for_timeout(300)

    def report(self) -> str:
        """One line for each thing found, one for where."""
        return "\n".join(f"{what}\n    {len(at)}: {', '.join(at[:4])}" for what, at in self.found.items())


@pytest.mark.slow
def test_all_views_keep_the_rules(open_page):
    with serve("app") as url:
        page = open_page(url)
        audit = Audit(page)
        page.wait_for_selector("#examples button.thumbnail-item img")
        audit.look("first screen")
        page.locator("#model input").click()
        page.get_by_role("option", name="InstructBLIP emoji").click()
        page.wait_for_function("document.querySelector('#header').innerText.includes('InstructBLIP emoji')")
        converse(page)
        told = page.locator("#chat").aria_snapshot()
        assert 'group "You": where is the cat?' in told and told.count('group "The model"') == 3, told
        page.locator("#scene-maker button").first.click()
        page.locator("#decoding button").first.click()
        page.locator(".qfv-item").nth(3).click(modifiers=["Shift"])
        audit.look("a conversation")
        page.locator("#scene-maker button").first.click()
        page.locator("#decoding button").first.click()

        def tab(name, button, *appears):
            page.get_by_role("tab", name=name, exact=True).first.click()
            if button:
                page.locator(button).click()
            for each in appears:
                page.locator(each).first.wait_for(timeout=60_000)
            audit.look(name)

        page.locator("#caption").click()
        page.wait_for_function(IDLE, arg=7)
        tab("Why", "#why-run", ".qfv-chip")
        page.get_by_role("button", name="Check this map").click()
        page.locator("#why-curves .js-plotly-plot").wait_for()
        audit.look("a verdict")
        page.get_by_role("tab", name="What if").click()
        page.get_by_role("button", name="Strongest tenth").click()
        page.get_by_role("button", name="Answer again without them").click()
        tab("What if", None, "#whatif-outcome table")
        page.get_by_role("tab", name="Queries", exact=True).nth(1).click()
        audit.look("What if, queries")
        tab("Queries", "#together-run", "#together-matrix .js-plotly-plot")
        tab("Heads", "#heads-run", "#heads-talk .js-plotly-plot", "#heads-attention .js-plotly-plot")
        tab("Similarity", None, "#similarity-plot .js-plotly-plot")
        tab("Statistics", None, "#statistics-plot .js-plotly-plot")
        tab("Images", "#across-run", ".qfv-album figure:nth-child(24)", "#across-plot .js-plotly-plot")
        tab("Questions", "#questions-compare", ".qfv-difference canvas")
        tab("Models", "#versus-run", "#versus-view canvas")
        tab("Models", "#apart-run", "#apart-answers table", "#apart-plot .js-plotly-plot")
        page.get_by_role("tab", name="Match").click()
        page.locator("#match-texts textarea").fill("a cat\na dog")
        tab("Match", "#match-compare", "#match-table tbody tr", "#match-plot .js-plotly-plot")
        tab("Precision", "#precision-run", "#precision-told p")
        tab("Export", None)
        tab("About", None)
        page.locator("#scene-maker button").first.click()
        page.locator("#scene-film").click()
        page.locator(".qfv-frame").nth(1).click()
        page.wait_for_function(IDLE, arg=1)
        audit.look("a film")
    assert not audit.found, audit.report()


def test_a_saved_page_keeps_the_rules(view, open_page, tmp_path):
    page = open_page(view.save(tmp_path / "view.html").as_uri())
    page.locator(".qfv-chip").nth(2).click()
    audit = Audit(page)
    audit.look("a saved page")
    assert not audit.found, audit.report()


def test_what_is_chosen_and_how_much_shows_in_a_readers_own_colours(view, open_page, tmp_path):
    page = open_page(view.save(tmp_path / "view.html").as_uri())
    page.emulate_media(forced_colors="active")
    page.locator(".qfv-chip").nth(2).click()

    def background(selector):
        picture = Image.open(io.BytesIO(page.locator(selector).first.screenshot())).convert("RGB")
        return Counter(picture.get_flattened_data()).most_common(1)[0][0]

    for kind, state in (("seg", "checked"), ("item", "selected")):
        chosen, other = (f'.qfv-{kind}[aria-{state}="{told}"]' for told in ("true", "false"))
        under = " .qfv-under" if kind == "item" else ""
        assert background(chosen + under) != background(other + under)
    assert background(".qfv-moved .qfv-fill") != background(".qfv-moved button")


def test_what_breaks_a_rule_is_found(open_page):
    page = open_page(
        "data:text/html,<html lang=en><title>Pale</title><main><h1>Pale</h1><p style='color:%23aaa'>words</p>"
    )
    audit = Audit(page)
    audit.look("a pale page")
    assert [rule for rule, *_ in audit.found] == ["color-contrast"]
    page.evaluate("document.querySelector('p').style = 'width: 2000px'")
    audit.found.clear()
    audit.look("a wide page")
    assert [rule for rule, *_ in audit.found] == ["reflow"]
