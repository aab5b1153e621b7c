"""Centres of mass of the maps."""

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from qformer_viz.view.figures.figure_style import SEQUENTIAL, dress, query_label


def centre_figure(
    centres: ArrayLike, sizes: ArrayLike, colours: ArrayLike, name: str, aspect: float = 1.0
) -> go.Figure:
    """Where each query looks on average: centres [q, 2] as x, y in 0..1 from the top left corner.

    sizes [q] sets each dot's area, colours [q] its colour (`name` says what it is); aspect is height over
    width of the image.
    """
    centres = np.asarray(centres, np.float32)
    sizes, colours = np.asarray(sizes, np.float32), np.asarray(colours, np.float32)
    area = 8 + 22 * np.sqrt(sizes / max(float(sizes.max()), 1e-9))
    labels = [query_label(q) for q in range(len(centres))]
    dots = go.Scatter(
        x=np.round(centres[:, 0], 4).tolist(),
        y=np.round(centres[:, 1], 4).tolist(),
        text=labels,
        customdata=labels,
        mode="markers+text",
        textfont={"size": 9, "color": "white"},
        marker={
            "size": area.tolist(),
            "color": np.round(colours, 4).tolist(),
            "colorscale": SEQUENTIAL,
            "colorbar": {"title": {"text": name, "side": "right"}, "thickness": 10, "outlinewidth": 0},
            "line": {"width": 1, "color": "rgba(127,127,127,0.8)"},
        },
        hovertemplate="query %{text}<br>x %{x:.2f}, y %{y:.2f}<extra></extra>",
    )
    figure = go.Figure(dots)
    dress(figure, height=360)
    line = {"zeroline": False, "showgrid": True, "gridcolor": "rgba(127,127,127,0.2)", "constrain": "domain"}
    figure.update_xaxes(range=[0, 1], title="left → right", **line)
    figure.update_yaxes(range=[1, 0], title="bottom ← top", scaleanchor="x", scaleratio=aspect, **line)
    return figure
