"""Votes of single queries on whether a text fits an image."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from qformer_viz.view.figures.figure_style import ACCENT, INK, dress, query_label


def votes_figure(similarities: Sequence[float], probabilities: Sequence[float]) -> go.Figure:
    """Bars for each query [q]: cosine with the text (-1..1) above, vote of the matching head (0..1) below."""
    labels = [query_label(q) for q in range(len(similarities))]
    figure = go.Figure()
    for name, values, axis in (("similarity", similarities, "y"), ("vote", probabilities, "y2")):
        figure.add_bar(
            x=labels,
            y=np.round(np.asarray(values, np.float32), 4).tolist(),
            yaxis=axis,
            marker={"color": ACCENT},
            hovertemplate=f"query %{{x}}<br>{name} %{{y:.3f}}<extra></extra>",
        )
    dress(figure, height=280)
    line = {"zeroline": True, "zerolinecolor": INK, "gridcolor": "rgba(127,127,127,0.2)"}
    figure.update_layout(
        showlegend=False,
        bargap=0.25,
        yaxis={"domain": [0.56, 1], "title": "similarity", **line},
        yaxis2={"domain": [0, 0.44], "title": "vote", "range": [0, 1], "anchor": "x", **line},
    )
    every = labels[:: max(1, len(labels) // 8)]
    figure.update_xaxes(type="category", tickvals=every, title="query", ticks="", anchor="y2")
    return figure
