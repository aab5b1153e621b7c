"""One measure of every query, by layer."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from qformer_viz.view.figures.figure_style import SEQUENTIAL, dress, query_label


def measure_figure(values: ArrayLike, rows: Sequence[str], name: str, unit: str = "") -> go.Figure:
    """Heat map of one number per layer and query: values [rows, q], in its own unit from its own range."""
    values = np.asarray(values, np.float32)
    labels = [query_label(q) for q in range(values.shape[1])]
    title = f"{name} ({unit})" if unit else name
    heat = go.Heatmap(
        z=np.round(values, 4).tolist(),
        x=labels,
        y=list(rows),
        colorscale=SEQUENTIAL,
        colorbar={"title": {"text": title, "side": "right"}, "thickness": 10, "outlinewidth": 0},
        hovertemplate=f"query %{{x}}, %{{y}}<br>{name} %{{z:.3f}} {unit}<extra></extra>",
    )
    figure = go.Figure(heat)
    dress(figure, height=300)
    figure.update_xaxes(
        type="category", tickvals=labels[:: max(1, len(labels) // 8)], title="query", ticks=""
    )
    figure.update_yaxes(type="category", autorange="reversed", ticks="")
    return figure
