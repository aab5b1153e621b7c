"""A real headless Chromium for the browser tier; every page fails its test on a script error."""

import pytest
from playwright.sync_api import sync_playwright

from tests.support.chromium import launch


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
        page.set_default_timeout(20_000)
        page.requests = []
        page.on("request", lambda r: page.requests.append(r.url) if r.url.startswith("http") else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(url)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not errors
