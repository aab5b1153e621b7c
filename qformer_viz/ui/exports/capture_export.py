"""Maps and states as arrays."""

from __future__ import annotations

from pathlib import Path

from qformer_viz.ui.app_context import AppContext
from qformer_viz.ui.conversation import Session
from qformer_viz.ui.export import Export, about
from qformer_viz.view import archive as files


def write(app: AppContext, session: Session, folder: Path) -> Path:
    """Write it to a folder. Returns its path."""
    return files.save_npz(session.encoded.capture, folder / "capture.npz", about(app, session))


EXPORT = Export(
    "npz",
    "Everything (NPZ)",
    "Attention maps and query states as float32 arrays",
    write,
    order=3,
)
