"""A real headless Chromium for the browser tier; every page fails its test on a script error."""

import pytest
from PIL import Image
from playwright.sync_api import sync_playwright

import qformer_viz
from tests.support.chromium import launch
from tests.support.fakes_ui import FakePipeline
from tests.support.serving import serve


@pytest.fixture(scope="session")
def chromium():
    """One browser for the whole run; open pages through `open_page`."""
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium):
    """open_page(url, width=, height=, dark=, touch=) -> page. `page.requests` lists what it asked for over
    a network; script errors fail the test at its end."""
    contexts, errors = [], []

    def open_(url, *, width=1440, height=900, dark=False, touch=False):
        context = chromium.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            has_touch=touch,
            is_mobile=touch,
            accept_downloads=True,
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(90_000)  # the server shares the machine with the browser
        page.requests = []
        page.on("request", lambda r: page.requests.append(r.url) if r.url.startswith("http") else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(url)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not errors


@pytest.fixture(scope="session")
def url():
    """The page over the fake model; one server for all tests, each of which is a visitor of its own."""
    with serve("tests.support.serve_fake") as address:
        yield address


@pytest.fixture(scope="session")
def view():
    """A picture, two answers and the words of one of them, as a notebook has them."""
    pipe = FakePipeline()
    encoded = pipe.encode(Image.new("RGB", (60, 40), "red"))
    answer = pipe.ask(encoded, "<b>one?</b>")
    why = [qformer_viz.explain(pipe, encoded, answer, method=method) for method in ("knockout", "occlusion")]
    return qformer_viz.show(encoded, pipe=pipe, why=why, turns=[("", "a caption"), ("one?", answer.text)])
