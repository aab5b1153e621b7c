"""A part of the Models tab: two models on a set of images, for instance before and after fine-tuning."""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from qformer_viz.analysis.model_comparison import ModelComparison, compare_models
from qformer_viz.errors import UserError
from qformer_viz.runtime.map_placement import box, of
from qformer_viz.ui.app_context import AppContext, ChatModel
from qformer_viz.ui.components import alert, facts, markup, picture_row, plot_and_facts, table
from qformer_viz.ui.conversation import Session
from qformer_viz.ui.event_groups import LONG, stop_button
from qformer_viz.ui.explanation_cache import progress_callback
from qformer_viz.ui.inspector.image_sets_view import encoded
from qformer_viz.ui.model_picker import pair
from qformer_viz.view.stage_payload import embed

SIDE = 96
"""Pixels of the longer side of a picture in the list of answers that differ."""


def section(app: AppContext) -> dict:
    """Two ways to a set of images, a heat map beside the figures, and the answers that differ."""
    gr.HTML(
        "<h3>On a set of images</h3><p class='qfv-note'>One image does not show what fine-tuning changed. Here both "
        "models see a whole set: which queries attend elsewhere, which carry other information, and which images get "
        "another answer to the last question, or another caption where none was asked.</p>",
        apply_default_css=False,
        elem_id="apart-head",
    )
    chosen = picture_row("apart", "Compare", app.limits.images)
    plot, message = plot_and_facts("apart", "Attention shift of every query")
    answers = gr.HTML(elem_id="apart-answers", apply_default_css=False)
    return {**chosen, "plot": plot, "message": message, "answers": answers}


def compared(
    app: AppContext, session: Session, name: str, files: Sequence[str] | None, progress: gr.Progress
) -> tuple[str, Any, str]:
    """(figures as HTML, plot, answers that differ as HTML) over the chosen images; an error becomes a message."""
    from qformer_viz.view.figures.query_measures import measure_figure

    question = session.last_question()
    on_progress = progress_callback(session, progress, "Comparing", outdates=False)

    def look(number: int, chat_model: ChatModel) -> tuple[list[Any], list[Any], list[str]]:
        """The pictures, what the Q-Former does with each, and what the model says of it."""
        seen = encoded(
            app, session, chat_model, files, lambda done, of: on_progress(2 * number * of + done, 4 * of)
        )
        said = []
        for each in seen:
            answer = chat_model.pipe.ask(each, question) if question else chat_model.pipe.caption(each)
            said.append(answer.text)
            on_progress((2 * number + 1) * len(seen) + len(said), 4 * len(seen))
        pictures = [(each.image, box(of(each))) for each in seen]
        return pictures, [each.capture for each in seen], said

    try:
        names = pair(app, session, name)
        models = app.of(session), app.models[name]()
        pictures, captures, said = zip(*map(look, (0, 1), models), strict=True)
        if any(one[1] != other[1] for one, other in zip(*pictures, strict=True)):
            raise UserError(
                f"{names[1]} is shown other parts of these images than {names[0]} (their image processors cut or pad "
                "them in other ways), so their patches cannot be compared. Choose square images."
            )
        found = compare_models(*captures)
    except app.user_errors as error:
        return alert(str(error)), gr.update(visible=False), ""
    rows = [row if row == "mean" else f"layer {row}" for row in found.rows]
    plot = measure_figure(found.attention_shift, rows, "attention shift", "0 to 1")
    lead = f"{names[1]} against {names[0]} on {found.images} images:"
    return (
        facts(figures(found, said, question), lead=lead),
        gr.update(value=plot, visible=True),
        differing(names, [picture for picture, _ in pictures[0]], said),
    )


def figures(
    found: ModelComparison, said: Sequence[Sequence[str]], question: str | None
) -> list[tuple[str, str, str]]:
    """The rows of facts over the whole set."""
    moved = found.attention_shift[-1]
    most, least = int(moved.argmax()), int(moved.argmin())
    places = [f"{q:02d} → {p:02d}" for q, p in enumerate(found.matched_query.tolist()) if p != q]
    same = sum(one == other for one, other in zip(*said, strict=True))
    rows = [
        (
            "Attention shift",
            f"{moved.mean():.2f}",
            "of a query's attention goes to other patches, layers averaged. Between unrelated queries "
            f"it is {found.shift_between_unrelated[-1]:.2f}",
        ),
        (
            "Most and least",
            f"{most:02d} · {least:02d}",
            f"queries, at {moved[most]:.2f} and {moved[least]:.2f}",
        ),
        (
            "Matched to another query",
            str(len(places)),
            "queries whose maps are most similar to those of another query of the second model"
            + (f": {', '.join(places)}" if places else ""),
        ),
    ]
    known = None if found.state_cka is None else found.state_cka[-1][~found.state_cka[-1].isnan()]
    if known is not None and len(known):
        meaning = "of the last states, mean over queries (1 = the same information about the images, 0 = none"
        rows.append(("Similarity of states (CKA)", f"{known.mean():.2f}", f"{meaning} in common)"))
    what = f"answer to “{question}”, asked without the turns before it" if question else "caption"
    rows.append(("Same words", f"{same} of {found.images}", f"images get the same {what}"))
    return rows


def differing(names: Sequence[str], pictures: Sequence[Any], said: Sequence[Sequence[str]]) -> str:
    """A table of the pictures that get two answers, as HTML."""
    rows = []
    for number, (picture, *answers) in enumerate(zip(pictures, *said, strict=True), 1):
        if answers[0] != answers[1]:
            small = picture.copy()
            small.thumbnail((SIDE, SIDE))
            shown = markup("<img src='{src}' alt='image {number}' />", src=embed(small)["src"], number=number)
            rows.append([shown, *(answer or "(no word)" for answer in answers)])
    return table(["image", *names], rows, "Images that get two answers") if rows else ""


def wire(app: AppContext, session: gr.State, other: gr.Dropdown, parts: dict) -> None:
    """Connect the section. What it shows names both models and the pictures, so it stays until it is asked again."""

    # Closures, because Gradio reads no type hints off a partial.
    def compare(session: Session, name: str, progress=gr.Progress()):  # noqa: B008
        return compared(app, session, name, None, progress)

    def compare_on(session: Session, name: str, files: list[str], progress=gr.Progress()):  # noqa: B008
        return compared(app, session, name, files, progress)

    shown = [parts["message"], parts["plot"], parts["answers"]]
    options = {"show_progress_on": parts["answers"], **LONG}
    parts["run"].click(compare, [session, other], shown, **options)
    parts["files"].upload(compare_on, [session, other, parts["files"]], shown, **options)
    stop_button(parts["stop"], session)
