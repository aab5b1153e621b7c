"""A hook of mkdocs: pages link to files of the repository outside docs/, and those files join the site as they are.

Such a file is served under `repository/`, with the path that it has here.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PREFIX = "repository/"
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")
FENCED = re.compile(r"(^```.*?^```)", re.S | re.M)


def repository_path(source: str) -> str:
    """The path in the repository of what the site calls `source`."""
    return source.removeprefix(PREFIX) if source.startswith(PREFIX) else f"docs/{source}"


def site_path(path: str) -> str:
    """What the site calls a file of the repository."""
    return path.removeprefix("docs/") if path.startswith("docs/") else PREFIX + path


def target(page: str, link: str) -> str | None:
    """The path in the repository that a link of a page leads to, if it is a file of the repository.

    Args:
        page: the path of the page in the repository.
        link: the link as written, without its anchor.
    """
    if ":" in link:
        return None
    found = posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
    return found if not found.startswith("..") and (ROOT / found).is_file() else None


def links(text: str) -> list[str]:
    """The links of a text in Markdown, without anchors and without those in code blocks."""
    return [match[1] for part in FENCED.split(text)[::2] for match in LINK.finditer(part)]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add every file that a page links to, and those that they link to in turn."""
    waiting = [repository_path(file.src_uri) for file in files.documentation_pages()]
    seen = set(waiting)
    while waiting:
        page = waiting.pop()
        for link in links((ROOT / page).read_text(encoding="utf-8")):
            path = target(page, link)
            if path is None or path in seen or path.startswith("docs/"):
                continue
            seen.add(path)
            files.append(
                File.generated(
                    config,
                    site_path(path),
                    abs_src_path=str(ROOT / path),
                    inclusion=InclusionLevel.NOT_IN_NAV,
                )
            )
            if path.endswith(".md"):
                waiting.append(path)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead to where the site has the files."""
    here = page.file.src_uri
    source = repository_path(here)

    def moved(match: re.Match[str]) -> str:
        path = target(source, match[1])
        if path is None:
            return match[0]
        relative = posixpath.relpath(site_path(path), posixpath.dirname(here) or ".")
        return f"]({relative}{match[2] or ''})"

    parts = FENCED.split(markdown)
    parts[::2] = [LINK.sub(moved, part) for part in parts[::2]]
    return "".join(parts)
