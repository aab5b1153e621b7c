"""Deletion and insertion of patches, with controls."""

import html

import numpy as np
import plotly.graph_objects as go

from qformer_viz.evaluation.assessment import Assessment
from qformer_viz.view.figures.figure_style import ACCENT, INK, dress


def curves_figure(verdict: Assessment) -> go.Figure:
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
    dress(figure, height=340)
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
