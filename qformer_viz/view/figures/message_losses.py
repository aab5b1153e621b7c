"""What a word loses without the messages of each query."""

import html
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from qformer_viz.view.figures.figure_style import ACCENT, INK, LEAST, dress, queries_and_text


def message_figure(
    messages: ArrayLike,
    alone: ArrayLike | None,
    queries: Sequence[str],
    text: ArrayLike,
    pieces: Sequence[str],
) -> go.Figure:
    """Bars in nats: what a word loses when a query is hidden from the other queries (messages [q]), where known when it
    is hidden from the language model (alone [q]), and when a piece of text is hidden from the Q-Former (text [s])."""
    read = [f"“{html.escape(piece)}”" for piece in pieces]
    hidden: list[tuple[str, str, list[str], str, ArrayLike]] = [
        ("hidden from the other queries", ACCENT, list(queries), "x", messages)
    ]
    hidden += (
        [("hidden from the language model", INK, list(queries), "x", alone)] if alone is not None else []
    )
    hidden += [("hidden from the Q-Former", "#e08a1e", read, "x2", text)] if read else []
    bars = [
        (name, colour, x, axis, np.asarray(values, np.float32)) for name, colour, x, axis, values in hidden
    ]
    figure = go.Figure()
    for name, colour, x, axis, y in bars:
        figure.add_bar(
            x=x,
            y=np.round(y, 4).tolist(),
            xaxis=axis,
            name=name,
            marker={"color": colour},
            hovertemplate=f"%{{x}}, {name}<br>%{{y:.2f}} nats<extra></extra>",
        )
    dress(figure, height=336)
    figure.update_layout(
        margin={"t": 76},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},  # three lines on a phone
        barmode="group",
        bargap=0.2,
    )
    queries_and_text(figure, queries, read)
    figure.update_yaxes(
        title="nats lost", zeroline=True, zerolinecolor=INK, gridcolor="rgba(127,127,127,0.2)"
    )
    if max(np.abs(each).max() for *_, each in bars) < LEAST:
        figure.update_yaxes(range=[-LEAST, LEAST])
    return figure
