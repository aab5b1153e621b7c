"""python -m tests.support.screenshots: the pictures of the README, taken from the running app with the bundled
model."""

from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.support.chromium import launch
from tests.support.serving import serve

OUT = Path(__file__).parents[2] / "assets" / "screenshots"
IDLE = "n => document.querySelectorAll('#chat .message').length >= n && !document.body.classList.contains('qfv-busy')"


@contextmanager
def opened(browser, url: str, width: int, height: int, dark: bool = False, touch: bool = False):
    """A page on which an example is captioned and two questions are answered."""
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if dark else "light",
        has_touch=touch,
        is_mobile=touch,
    )
    page = context.new_page()
    page.goto(url)
    converse(page)
    page.wait_for_timeout(1000)
    yield page
    context.close()


def converse(page) -> None:
    """Have the first example captioned, and ask two questions about it."""
    page.get_by_role("button", name="cat and dog", exact=True).click()
    page.wait_for_selector("#canvas .qfv-item")
    page.wait_for_function(IDLE, arg=1)
    for turn, question in enumerate(("where is the cat?", "is there a rocket?"), 1):
        page.locator("#question textarea").fill(question)
        page.locator("#send").click()
        page.wait_for_function(IDLE, arg=1 + 2 * turn)


def main() -> None:
    """Write desktop.png, phone.png, similarity.png, why.png, whatif.png, heads.png, images.png and film.png."""
    OUT.mkdir(exist_ok=True)
    with serve("app") as url, sync_playwright() as playwright:
        browser = launch(playwright)
        with opened(browser, url, 1440, 900) as page:
            stage = page.locator("#canvas .qfv-stage").bounding_box()
            page.mouse.move(stage["x"] + 0.22 * stage["width"], stage["y"] + 0.47 * stage["height"])
            page.wait_for_timeout(300)
            page.screenshot(path=OUT / "desktop.png")
        with opened(browser, url, 1440, 900, dark=True) as page:
            page.get_by_role("tab", name="Similarity").click()
            page.wait_for_selector("#similarity-plot .heatmaplayer image")
            page.locator("#tabs").evaluate("node => node.scrollIntoView()")
            page.wait_for_timeout(500)
            page.screenshot(path=OUT / "similarity.png")
        with opened(browser, url, 1440, 900) as page:
            page.locator("#caption").click()
            page.wait_for_function(IDLE, arg=7)
            page.locator("#why-run").click()
            page.locator(".qfv-chip", has_text="cat").click()
            page.locator("#why-view img").wait_for()
            page.get_by_role("button", name="Check this map").click()
            page.locator("#why-curves .js-plotly-plot").wait_for()
            page.wait_for_timeout(800)
            page.locator("#tabs").screenshot(path=OUT / "why.png")
            page.get_by_role("tab", name="What if").click()
            page.get_by_role("button", name="Strongest tenth").click()
            page.get_by_role("button", name="Answer again without them").click()
            page.locator("#whatif-outcome table").wait_for()
            page.wait_for_timeout(500)
            page.locator("#tabs").screenshot(path=OUT / "whatif.png")
            page.locator("#question textarea").fill("how many objects are there?")
            page.locator("#send").click()
            page.wait_for_function(IDLE, arg=9)
            page.get_by_role("tab", name="Heads", exact=True).first.click()
            page.locator("#heads-run").click()
            page.locator("#heads-talk .barlayer .point").first.wait_for(state="attached")
            page.wait_for_timeout(800)
            page.locator("#tabs").screenshot(path=OUT / "heads.png")
            page.get_by_role("tab", name="Images").click()
            page.locator("#across-run").click()
            page.locator(".qfv-album figure").nth(24).wait_for()
            page.locator("#across-plot .js-plotly-plot .heatmaplayer image").wait_for()
            page.wait_for_timeout(800)
            page.locator("#tabs").screenshot(path=OUT / "images.png")
        with opened(browser, url, 1440, 900, dark=True) as page:
            page.locator("#model input").click()
            page.get_by_role("option", name="InstructBLIP emoji").click()
            page.wait_for_function(
                "document.querySelector('#header').innerText.includes('InstructBLIP emoji')"
            )
            page.locator("#scene-maker button").first.click()
            page.locator("#scene-film").click()
            page.locator(".qfv-frame").nth(1).click()
            page.wait_for_function(IDLE, arg=3)
            page.locator("#canvas").get_by_text("entropy", exact=True).click()
            page.locator(".qfv-item").first.click()  # the most focused in the chosen frame
            page.locator("#canvas").get_by_text("index", exact=True).click()
            page.mouse.move(0, 0)
            page.wait_for_timeout(800)
            page.locator("#canvas").screenshot(path=OUT / "film.png")
        with opened(browser, url, 390, 844, touch=True) as page:
            page.locator("#canvas").evaluate("node => node.scrollIntoView()")
            page.wait_for_timeout(500)
            page.screenshot(path=OUT / "phone.png")
        browser.close()


if __name__ == "__main__":
    main()
