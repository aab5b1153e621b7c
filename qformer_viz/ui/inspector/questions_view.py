"""The Questions tab: how the maps differ between two questions, for models whose Q-Former reads the question
(InstructBLIP)."""

from functools import partial
from typing import Any

import gradio as gr

from qformer_viz.attribution.explanation import captured
from qformer_viz.errors import UserError
from qformer_viz.runtime.map_placement import placed
from qformer_viz.ui.app_context import AppContext
from qformer_viz.ui.components import alert, live_view, note
from qformer_viz.ui.conversation import Session, too_long
from qformer_viz.ui.event_groups import LONG, Step, discard_if_stale
from qformer_viz.ui.inspector.view import InspectorView, Parts, ViewContext
from qformer_viz.ui.stage_updates import as_json
from qformer_viz.view.palette import DIVERGING
from qformer_viz.view.stage_payload import canvas_payload

CAPTION = "(the caption)"
NOT_READ = (
    "This model's Q-Former does not read the question: its maps are the same whatever is asked. Choose a model that "
    "does, such as InstructBLIP, at the top of the page."
)


def build(app: AppContext) -> Parts:
    """Two questions, and the view of both with their difference."""
    note(
        "InstructBLIP's Q-Former reads the question together with the image. Here are the maps of two questions about "
        "one image, side by side on one scale, and their difference. A difference shows that a query attended "
        "elsewhere, not that the answer needed it."
    )
    with gr.Row(elem_classes="qfv-controls"):
        first, second = (
            gr.Dropdown(
                [CAPTION],
                value=CAPTION,
                allow_custom_value=True,
                label=label,
                elem_id=f"questions-{name}",
                min_width=200,
                scale=4,
            )
            for name, label in (("first", "First question"), ("second", "Second question"))
        )
        compare = gr.Button(
            "Compare", variant="primary", size="md", elem_id="questions-compare", min_width=110
        )
    message = gr.HTML(elem_id="questions-told", apply_default_css=False)
    view = live_view("mapComparison", "questions-view")
    return {"first": first, "second": second, "compare": compare, "message": message, "view": view}


def pair(app: AppContext, session: Session, first: str, second: str) -> tuple[str, str]:
    """(message, view): the maps of both questions as JSON; an error becomes a message."""

    def work() -> tuple[str, str]:
        try:
            return "", as_json(maps(app, session, first, second))
        except app.user_errors as error:
            return alert(str(error)), ""

    return discard_if_stale(session, work)


def maps(app: AppContext, session: Session, first: str, second: str) -> dict[str, Any]:
    """Canvas payloads of both questions and the colours of their difference. UserError says what to do instead."""
    chat_model = app.of(session)
    if session.encoded is None:
        raise UserError(session.no_image)
    if not chat_model.reads_questions:
        raise UserError(NOT_READ)
    asked = [(text or "").strip() for text in (first, second)]
    for text in asked:
        if long := too_long("A question", text, app.limits):
            raise UserError(long)
    if asked[0] == asked[1]:
        raise UserError("Both questions are the same. Choose or type another one, then compare.")
    seen = [
        chat_model.pipe.encode(session.encoded, None if text in ("", CAPTION) else text) for text in asked
    ]
    return {
        "titles": [text or CAPTION for text in asked],
        "second": "the second question",
        "colours": list(DIVERGING),
        "maps": [
            canvas_payload(
                captured(each),
                session.picture,
                index=session.frame,
                placements=placed(each, session.frame),
            )
            for each in seen
        ],
    }


def offered(session: Session) -> tuple:
    """Updates of both dropdowns: what was asked about this image, the last two chosen."""
    asked = [question for question, _ in session.turns() if question]
    choices = list(dict.fromkeys([CAPTION, *asked]))
    chosen = choices if len(choices) == 1 else [*dict.fromkeys([CAPTION, *asked][::-1])][:2][::-1]
    return gr.update(choices=choices, value=chosen[0]), gr.update(choices=choices, value=chosen[-1])


def forget() -> tuple[str, str]:
    """Another image or model: what was compared is of no more use."""
    return "", ""


def wire(context: ViewContext) -> None:
    """Connect the button."""
    parts = context.parts
    questions = [context.session, parts["first"], parts["second"]]
    parts["compare"].click(partial(pair, context.app), questions, [parts["message"], parts["view"]], **LONG)


def on_answer(context: ViewContext) -> list[Step]:
    """Offer the questions that were asked."""
    return [(offered, context.session, [context.parts["first"], context.parts["second"]])]


def on_image(context: ViewContext) -> list[Step]:
    """The same, and remove what belongs to another image."""
    return [*on_answer(context), (forget, None, [context.parts["message"], context.parts["view"]])]


VIEW = InspectorView(
    id="questions",
    title="Questions",
    order=80,
    available=lambda app: app.compares_questions,
    build=build,
    wire=wire,
    on_image=on_image,
    on_answer=on_answer,
)
