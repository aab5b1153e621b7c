"""Tab: two models on one image, for instance before and after fine-tuning: the maps of both and what each says."""

from functools import partial
from html import escape
from typing import Any

import gradio as gr

from qformer_viz.errors import UserError
from qformer_viz.runtime.map_placement import box, of, placed
from qformer_viz.ui.app_context import AppContext
from qformer_viz.ui.components import alert, compare_row, live_view
from qformer_viz.ui.conversation import Session
from qformer_viz.ui.event_groups import LOAD, discard_if_stale
from qformer_viz.ui.inspector import model_comparison_view
from qformer_viz.ui.model_picker import pair
from qformer_viz.ui.stage_updates import as_json
from qformer_viz.view.palette import DIVERGING
from qformer_viz.view.stage_payload import canvas_payload


def tab(services: AppContext) -> dict:
    """The other model, a button, both answers, the view of both maps with their difference; and the same on a set."""
    gr.HTML(
        "<p class='qfv-note'>Gives this image, and the last question, to a second model, and sets the maps of both "
        "side by side on one scale: which queries look elsewhere after a fine-tuning, for instance. A number stands "
        "for the same query in both only where one was trained from the other.</p>",
        apply_default_css=False,
    )
    other, run = compare_row("versus", list(services.models)[1:], 280)
    told = gr.HTML(elem_id="versus-told", apply_default_css=False)
    view = live_view("mapComparison", "versus-view")
    return {
        "other": other,
        "run": run,
        "told": told,
        "view": view,
        "many": model_comparison_view.section(services),
    }


def compared(services: AppContext, session: Session, name: str) -> tuple[str, str]:
    """(both answers as HTML, view of both maps as JSON); trouble is told instead."""
    try:
        return both(services, session, name)
    except services.user_errors as error:
        return alert(str(error)), ""


def both(services: AppContext, session: Session, name: str) -> tuple[str, str]:
    """What `compared` returns. UserError says what to do instead."""
    if session.encoded is None:
        raise UserError(session.no_image)
    names = pair(services, session, name)
    *before, (question, _) = session.turns() or [("", "")]
    pipes = [services.of(session).pipe, services.models[name]().pipe]
    # What a Q-Former reads with the image: its model's question, as it is asked in a conversation.
    seen = [pipe.encode(session.encoded, question or None) for pipe in pipes]
    captures = [each.capture for each in seen]
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
    cells = "".join(
        f"<div><dt>{escape(model)}</dt><dd>{escape(answer.text or '(no word)')}</dd></div>"
        for model, answer in zip(names, said, strict=True)
    )
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
    told = f"<p role='status'>{escape(lead)}</p><dl class='qfv-facts qfv-sides'>{cells}</dl>"
    return told, as_json(view)


def forget() -> tuple[str, str]:
    """Another image, model or answer: what was compared is of no more use."""
    return "", ""


def wire(services: AppContext, session: gr.State, parts: dict) -> tuple:
    """Connect the tab; returns what must run after a new image and after every answer."""

    def compare(session: Session, name: str) -> Any:
        return discard_if_stale(session, partial(compared, services, session, name))

    chosen, out = [session, parts["other"]], [parts["told"], parts["view"]]
    parts["run"].click(compare, chosen, out, show_progress_on=parts["told"], **LOAD)
    model_comparison_view.wire(services, session, parts["other"], parts["many"])
    return (forget, None, out)
