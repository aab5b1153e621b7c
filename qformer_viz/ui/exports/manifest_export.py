"""Where the numbers come from, as JSON."""

from __future__ import annotations

from pathlib import Path

from qformer_viz.atomic_files import write_json
from qformer_viz.ui.app_context import AppContext
from qformer_viz.ui.conversation import Session
from qformer_viz.ui.export import Export, about


def write(app: AppContext, session: Session, folder: Path) -> Path:
    """Write it to a folder. Returns its path."""
    return write_json(folder / "manifest.json", about(app, session), indent=2)


EXPORT = Export(
    "manifest",
    "Manifest (JSON)",
    "Model, precision, versions, image hash, shapes",
    write,
    order=6,
)
