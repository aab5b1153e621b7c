"""The site of docs/ builds without a warning, names every page in its navigation, and asks no other server."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


def navigation(entries: list) -> list[str]:
    """The pages of a navigation in order."""
    found = []
    for entry in entries:
        value = next(iter(entry.values())) if isinstance(entry, dict) else entry
        found += navigation(value) if isinstance(value, list) else [value]
    return found


def test_the_navigation_names_every_page_once():
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    named = navigation(settings["nav"])
    assert len(named) == len(set(named)) and set(named) == pages
    assert settings["theme"]["font"] is False and "analytics" not in str(settings)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site; warnings are errors."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Fetched(HTMLParser):
    """What a browser fetches by itself when it opens a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if tag in ("script", "img", "iframe", "source", "video"):
            self.addresses.append(given.get("src") or "")
        if tag == "link" and given.get("rel") in ("stylesheet", "icon", "preconnect", "preload", "manifest"):
            self.addresses.append(given.get("href") or "")


@pytest.mark.slow
def test_the_site_fetches_nothing_from_elsewhere(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 12
    fetched = {page: Fetched() for page in pages}
    for page, found in fetched.items():
        found.feed(page.read_text(encoding="utf-8"))
    assert any(found.addresses for found in fetched.values())
    for page, found in fetched.items():
        assert [each for each in found.addresses if re.match(r"(\w+:)?//", each)] == [], page.name
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(\s*[\"']?(https?:)?//", style.read_text(encoding="utf-8")), style.name


@pytest.mark.slow
def test_files_of_the_repository_are_in_the_site(site):
    assert (site / "repository/assets/screenshots/desktop.png").is_file()
    card = (site / "repository/assets/blip2-emoji/index.html").read_text(encoding="utf-8")
    assert "blip2-emoji" in card
    views = (site / "views.html").read_text(encoding="utf-8")
    assert 'src="repository/assets/screenshots/why.png"' in views
