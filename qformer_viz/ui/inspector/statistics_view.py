"""The Statistics tab: entropy, effective patches, CLS share and centre of mass of each query, per layer."""

import gradio as gr

from qformer_viz.analysis import attention_statistics as measures
from qformer_viz.runtime.map_placement import aspect, box
from qformer_viz.ui.app_context import AppContext, Geometry
from qformer_viz.ui.components import Figure
from qformer_viz.ui.conversation import Session
from qformer_viz.ui.event_groups import LIGHT, Step
from qformer_viz.ui.inspector.view import InspectorView, Parts, ViewContext

MEAN = "mean"
ENTROPY, PATCHES, CLS, CENTRE = "Entropy", "Effective patches", "CLS share", "Centre of mass"
HEADERS = ["query", "entropy (nats)", "effective patches", "CLS share", "centre x", "centre y"]
UNITS = {ENTROPY: ("entropy", "nats"), PATCHES: ("effective_patches", "patches"), CLS: ("cls_share", "")}


def build(app: AppContext) -> Parts:
    """Measure and layer, the figure, and the table of one layer."""
    layers = [MEAN, *map(str, app.chat_model.geometry.cross_layers)]
    with gr.Row(elem_classes="qfv-controls"):
        measure = gr.Dropdown(
            [ENTROPY, PATCHES, CLS, CENTRE],
            value=ENTROPY,
            label="Figure",
            min_width=160,
            elem_id="statistics-measure",
        )
        layer = gr.Dropdown(
            layers, value=MEAN, label="Layer of table and centres", min_width=160, elem_id="statistics-layer"
        )
    plot = Figure(show_label=False, label="Statistics of queries", elem_id="statistics-plot")
    table = gr.Dataframe(
        headers=HEADERS,
        datatype=["number"] * len(HEADERS),
        interactive=False,
        show_label=False,
        max_height=320,
        elem_id="statistics-table",
        buttons=["fullscreen", "copy"],
    )
    return {"plot": plot, "table": table, "measure": measure, "layer": layer}


def refit(geometry: Geometry) -> dict:
    """The update of the layers for a model of this geometry."""
    return gr.update(choices=[MEAN, *map(str, geometry.cross_layers)], value=MEAN)


def row_of(capture, layer: str) -> int:
    """The row of the statistics that belongs to a layer; the mean over layers is the last."""
    return -1 if layer == MEAN else capture.cross_layers.index(int(layer))


def draw(session: Session, measure: str, layer: str):
    """The figure of one measure over layers and queries, or the centres of mass of one layer."""
    from qformer_viz.view.figures.mass_centres import centre_figure
    from qformer_viz.view.figures.query_measures import measure_figure

    if session.encoded is None:
        return None
    capture, stats = session.capture, measures.query_statistics(session.capture)
    if measure == CENTRE:
        row, picture = row_of(capture, layer), session.picture
        focus = 1 / stats.effective_patches[row]
        shape = aspect(picture.size, box(session.placement))
        return centre_figure(stats.centre[row], focus, stats.cls_share[row], "CLS share", 1 / shape)
    field, unit = UNITS[measure]
    names = [row if row == MEAN else f"layer {row}" for row in stats.rows]
    return measure_figure(getattr(stats, field), names, measure, unit)


def rows(capture, layer: str) -> list[list[float]]:
    """The table of one layer: one row per query, in the order of HEADERS."""
    stats, at = measures.query_statistics(capture), row_of(capture, layer)
    columns = (stats.entropy[at], stats.effective_patches[at], stats.cls_share[at], *stats.centre[at].T)
    return [
        [query, *(round(float(value), 4) for value in values)]
        for query, values in enumerate(zip(*columns, strict=True))
    ]


def table_rows(session: Session, layer: str) -> list[list[float]]:
    return [] if session.encoded is None else rows(session.capture, layer)


def wire(context: ViewContext) -> None:
    """Draw again after every change of a control."""
    measure, layer = context.parts["measure"], context.parts["layer"]
    drawing, listing = on_maps(context)
    gr.on([measure.input, layer.input], *drawing, **LIGHT)
    layer.input(*listing, **LIGHT)


def on_maps(context: ViewContext) -> list[Step]:
    """Draw the figure and fill the table."""
    session, parts = context.session, context.parts
    return [
        (draw, [session, parts["measure"], parts["layer"]], parts["plot"]),
        (table_rows, [session, parts["layer"]], parts["table"]),
    ]


def on_model(context: ViewContext) -> list[Step]:
    """Offer the layers of the model that chats."""
    return [
        (lambda session: refit(context.app.of(session).geometry), context.session, context.parts["layer"])
    ]


VIEW = InspectorView(
    id="statistics", title="Statistics", order=60, build=build, wire=wire, on_maps=on_maps, on_model=on_model
)
