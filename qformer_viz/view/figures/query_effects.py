"""What every word loses without each query."""

import html
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from qformer_viz.view.figures.figure_style import dress, signed_matrix


def effects_figure(values: ArrayLike, words: Sequence[str], queries: Sequence[str], unit: str) -> go.Figure:
    """Heat map of signed effects [t, q] of every query on every word, white at none."""
    values, labels = np.asarray(values, np.float32), list(queries)
    figure = go.Figure(
        signed_matrix(values, labels, [html.escape(word) for word in words], unit, "query %{x}, “%{y}”")
    )
    dress(figure, height=90 + 24 * len(values))
    figure.update_xaxes(
        type="category", tickvals=labels[:: max(1, len(labels) // 8)], title="query taken away", ticks=""
    )
    figure.update_yaxes(type="category", autorange="reversed", ticks="", automargin=True)
    return figure
