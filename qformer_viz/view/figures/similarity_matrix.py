"""Matrix of how similar queries are."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from qformer_viz.view.figures.figure_style import DIVERGING, SEQUENTIAL, SIGNED, dress, query_label


def similarity_figure(matrix: ArrayLike, order: Sequence[int], name: str, *, signed: bool) -> go.Figure:
    """Heat map of a [q, q] similarity, rows and columns in `order`.

    signed: colours run from -1 to 1 around white (cosine); otherwise from 0 to 1.
    """
    order = list(order)
    values = np.asarray(matrix, np.float32)[np.ix_(order, order)]
    labels = [query_label(q) for q in order]
    heat = go.Heatmap(
        z=np.round(values, 4).tolist(),
        x=labels,
        y=labels,
        zmin=-1 if signed else 0,
        zmax=1,
        colorscale=DIVERGING if signed else SEQUENTIAL,
        meta=SIGNED if signed else None,
        colorbar={"title": {"text": name, "side": "right"}, "thickness": 10, "len": 1.0, "outlinewidth": 0},
        hovertemplate=f"queries %{{x}} and %{{y}}<br>{name} %{{z:.3f}}<extra></extra>",
    )
    figure = go.Figure(heat)
    dress(figure, height=400)
    every = labels[:: max(1, len(labels) // 8)]
    axis = {"type": "category", "tickvals": every, "showgrid": False, "constrain": "domain", "ticks": ""}
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis, autorange="reversed", scaleanchor="x")
    return figure
