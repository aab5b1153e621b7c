"""How far the maps of two precisions lie apart."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from qformer_viz.view.figures.figure_style import SEQUENTIAL, dress


def divergence_figure(values: ArrayLike, layers: Sequence[int]) -> go.Figure:
    """Heat map of the divergence [l, h] of two precisions' maps, in bits, from 0."""
    values = np.asarray(values, np.float64)
    heat = go.Heatmap(
        z=values.tolist(),
        x=[str(head) for head in range(values.shape[1])],
        y=[f"layer {layer}" for layer in layers],
        zmin=0,
        colorscale=SEQUENTIAL,
        colorbar={"title": {"text": "bits", "side": "right"}, "thickness": 10, "outlinewidth": 0},
        hovertemplate="%{y}, head %{x}<br>%{z:.2g} bits<extra></extra>",
    )
    figure = go.Figure(heat)
    dress(figure, height=110 + 26 * len(values))
    figure.update_xaxes(type="category", title="head", ticks="")
    figure.update_yaxes(type="category", autorange="reversed", ticks="", automargin=True)
    return figure
