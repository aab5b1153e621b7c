"""The Similarity tab: how similar the queries are."""

import gradio as gr

from qformer_viz.analysis import query_similarity as measures
from qformer_viz.attention_maps import patches, select
from qformer_viz.ui.app_context import AppContext, Geometry
from qformer_viz.ui.components import Figure, facts
from qformer_viz.ui.conversation import Session
from qformer_viz.ui.event_groups import LIGHT, Step
from qformer_viz.ui.inspector.view import InspectorView, Parts, ViewContext

TOKENS, MAPS = "Learned query tokens", "Attention maps (1 − Jensen–Shannon distance)"
MEAN = "mean"
INDEX, LEAF = "Index", "Similarity"
CENTRED, RAW = "Centred cosine", "Raw cosine"


def spaces(geometry: Geometry) -> list[str]:
    """What can be compared: learned tokens, states before the first layer and after each, attention maps.
    Layers are numbered from 0, as on the canvas."""
    states = ["States before layer 0", *(f"States after layer {k}" for k in range(geometry.layers))]
    return [TOKENS, *states, MAPS]


def build(app: AppContext) -> Parts:
    """Controls, heat map and the facts beside it."""
    geometry = app.chat_model.geometry
    choices = spaces(geometry)
    with gr.Row(elem_classes="qfv-controls"):
        space = gr.Dropdown(
            choices, value=choices[-2], label="Compare", elem_id="similarity-space", min_width=220
        )
        kind = gr.Dropdown([CENTRED, RAW], value=CENTRED, label="Measure", min_width=150)
        order = gr.Dropdown(
            [LEAF, INDEX], value=LEAF, label="Order by", min_width=110, elem_id="similarity-order"
        )
        layer = gr.Dropdown(
            [MEAN, *map(str, geometry.cross_layers)], value=MEAN, label="Maps of layer", min_width=100
        )
        head = gr.Dropdown(
            [MEAN, *map(str, range(geometry.heads))], value=MEAN, label="Maps of head", min_width=100
        )
    with gr.Row():
        plot = Figure(
            show_label=False, label="Similarity of queries", elem_id="similarity-plot", scale=3, min_width=320
        )
        with gr.Column(scale=2, min_width=260):
            threshold = gr.Slider(
                0, 1, 0.8, step=0.01, label="Redundant above a similarity of", elem_id="similarity-threshold"
            )
            message = gr.HTML(elem_id="similarity-facts")
    return {
        "plot": plot,
        "message": message,
        "threshold": threshold,
        "controls": [space, kind, order, layer, head],
    }


def refit(geometry: Geometry) -> list:
    """Updates of the controls for a model of this geometry."""
    choices = spaces(geometry)
    layers, heads = [MEAN, *map(str, geometry.cross_layers)], [MEAN, *map(str, range(geometry.heads))]
    return [
        gr.update(choices=choices, value=choices[-2]),
        gr.skip(),
        gr.skip(),
        gr.update(choices=layers, value=MEAN),
        gr.update(choices=heads, value=MEAN),
    ]


def compare(capture, space: str, kind: str, layer: str, head: str):
    """The chosen [q, q] similarity, its name, and whether it is signed."""
    if space == MAPS:
        chosen = select(capture.cross_attention, _index(capture, layer), _number(head))[0]
        return measures.attention_similarity(chosen), "1 − JS distance", False
    states = capture.query_tokens if space == TOKENS else capture.query_states[_state(capture, space), 0]
    return measures.cosine(states, centre=kind == CENTRED), kind.lower(), True


def draw(session: Session, space: str, kind: str, order: str, layer: str, head: str):
    """The heat map for the plot."""
    from qformer_viz.view.figures.similarity_matrix import similarity_figure

    if session.encoded is None:
        return None
    matrix, name, signed = compare(session.capture, space, kind, layer, head)
    sequence = measures.leaf_order(matrix) if order == LEAF else range(len(matrix))
    return similarity_figure(matrix, list(sequence), name, signed=signed)


def tell(session: Session, threshold: float, *chosen: str) -> str:
    """The facts beside the heat map."""
    if session.encoded is None:
        return facts([("No image yet", "–", "Upload an image to compare its queries.")])
    return facts(*summary(session.capture, threshold, *chosen))


def summary(capture, threshold: float, space: str, kind: str, order: str, layer: str, head: str):
    """The rows of facts about the chosen similarity, and the collapse warning or ""."""
    matrix, name, _ = compare(capture, space, kind, layer, head)
    states = capture.query_tokens if space == TOKENS else capture.query_states[_state(capture, space), 0]
    maps = patches(select(capture.cross_attention, _index(capture, layer), _number(head)))[0]
    # States that have not met the image yet say nothing about a collapse: judge those after the last layer.
    judged = measures.collapse(capture.query_states[-1, 0], maps)
    pairs = len(matrix) * (len(matrix) - 1) // 2
    share = measures.redundancy(matrix, threshold)
    rows = [
        (
            "Redundancy",
            f"{share:.1%}",
            f"of {pairs} pairs of queries are more similar than {threshold:.2f} ({name})",
        ),
        (
            "Complementarity",
            f"{measures.complementarity(matrix):.2f}",
            "1 − mean similarity over pairs; higher is more varied",
        ),
        (
            "Effective rank",
            f"{measures.effective_rank(states):.1f}",
            f"of {min(len(states) - 1, states.shape[-1])} possible directions, of the {_states_name(space)}",
        ),
        (
            "Specialisation",
            f"{measures.specialisation(maps):.2f}",
            "0: all queries attend to the same patches; 1: nothing shared",
        ),
    ]
    reasons = "; ".join(judged.reasons)
    return rows, f"The queries may have collapsed: {reasons}." if judged.warning else ""


def _states_name(space: str) -> str:
    return "states after the last layer" if space == MAPS else space[0].lower() + space[1:]


def _state(capture, space: str) -> int:
    if space == MAPS:
        return -1
    return 0 if "before" in space else 1 + int(space.rsplit(" ", 1)[1])


def _index(capture, layer: str) -> int | None:
    return None if layer == MEAN else capture.cross_layers.index(int(layer))


def _number(head: str) -> int | None:
    return None if head == MEAN else int(head)


def wire(context: ViewContext) -> None:
    """Draw again after every change of a control."""
    controls, threshold = context.parts["controls"], context.parts["threshold"]
    drawing, listing = on_maps(context)
    options = {"trigger_mode": "always_last", **LIGHT}
    gr.on([control.input for control in controls], *drawing, **options)
    gr.on([control.input for control in (*controls, threshold)], *listing, **options)


def on_maps(context: ViewContext) -> list[Step]:
    """Draw the heat map and list the facts beside it."""
    session, parts = context.session, context.parts
    controls, threshold = parts["controls"], parts["threshold"]
    return [
        (draw, [session, *controls], parts["plot"]),
        (tell, [session, threshold, *controls], parts["message"]),
    ]


def on_model(context: ViewContext) -> list[Step]:
    """Offer the layers and heads of the model that chats."""
    return [
        (
            lambda session: refit(context.app.of(session).geometry),
            context.session,
            context.parts["controls"],
        )
    ]


VIEW = InspectorView(
    id="similarity", title="Similarity", order=50, build=build, wire=wire, on_maps=on_maps, on_model=on_model
)
