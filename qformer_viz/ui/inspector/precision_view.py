"""The Precision tab: what another precision changes for this image, in maps, words and answers."""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from qformer_viz.analysis import precision_comparison
from qformer_viz.errors import UserError
from qformer_viz.ui.app_context import AppContext
from qformer_viz.ui.components import Figure, alert, compare_row, facts, note
from qformer_viz.ui.conversation import Session
from qformer_viz.ui.event_groups import LOAD, Step, discard_if_stale
from qformer_viz.ui.inspector.view import InspectorView, Parts, ViewContext


def build(app: AppContext) -> Parts:
    """A precision to compare with, a button, and the figures."""
    note(
        "Loads this model a second time, in another precision, and gives both this image. The Q-Former stays in "
        "floating point in every precision. What changes is the image features that it gets and the language model."
    )
    other, run = compare_row("precision", list(app.precisions), 160)
    message = gr.HTML(elem_id="precision-told", apply_default_css=False)
    layers = Figure(
        show_label=False, label="Divergence by layer and head", elem_id="precision-plot", visible=False
    )
    return {"other": other, "run": run, "message": message, "layers": layers}


def compared(app: AppContext, session: Session, name: str) -> tuple[str, Any]:
    """(figures as HTML, plot) of this image in both precisions; an error becomes a message."""
    from qformer_viz.view.figures.precision_divergence import divergence_figure

    try:
        if session.encoded is None:
            raise UserError(session.no_image)
        if session.model not in (None, next(iter(app.models), None)):
            raise UserError("Only the model that the page opened with can be compared. Choose it at the top.")
        if name not in app.precisions:
            raise UserError("Choose a precision of the list.")
        asked = [question for question, _ in session.turns() if question]
        pair = app.chat_model.pipe, app.precisions[name]()
        found = precision_comparison.compare_precisions(*pair, [session.picture], asked[-1] if asked else "")
    except app.user_errors as error:
        return alert(str(error)), gr.update(visible=False)
    lead = f"{name} against what the page runs ({spoken(app)}), this image:"
    plot = divergence_figure(found.divergence, found.cross_layers)
    return facts(precision_comparison.rows(found), lead=lead), gr.update(value=plot, visible=True)


def spoken(app: AppContext) -> str:
    pipe = app.chat_model.pipe
    return pipe.quantization or str(pipe.describe().get("precision", ""))


def forget() -> tuple[str, Any]:
    """Another image, model or answer: what was compared is of no more use."""
    return "", gr.update(visible=False)


def wire(context: ViewContext) -> None:
    """Connect the button."""
    app, session, parts = context.app, context.session, context.parts

    def compare(session: Session, name: str) -> Sequence[Any]:
        return discard_if_stale(session, lambda: compared(app, session, name))

    parts["run"].click(compare, [session, parts["other"]], [parts["message"], parts["layers"]], **LOAD)


def clear(context: ViewContext) -> list[Step]:
    """Remove what belongs to another image or answer."""
    return [(forget, None, [context.parts["message"], context.parts["layers"]])]


VIEW = InspectorView(
    id="precision",
    title="Precision",
    order=110,
    available=lambda app: bool(app.precisions),
    build=build,
    wire=wire,
    on_image=clear,
    on_answer=clear,
)
