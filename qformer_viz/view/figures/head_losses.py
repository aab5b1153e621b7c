"""What a word loses without each head."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from qformer_viz.view.figures.figure_style import LEAST, dress, signed_matrix


def heads_figure(
    values: ArrayLike, together: ArrayLike, layers: Sequence[int], kind: str, top: float
) -> go.Figure:
    """Heat map of the effects [l, h] of every head, and of all heads [l] of a layer together in a last column, in nats;
    `top` ends the scale, so that two figures can share one."""
    values = np.concatenate([np.asarray(values, np.float32), np.asarray(together, np.float32)[:, None]], 1)
    heads = [*(str(head) for head in range(values.shape[1] - 1)), "all"]
    rows = [f"layer {layer}" for layer in layers]
    heat = signed_matrix(values, heads, rows, "nats", "%{y}, head %{x}", top)
    heat.text = [[f"{value:.1f}" if abs(value) >= LEAST else "" for value in row] for row in values]
    heat.texttemplate = "%{text}"
    figure = go.Figure(heat)
    dress(figure, height=110 + 24 * len(values))
    figure.update_layout(title={"text": kind, "font": {"size": 13}, "x": 0}, margin={"t": 40})
    figure.update_xaxes(type="category", title="head replaced by its average", ticks="")
    figure.update_yaxes(type="category", autorange="reversed", ticks="", automargin=True)
    return figure
