"""The Why tab: which queries and patches every word of the last answer came from, and whether the map on screen is
faithful."""

from collections.abc import Callable
from typing import Any

import gradio as gr

from qformer_viz.attribution import METHODS
from qformer_viz.attribution.explanation import DEFAULT
from qformer_viz.evaluation.assessment import CENTRE, ERASER, MAP, RANDOM_ORDER, Assessment, assess
from qformer_viz.runtime.map_placement import box
from qformer_viz.ui.app_context import AppContext
from qformer_viz.ui.components import Figure, alert, facts, live_view, note
from qformer_viz.ui.conversation import Session
from qformer_viz.ui.event_groups import LONG, Step, after_answer, discard_if_stale, stop_button
from qformer_viz.ui.explanation_cache import (
    ExplanationCache,
    chosen,
    get_current,
    get_or_create,
    progress_callback,
)
from qformer_viz.ui.inspector.view import InspectorView, Parts, ViewContext
from qformer_viz.ui.stage_updates import as_json, pictures
from qformer_viz.view.word_payload import words_payload


def build(app: AppContext) -> Parts:
    """One button, the view of words, queries and patches, and the verdict on its map."""
    note(
        "Explains the last answer: which queries each word came from, and where those queries attended. A word that "
        "needs no image is marked and gets no map."
    )
    with gr.Row(elem_classes="qfv-controls"):
        run = gr.Button(
            "Explain the last answer", variant="primary", size="md", elem_id="why-run", min_width=200, scale=0
        )
        stop = gr.Button("Stop", size="md", elem_id="why-stop", min_width=80, scale=0)
    message = gr.HTML(elem_id="why-told", apply_default_css=False)
    view = live_view("wordEvidence", "why-view")
    sentence = gr.HTML(elem_id="why-sentence", apply_default_css=False)
    curves = Figure(show_label=False, label="Deletion and insertion", elem_id="why-curves", visible=False)
    return {
        "run": run,
        "stop": stop,
        "message": message,
        "view": view,
        "sentence": sentence,
        "curves": curves,
    }


def message_and_view(
    app: AppContext, session: Session, on_progress: Callable[[int, int], object] | None = None
) -> tuple[str, str]:
    """(message, view): every fast method for every word as JSON; an error becomes a message."""
    try:
        kept = get_or_create(app, session)
        for name in METHODS:
            if not METHODS[name].slow:
                kept.map(name, 0, on_progress)
        return "", as_json(words(app, session, kept))
    except app.user_errors as error:
        return alert(str(error)), ""


def computed(app: AppContext, session: Session, data: object, progress: gr.Progress) -> tuple[str, Any]:
    """(message, view) with the chosen method for the chosen word added; after an error the view stays."""
    try:
        kept = get_or_create(app, session)
        method, word = chosen(data, len(kept.context.scorer.words))
        kept.map(method, word, progress_callback(session, progress, METHODS[method].title))
        return "", as_json(words(app, session, kept))
    except app.user_errors as error:
        return alert(str(error)), gr.skip()


def words(app: AppContext, session: Session, kept: ExplanationCache) -> dict[str, Any]:
    """What the view draws. Everything that was computed is in it, and is chosen from in the browser; of a quick model a
    method runs by being chosen."""
    shown = words_payload(kept.map(DEFAULT, 0), kept.known, METHODS) | pictures(session.encoded)
    return shown | {"quick": app.of(session).quick}


def judged(app: AppContext, session: Session, data: object, progress: gr.Progress) -> tuple[str, Any]:
    """(sentence and figures, plot) on the map of the chosen word and method; an error becomes a message."""
    from qformer_viz.view.figures.deletion_curves import curves_figure

    try:
        kept = get_or_create(app, session)
        method, word = chosen(data, len(kept.context.scorer.words))
        on_progress = progress_callback(session, progress, "Hiding patches")
        found = kept.map(method, word, on_progress)
        film = len(session.encoded.frames) > 1
        untold = film or box(session.placement)  # known objects lie on the grid of a whole picture
        mask = None if untold else app.mask(session.encoded.image, kept.context.scorer.words[word])
        verdict = assess(kept.context, found, word, mask, on_progress)
    except app.user_errors as error:
        return alert(str(error)), gr.update(visible=False)
    about = f"“{verdict.word}” by {METHODS[method].title}. {verdict.sentence}"
    return facts(figures(verdict), lead=about), gr.update(value=curves_figure(verdict), visible=True)


