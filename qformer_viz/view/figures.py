"""Plotly figures: matrices of queries and statistics per query. Numbers in, figure out; no model involved.

Axes are categories that carry the query's index as two digits, so that a click tells which query was meant
in any order; `ui/static/app.js` reads them. Colours are perceptually ordered and safe for colour-blind eyes.
"""

import html
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

SEQUENTIAL = "Viridis"
DIVERGING = "RdBu_r"
SIGNED = "signed"  # what ui/static/app.js knows such a figure by, to give it a dark middle on a dark page
ACCENT = "#6366f1"
# Nats below which effects are drawn as small: a scale of their own would make noise look like a finding.
LEAST = 0.05
INK = "#7d8597"  # readable on white and on near-black; the page's own style sheet overrides it


def query_label(index: int) -> str:
    """The name of a query on every axis: two digits, from 00."""
    return f"{index:02d}"


def query_labels(count: int, frames: int = 1) -> list[str]:
    """The names of `count` queries; of a film, frame by frame, each with its frame's number before it, from 1."""
    each = count // frames
    names = [query_label(q) for q in range(each)]
    return names if frames == 1 else [f"{frame + 1}·{name}" for frame in range(frames) for name in names]


def similarity_figure(matrix, order: Sequence[int], name: str, *, signed: bool) -> go.Figure:
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
    _dress(figure, height=400)
    every = labels[:: max(1, len(labels) // 8)]
    axis = {"type": "category", "tickvals": every, "showgrid": False, "constrain": "domain", "ticks": ""}
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis, autorange="reversed", scaleanchor="x")
    return figure


def measure_figure(values, rows: Sequence[str], name: str, unit: str = "") -> go.Figure:
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
    _dress(figure, height=300)
    figure.update_xaxes(
        type="category", tickvals=labels[:: max(1, len(labels) // 8)], title="query", ticks=""
    )
    figure.update_yaxes(type="category", autorange="reversed", ticks="")
    return figure


def votes_figure(similarities, probabilities) -> go.Figure:
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
    _dress(figure, height=280)
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


def effects_figure(values, words: Sequence[str], queries: Sequence[str], unit: str) -> go.Figure:
    """Heat map of signed effects [t, q] of every query on every word, white at none."""
    values, labels = np.asarray(values, np.float32), list(queries)
    figure = go.Figure(
        _signed(values, labels, [html.escape(word) for word in words], unit, "query %{x}, “%{y}”")
    )
    _dress(figure, height=90 + 24 * len(values))
    figure.update_xaxes(
        type="category", tickvals=labels[:: max(1, len(labels) // 8)], title="query taken away", ticks=""
    )
    figure.update_yaxes(type="category", autorange="reversed", ticks="", automargin=True)
    return figure


def pairs_figure(values, queries: Sequence[str], word: str) -> go.Figure:
    """Heat map of the interactions [k, k] of the named queries for a word, in nats."""
    labels = list(queries)
    figure = go.Figure(
        _signed(np.asarray(values, np.float32), labels, labels, "nats", "queries %{x} and %{y}")
    )
    _dress(figure, height=340)
    title = f"Interaction for “{html.escape(word)}”: red, they stand in for each other"
    figure.update_layout(title={"text": title, "font": {"size": 13}, "x": 0}, margin={"t": 44})
    axis = {"type": "category", "showgrid": False, "constrain": "domain", "ticks": ""}
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis, autorange="reversed", scaleanchor="x")
    return figure


def shapley_figure(values, errors, alone, queries: Sequence[str], word: str, most: int = 12) -> go.Figure:
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
    _dress(figure, height=340)
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


def _signed(
    values, columns: Sequence[str], rows: Sequence[str], unit: str, where: str, top: float = 0.0
) -> go.Heatmap:
    """Signed values on one scale around white, up to `top` at least."""
    top = max(float(np.abs(values).max()), top, LEAST)
    return go.Heatmap(
        z=np.round(values, 4).tolist(),
        x=list(columns),
        y=list(rows),
        zmin=-top,
        zmax=top,
        colorscale=DIVERGING,
        meta=SIGNED,
        colorbar={"title": {"text": unit, "side": "right"}, "thickness": 10, "outlinewidth": 0},
        hovertemplate=f"{where}<br>%{{z:.2f}} {unit}<extra></extra>",
    )


def heads_figure(values, together, layers: Sequence[int], kind: str, top: float) -> go.Figure:
    """Heat map of the effects [l, h] of every head, and of all heads [l] of a layer together in a last column, in nats;
    `top` ends the scale, so that two figures can share one."""
    values = np.concatenate([np.asarray(values, np.float32), np.asarray(together, np.float32)[:, None]], 1)
    heads = [*(str(head) for head in range(values.shape[1] - 1)), "all"]
    rows = [f"layer {layer}" for layer in layers]
    heat = _signed(values, heads, rows, "nats", "%{y}, head %{x}", top)
    heat.text = [[f"{value:.1f}" if abs(value) >= LEAST else "" for value in row] for row in values]
    heat.texttemplate = "%{text}"
    figure = go.Figure(heat)
    _dress(figure, height=110 + 24 * len(values))
    figure.update_layout(title={"text": kind, "font": {"size": 13}, "x": 0}, margin={"t": 40})
    figure.update_xaxes(type="category", title="head silenced", ticks="")
    figure.update_yaxes(type="category", autorange="reversed", ticks="", automargin=True)
    return figure


def talk_figure(on_progress, alone, queries: Sequence[str], text, pieces: Sequence[str]) -> go.Figure:
    """Bars in nats: what a word loses when the other queries do not hear a query (told [q]), where known when the
    language model does not read it (alone [q]), and when the Q-Former does not read a piece of text [s]."""
    read = [f"“{html.escape(piece)}”" for piece in pieces]
    bars = [("unheard by the other queries", ACCENT, list(queries), "x", on_progress)]
    bars += [("unread by the language model", INK, list(queries), "x", alone)] if alone is not None else []
    bars += [("unread by the Q-Former", "#e08a1e", read, "x2", text)] if read else []
    bars = [(*rest, np.asarray(values, np.float32)) for *rest, values in bars]
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
    _dress(figure, height=336)
    figure.update_layout(
        margin={"t": 76},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},  # three lines on a phone
        barmode="group",
        bargap=0.2,
    )
    _queries_and_text(figure, queries, read)
    figure.update_yaxes(
        title="nats lost", zeroline=True, zerolinecolor=INK, gridcolor="rgba(127,127,127,0.2)"
    )
    if max(np.abs(each).max() for *_, each in bars) < LEAST:
        figure.update_yaxes(range=[-LEAST, LEAST])
    return figure


def self_attention_figure(own, text, order: Sequence[int], pieces: Sequence[str]) -> go.Figure:
    """Heat map of self-attention [q, q], rows and columns in `order`, and that to the text [q, s], if any, after it."""
    order = list(order)
    rows = [query_label(q) for q in order]
    read = [f"“{html.escape(piece)}”" for piece in pieces]
    parts = [(rows, "x", np.asarray(own, np.float32)[np.ix_(order, order)])]
    parts += [(read, "x2", np.asarray(text, np.float32)[order])] if text is not None else []
    figure = go.Figure()
    for columns, axis, values in parts:
        figure.add_heatmap(
            z=np.round(values, 5).tolist(),
            x=columns,
            y=rows,
            xaxis=axis,
            coloraxis="coloraxis",
            hovertemplate="query %{y} attends to %{x}<br>%{z:.4f}<extra></extra>",
        )
    _dress(figure, height=420)
    bar = {"title": {"text": "attention", "side": "right"}, "thickness": 10, "outlinewidth": 0}
    figure.update_layout(coloraxis={"cmin": 0, "colorscale": SEQUENTIAL, "colorbar": bar})
    _queries_and_text(figure, rows, read)
    figure.update_layout(xaxis={"title": "attended to"})
    every = rows[:: max(1, len(rows) // 8)]
    figure.update_yaxes(
        type="category", tickvals=every, title="query", autorange="reversed", ticks="", automargin=True
    )
    return figure


def _queries_and_text(figure: go.Figure, queries: Sequence[str], read: Sequence[str], most: int = 12) -> None:
    """The x axis of queries, and beside it one of pieces of text, if any: wide enough that their names stand upright
    side by side on a phone, `most` of them."""
    axis = {"type": "category", "ticks": "", "anchor": "y"}
    share = 2.2 * len(read) / (len(queries) + 2.2 * len(read))
    end = 1 - min(0.5, share) if read else 1.0
    every = queries[:: max(1, len(queries) // (4 if read else 8))]
    figure.update_layout(
        xaxis={**axis, "domain": [0, end - 0.02 * bool(read)], "tickvals": every, "tickangle": 0}
    )
    if read:
        names = {"tickvals": read[:: -(-len(read) // most)], "tickangle": -90, "automargin": True}
        figure.update_layout(xaxis2={**axis, **names, "domain": [end, 1], "tickfont": {"size": 10}})


def divergence_figure(values, layers: Sequence[int]) -> go.Figure:
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
    _dress(figure, height=110 + 26 * len(values))
    figure.update_xaxes(type="category", title="head", ticks="")
    figure.update_yaxes(type="category", autorange="reversed", ticks="", automargin=True)
    return figure


def curves_figure(verdict) -> go.Figure:
    """Deletion and insertion of a `verdict.Assessment`, side by side: log-probability of the word against the share
    of the patches hidden, or shown."""
    figure = go.Figure()
    colours = {"this map": ACCENT, "random order": INK, "the centre first": "#e08a1e"}
    shares = [round(100 * share, 1) for share in verdict.fractions]
    for axis, curves in (("", verdict.deletion), ("2", verdict.insertion)):
        for order, values in curves.items():
            figure.add_scatter(
                x=shares,
                y=np.round(np.asarray(values), 4).tolist(),
                xaxis="x" + axis,
                yaxis="y" + axis,
                name=order,
                legendgroup=order,
                showlegend=axis == "",
                mode="lines+markers",
                line={"color": colours[order], "dash": "solid" if order == "this map" else "dot"},
                marker={"size": 6},
                hovertemplate=f"{order}<br>%{{x}} % of the patches<br>log p %{{y:.2f}}<extra></extra>",
            )
    _dress(figure, height=340)
    line = {"zeroline": False, "gridcolor": "rgba(127,127,127,0.2)"}
    figure.update_layout(
        margin={"t": 70},
        legend={"orientation": "h", "y": 1.05, "yanchor": "bottom", "x": 0},
        xaxis={"domain": [0, 0.46], "title": "% hidden, strongest first", **line},
        xaxis2={"domain": [0.54, 1], "title": "% shown, strongest first", "anchor": "y2", **line},
        yaxis={"title": f"log p(“{html.escape(verdict.word)}”)", **line},
        yaxis2={"anchor": "x2", "matches": "y", "showticklabels": False, **line},
    )
    return figure


def centre_figure(centres, sizes, colours, name: str, aspect: float = 1.0) -> go.Figure:
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
    _dress(figure, height=360)
    line = {"zeroline": False, "showgrid": True, "gridcolor": "rgba(127,127,127,0.2)", "constrain": "domain"}
    figure.update_xaxes(range=[0, 1], title="left → right", **line)
    figure.update_yaxes(range=[1, 0], title="bottom ← top", scaleanchor="x", scaleratio=aspect, **line)
    return figure


def _dress(figure: go.Figure, height: int) -> None:
    figure.update_layout(
        height=height,
        margin={"l": 40, "r": 10, "t": 12, "b": 40},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"size": 12, "color": INK},
        dragmode=False,
        clickmode="event",
        hoverlabel={"font": {"size": 12}},
    )
