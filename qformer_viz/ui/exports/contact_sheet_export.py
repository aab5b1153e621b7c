"""All queries side by side as a picture."""

from __future__ import annotations

from pathlib import Path

from qformer_viz.atomic_files import atomic_write
from qformer_viz.ui.app_context import AppContext
from qformer_viz.ui.conversation import Session
from qformer_viz.ui.export import Export
from qformer_viz.view import contact_sheets


def write(app: AppContext, session: Session, folder: Path) -> Path:
    """Write it to a folder. Returns its path."""
    path = folder / "contact_sheet.png"
    with atomic_write(path) as temporary:
        contact_sheets.contact_sheet(session.capture, session.picture, placement=session.placement).save(
            temporary
        )
    return path


EXPORT = Export(
    "sheet",
    "Contact sheet (PNG)",
    "All queries side by side, mean over layers and heads",
    write,
    order=2,
)
