"""Explanations of the answer as JSON."""

from __future__ import annotations

from pathlib import Path

from qformer_viz.errors import UserError
from qformer_viz.ui.app_context import AppContext
from qformer_viz.ui.conversation import Session
from qformer_viz.ui.explanation_cache import get_current
from qformer_viz.ui.export import Export, about
from qformer_viz.view import archive as files


def write(app: AppContext, session: Session, folder: Path) -> Path:
    """Write it to a folder. Returns its path."""
    kept = get_current(session)
    if kept is None or not kept.found:
        raise UserError("No answer has been explained yet. Open the Why tab and explain the last one.")
    path = folder / "attributions.json"
    return files.save_attributions([*kept.found.values()], path, about(app, session))


EXPORT = Export(
    "why",
    "Explanations (JSON)",
    "Queries and patches of every word, by each method that has run",
    write,
    order=4,
)
