"""The Models tab: two models on one image, for instance before and after fine-tuning, with their maps and answers."""

from functools import partial
from typing import Any

import gradio as gr

from qformer_viz.attribution.explanation import captured
from qformer_viz.errors import UserError
from qformer_viz.runtime.map_placement import box, of, placed
from qformer_viz.ui.app_context import AppContext
from qformer_viz.ui.components import alert, compare_row, live_view, note, side_by_side
from qformer_viz.ui.conversation import Session
from qformer_viz.ui.event_groups import LOAD, Step, discard_if_stale
from qformer_viz.ui.inspector import model_comparison_view
from qformer_viz.ui.inspector.view import InspectorView, Parts, ViewContext
from qformer_viz.ui.model_picker import others, pair
from qformer_viz.ui.stage_updates import as_json
from qformer_viz.view.palette import DIVERGING
from qformer_viz.view.stage_payload import canvas_payload


def build(app: AppContext) -> Parts:
    """The other model, a button, both answers, the view of both maps with their difference; and the same on a set."""
    note(
        "Gives this image and the last question to a second model, and shows the maps of both side by side on one "
        "scale. It shows, for instance, which queries attend elsewhere after fine-tuning. A query has the same "
        "meaning in both models only where one was trained from the other."
    )
    other, run = compare_row("versus", list(app.models)[1:], 280)
    message = gr.HTML(elem_id="versus-told", apply_default_css=False)
    view = live_view("mapComparison", "versus-view")
    return {
        "other": other,
        "run": run,
        "message": message,
        "view": view,
        "many": model_comparison_view.section(app),
    }


def compared(app: AppContext, session: Session, name: str) -> tuple[str, str]:
    """(both answers as HTML, view of both maps as JSON); an error becomes a message."""
    try:
        return both(app, session, name)
    except app.user_errors as error:
        return alert(str(error)), ""


def both(app: AppContext, session: Session, name: str) -> tuple[str, str]:
    """What `compared` returns. UserError says what to do instead."""
    if session.encoded is None:
        raise UserError(session.no_image)
    names = pair(app, session, name)
    *before, (question, _) = session.turns() or [("", "")]
    pipes = [app.of(session).pipe, app.models[name]().pipe]
    # What a Q-Former reads with the image: its model's question, as it is asked in a conversation.
    seen = [pipe.encode(session.encoded, question or None) for pipe in pipes]
    captures = [captured(each) for each in seen]
    if len({(c.cross_layers, c.cross_attention.shape[2:], c.grid) for c in captures}) > 1:
        raise UserError(
            f"{names[1]} has other cross-attention layers, heads, queries or patches than {names[0]}, so their maps "
            "cannot be laid over one another. Choose a model of the same architecture."
        )
    if any(session.frame >= len(each.frames) for each in seen):
        raise UserError(f"{names[1]} sees the first frame of a film only. Choose that frame on the canvas.")
    if len({box(of(each, session.frame)) for each in seen}) > 1:
        raise UserError(
            f"{names[1]} is shown another part of this picture than {names[0]} (their image processors cut or pad it "
            "in other ways), so their patches cannot be compared. Choose a model with the same image processor, or a "
            "square picture."
        )
    said = [
        pipe.ask(each, question, before) if question else pipe.caption(each)
        for pipe, each in zip(pipes, seen, strict=True)
    ]
    lead = f"Asked “{question}”:" if question else "The caption:"
    view = {
        "titles": list(names),
        "second": "the second model",
        "colours": list(DIVERGING),
        "maps": [
            canvas_payload(
                capture, session.picture, index=session.frame, placements=placed(each, session.frame)
            )
            for capture, each in zip(captures, seen, strict=True)
        ],
    }
    texts = [answer.text or "(no word)" for answer in said]
    return side_by_side(lead, zip(names, ("", ""), texts, strict=True)), as_json(view)


def forget() -> tuple[str, str]:
    """Another image, model or answer: what was compared is of no more use."""
    return "", ""


def wire(context: ViewContext) -> None:
    """Connect the comparison on one image and the one on a set."""
    app, session, parts = context.app, context.session, context.parts

    def compare(session: Session, name: str) -> Any:
        return discard_if_stale(session, partial(compared, app, session, name))

    chosen, out = [session, parts["other"]], [parts["message"], parts["view"]]
    parts["run"].click(compare, chosen, out, show_progress_on=parts["message"], **LOAD)
    model_comparison_view.wire(app, session, parts["other"], parts["many"])


def clear(context: ViewContext) -> list[Step]:
    """Remove what belongs to another image or answer."""
    return [(forget, None, [context.parts["message"], context.parts["view"]])]


def on_model(context: ViewContext) -> list[Step]:
    """Offer the models that do not chat."""

    def offer(session: Session) -> dict:
        names = others(context.app, session)
        return gr.update(choices=names, value=names[0])

    return [(offer, context.session, context.parts["other"])]


VIEW = InspectorView(
    id="versus",
    title="Models",
    order=90,
    available=lambda app: len(app.models) > 1,
    build=build,
    wire=wire,
    on_image=clear,
    on_answer=clear,
    on_model=on_model,
)
