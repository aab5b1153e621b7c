"""What the figures share: labels of queries, colours, axes."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

SEQUENTIAL = "Viridis"
DIVERGING = "RdBu_r"
SIGNED = "signed"  # what ui/static/app.js knows such a figure by, to give it a dark middle on a dark page
ACCENT = "#6366f1"
LEAST = 0.05
INK = "#7d8597"  # readable on white and on near-black; the page's own style sheet overrides it


def query_label(index: int) -> str:
    """The name of a query on every axis: two digits, from 00."""
    return f"{index:02d}"


def query_labels(count: int, frames: int = 1) -> list[str]:
    """The names of `count` queries; of a film, frame by frame, each with its frame's number before it, from 1."""
    each = count // frames
    names = [query_label(q) for q in range(each)]
    return names if frames == 1 else [f"{frame + 1}·{name}" for frame in range(frames) for name in names]


def signed_matrix(
    values: np.ndarray, columns: Sequence[str], rows: Sequence[str], unit: str, where: str, top: float = 0.0
) -> go.Heatmap:
    """Signed values on one scale around white, up to `top` at least."""
    top = max(float(np.abs(values).max()), top, LEAST)
    return go.Heatmap(
        z=np.round(values, 4).tolist(),
        x=list(columns),
        y=list(rows),
        zmin=-top,
        zmax=top,
        colorscale=DIVERGING,
        meta=SIGNED,
        colorbar={"title": {"text": unit, "side": "right"}, "thickness": 10, "outlinewidth": 0},
        hovertemplate=f"{where}<br>%{{z:.2f}} {unit}<extra></extra>",
    )


def queries_and_text(figure: go.Figure, queries: Sequence[str], read: Sequence[str], most: int = 12) -> None:
    """The x axis of queries, and beside it one of pieces of text, if any: wide enough that their names stand upright
    side by side on a phone, `most` of them."""
    axis = {"type": "category", "ticks": "", "anchor": "y"}
    share = 2.2 * len(read) / (len(queries) + 2.2 * len(read))
    end = 1 - min(0.5, share) if read else 1.0
    every = queries[:: max(1, len(queries) // (4 if read else 8))]
    figure.update_layout(
        xaxis={**axis, "domain": [0, end - 0.02 * bool(read)], "tickvals": every, "tickangle": 0}
    )
    if read:
        names = {"tickvals": read[:: -(-len(read) // most)], "tickangle": -90, "automargin": True}
        figure.update_layout(xaxis2={**axis, **names, "domain": [end, 1], "tickfont": {"size": 10}})


def dress(figure: go.Figure, height: int) -> None:
    figure.update_layout(
        height=height,
        margin={"l": 40, "r": 10, "t": 12, "b": 40},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"size": 12, "color": INK},
        dragmode=False,
        clickmode="event",
        hoverlabel={"font": {"size": 12}},
    )
