"""Shapley values of queries with their errors."""

import html
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from qformer_viz.view.figures.figure_style import ACCENT, INK, LEAST, dress


def shapley_figure(
    values: ArrayLike,
    errors: ArrayLike,
    alone: ArrayLike,
    queries: Sequence[str],
    word: str,
    most: int = 12,
) -> go.Figure:
    """Bars of the `most` greatest Shapley values [q] with two standard errors, beside each query's knock-out alone."""
    values, errors, alone = (np.asarray(each, np.float32) for each in (values, errors, alone))
    order = np.argsort(-np.maximum(np.abs(values), np.abs(alone)), kind="stable")[:most]
    labels = [queries[q] for q in order]
    figure = go.Figure()
    for name, each, error, colour in (
        ("Shapley value", values, errors, ACCENT),
        ("taken away alone", alone, None, INK),
    ):
        figure.add_bar(
            x=labels,
            y=np.round(each[order], 4).tolist(),
            name=name,
            marker={"color": colour},
            error_y=None
            if error is None
            else {
                "type": "data",
                "array": np.round(2 * np.nan_to_num(error[order]), 4).tolist(),
                "thickness": 1.2,
            },
            hovertemplate=f"query %{{x}}<br>{name} %{{y:.2f}} nats<extra></extra>",
        )
    dress(figure, height=340)
    figure.update_layout(
        title={"text": f"Queries of “{html.escape(word)}”, nats", "font": {"size": 13}, "x": 0},
        margin={"t": 64},
        legend={"orientation": "h", "y": 1.14, "x": 0},
        barmode="group",
    )
    figure.update_xaxes(type="category", title="query", ticks="")
    figure.update_yaxes(zeroline=True, zerolinecolor=INK, gridcolor="rgba(127,127,127,0.2)")
    if max(np.abs(values).max(), np.abs(alone).max()) < LEAST:
        figure.update_yaxes(range=[-LEAST, LEAST])
    return figure
