"""The page as one HTML file."""

from __future__ import annotations

from pathlib import Path

from qformer_viz.atomic_files import write_text
from qformer_viz.attribution.explanation import DEFAULT
from qformer_viz.ui.app_context import AppContext
from qformer_viz.ui.conversation import Session
from qformer_viz.ui.explanation_cache import get_current
from qformer_viz.ui.export import Export
from qformer_viz.ui.stage_updates import payload
from qformer_viz.view import standalone_page
from qformer_viz.view.word_payload import words_payload


def write(app: AppContext, session: Session, folder: Path) -> Path:
    """Write it to a folder. Returns its path."""
    kept = get_current(session)
    words = None
    if kept is not None and kept.found:
        words = words_payload(kept.map(DEFAULT, 0), kept.known, kept.methods)
    return write_text(
        folder / "page.html", standalone_page.standalone_page(payload(app, session), words=words)
    )


EXPORT = Export(
    "page",
    "Page (HTML)",
    "The canvas and the explained words in one file that opens without a server",
    write,
    order=1,
)