def figures(verdict: Assessment) -> list[tuple[str, str, str]]:
    """The rows of facts beside the curves."""
    rows = []
    if verdict.areas is not None:
        for which, (name, better) in enumerate((("Deletion", "lower"), ("Insertion", "higher"))):
            here, chance, centre = (verdict.areas[order][which] for order in (MAP, RANDOM_ORDER, CENTRE))
            rows.append(
                (
                    name,
                    f"{here:.2f}",
                    f"random order {chance:.2f}, centre first {centre:.2f}; {better} is better",
                )
            )
    shares = " · ".join(f"{share:.0%}" for share in ERASER)
    for name, values, meaning in (
        ("Comprehensiveness", verdict.comprehensiveness, "nats lost with the strongest patches hidden, at"),
        ("Sufficiency", verdict.sufficiency, "nats lost with only the strongest patches shown, at"),
    ):
        shown = " · ".join(f"{round(value, 1) + 0.0:.1f}" for value in values)  # no minus before a nought
        rows.append((name, shown, f"{meaning} {shares}"))
    if verdict.agreement is not None:
        what = "weights of queries" if verdict.of_queries else "patches"
        rows.append(
            (
                "Agreement with knock-out",
                f"{verdict.agreement:.2f}",
                f"rank correlation of the {what}, −1 to 1",
            )
        )
    if verdict.pointing is not None:
        rows.append(
            (
                "Peak in the object",
                "yes" if verdict.pointing > 0.5 else "no",
                f"give or take one patch; chance {verdict.chance:.0%}",
            )
        )
        rows.append(("Weight in the object", f"{verdict.mass:.0%}", "of the weight that speaks for the word"))
    return rows


def follow(app: AppContext, session: Session) -> tuple:
    """Another image, model or answer: what was explained is of no more use. An answer that is quickly taken apart is
    taken apart unasked."""
    if get_current(session) is not None:
        return (gr.skip(),) * 4
    unasked = session.answer is not None and session.answer.text and app.of(session).quick
    message, view = message_and_view(app, session) if unasked else ("", "")
    return message, view, "", gr.update(visible=False)


def wire(context: ViewContext) -> None:
    """Connect the button, and what the view asks for."""
    app, session, parts = context.app, context.session, context.parts

    # Closures, because Gradio reads no type hints off a partial.
    def start(session: Session, progress=gr.Progress()):  # noqa: B008
        on_progress = progress_callback(session, progress, "Explaining")
        return discard_if_stale(session, lambda: message_and_view(app, session, on_progress))

    def compute(session: Session, event: gr.EventData, progress=gr.Progress()):  # noqa: B008
        return discard_if_stale(session, lambda: computed(app, session, event._data, progress))

    def check(session: Session, event: gr.EventData, progress=gr.Progress()):  # noqa: B008
        return discard_if_stale(session, lambda: judged(app, session, event._data, progress))

    results, view = [parts["message"], parts["view"]], parts["view"]
    verdict = [parts["sentence"], parts["curves"]]
    after_answer(parts["run"].click, start, session, results, show_progress_on=parts["message"], **LONG)
    view.submit(compute, session, results, show_progress_on=parts["message"], **LONG)
    view.apply(check, session, verdict, show_progress_on=parts["sentence"], **LONG)
    stop_button(parts["stop"], session)


def explain_again(context: ViewContext) -> list[Step]:
    """Explain the new answer of a quick model, and remove what belongs to another one."""

    def after(session: Session) -> Any:
        return discard_if_stale(session, lambda: follow(context.app, session))

    outputs = [context.parts[name] for name in ("message", "view", "sentence", "curves")]
    return [(after, context.session, outputs)]


VIEW = InspectorView(
    id="why",
    title="Why",
    order=10,
    build=build,
    wire=wire,
    on_image=explain_again,
    on_answer=explain_again,
    slow=True,
)
