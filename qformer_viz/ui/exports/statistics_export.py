"""Statistics of every layer and query as CSV."""

from __future__ import annotations

from pathlib import Path

from qformer_viz.ui.app_context import AppContext
from qformer_viz.ui.conversation import Session
from qformer_viz.ui.export import Export
from qformer_viz.ui.inspector import statistics_view
from qformer_viz.view import archive as files


def write(app: AppContext, session: Session, folder: Path) -> Path:
    """One row for every layer and query, of a film for every frame as well."""
    whole, frames = session.encoded.capture, len(session.encoded.frames)
    rows = [
        [frame + 1, layer, *row]
        for frame in range(frames)
        for layer in (*map(str, whole.cross_layers), statistics_view.MEAN)
        for row in statistics_view.rows(whole.image(frame), layer)
    ]
    headers = ["frame", "layer", *statistics_view.HEADERS]
    if frames == 1:
        headers, rows = headers[1:], [row[1:] for row in rows]
    return files.save_csv(headers, rows, folder / "statistics.csv")


EXPORT = Export(
    "csv",
    "Statistics (CSV)",
    "Entropy, patches, CLS share, centre; per layer and query",
    write,
    order=7,
)
