"""Which queries each query attends to."""

import html
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from qformer_viz.view.figures.figure_style import SEQUENTIAL, dress, queries_and_text, query_label


def self_attention_figure(
    own: ArrayLike, text: ArrayLike | None, order: Sequence[int], pieces: Sequence[str]
) -> go.Figure:
    """Heat map of self-attention [q, q], rows and columns in `order`, and that to the text [q, s], if any, after it."""
    order = list(order)
    rows = [query_label(q) for q in order]
    read = [f"“{html.escape(piece)}”" for piece in pieces]
    parts = [(rows, "x", np.asarray(own, np.float32)[np.ix_(order, order)])]
    parts += [(read, "x2", np.asarray(text, np.float32)[order])] if text is not None else []
    figure = go.Figure()
    for columns, axis, values in parts:
        figure.add_heatmap(
            z=np.round(values, 5).tolist(),
            x=columns,
            y=rows,
            xaxis=axis,
            coloraxis="coloraxis",
            hovertemplate="query %{y} attends to %{x}<br>%{z:.4f}<extra></extra>",
        )
    dress(figure, height=420)
    bar = {"title": {"text": "attention", "side": "right"}, "thickness": 10, "outlinewidth": 0}
    figure.update_layout(coloraxis={"cmin": 0, "colorscale": SEQUENTIAL, "colorbar": bar})
    queries_and_text(figure, rows, read)
    figure.update_layout(xaxis={"title": "attended to"})
    every = rows[:: max(1, len(rows) // 8)]
    figure.update_yaxes(
        type="category", tickvals=every, title="query", autorange="reversed", ticks="", automargin=True
    )
    return figure
