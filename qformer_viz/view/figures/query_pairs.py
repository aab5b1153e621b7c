"""Interactions of pairs of queries."""

import html
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from qformer_viz.view.figures.figure_style import dress, signed_matrix


def pairs_figure(values: ArrayLike, queries: Sequence[str], word: str) -> go.Figure:
    """Heat map of the interactions [k, k] of the named queries for a word, in nats."""
    labels = list(queries)
    figure = go.Figure(
        signed_matrix(np.asarray(values, np.float32), labels, labels, "nats", "queries %{x} and %{y}")
    )
    dress(figure, height=340)
    title = f"Interaction for “{html.escape(word)}”: red, they stand in for each other"
    figure.update_layout(title={"text": title, "font": {"size": 13}, "x": 0}, margin={"t": 44})
    axis = {"type": "category", "showgrid": False, "constrain": "domain", "ticks": ""}
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis, autorange="reversed", scaleanchor="x")
    return figure
