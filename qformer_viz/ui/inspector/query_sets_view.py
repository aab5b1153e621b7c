"""The Queries tab: the effect of each query on every word of the last answer, pairwise interactions, Shapley values, a
small sufficient set, and the logit lens."""

from dataclasses import replace
from functools import partial

import gradio as gr
from markupsafe import Markup

from qformer_viz.analysis.query_sets import minimal_sufficient_set, pairwise_interactions, shapley_values
from qformer_viz.analysis.token_readout import logit_lens
from qformer_viz.attribution import ExplanationContext
from qformer_viz.attribution.methods.knockout import effects, ends
from qformer_viz.ui.app_context import AppContext
from qformer_viz.ui.components import Figure, alert, markup, note, table, word_row
from qformer_viz.ui.conversation import Session
from qformer_viz.ui.event_groups import LONG, Step, after_answer, discard_if_stale, stop_button
from qformer_viz.ui.explanation_cache import get_current, get_or_create, progress_callback
from qformer_viz.ui.inspector.view import InspectorView, Parts, ViewContext
from qformer_viz.view.word_payload import first_word

CLOSEST = 8
LENS_WARNING = (
    "The logit lens is known to mislead. A projected query is an input of the language model and was never trained to "
    "lie near a word. The words that its output layer gives are not what the model makes of the query. Take them as a "
    "hint and test them by knock-out."
)


def build(app: AppContext) -> Parts:
    """A button, a word, and four views."""
    note(
        "If two queries carry the same information, removing one changes nothing. Here queries are removed in sets: "
        "in pairs, in random orders (Shapley values), and as many as the answer can do without."
    )
    row = word_row("together", "Test sets of queries")
    message = gr.HTML(elem_id="together-told", apply_default_css=False)
    matrix = Figure(show_label=False, label="Queries and words", elem_id="together-matrix", visible=False)
    with gr.Row():
        shares = Figure(
            show_label=False, label="Shapley values", elem_id="together-shares", visible=False, min_width=320
        )
        twos = Figure(show_label=False, label="Pairs", elem_id="together-pairs", visible=False, min_width=320)
    with gr.Accordion("Words nearest to each query (logit lens)", open=False, elem_id="together-lens"):
        lens = gr.HTML(apply_default_css=False)
    return row | {"message": message, "figures": [matrix, shares, twos], "lens": lens}


def weighed(app: AppContext, session: Session, progress: gr.Progress) -> list:
    """(message, words, matrix, Shapley values, pairs, lens) of the last answer; an error becomes a message."""
    from qformer_viz.view.figures.query_effects import effects_figure

    try:
        kept = get_or_create(app, session)
        on_progress = progress_callback(session, progress, "Testing sets of queries")
        context = replace(kept.context, on_progress=on_progress)
        context.cached("shapley", lambda: shapley_values(context))
        few = context.cached("smallest", lambda: minimal_sufficient_set(context))
        image_gain = ends(context)[0] - ends(context)[1]
    except app.user_errors as error:
        return [alert(str(error)), *[gr.skip()] * 5]
    words = context.scorer.words
    first = first_word(context.scorer.words, image_gain)
    choices = [(f"{word} ({index + 1})", index) for index, word in enumerate(words)]
    names = labels(context)
    matrix = effects_figure(effects(context), [label for label, _ in choices], names, "nats")
    return [
        enough([names[query] for query in few], len(names)),
        gr.update(choices=choices, value=first),
        gr.update(value=matrix, visible=True),
        *for_word(app, session, first),
        lens(context),
    ]


def labels(context: ExplanationContext) -> list[str]:
    """The names of the queries, of a film with the number of their frame."""
    from qformer_viz.view.figures.figure_style import query_labels

    return query_labels(context.scorer.queries.shape[1], context.frames)


def for_word(app: AppContext, session: Session, word: object) -> list:
    """(Shapley values, pairs) of one word; nothing where the answer has gone meanwhile."""
    from qformer_viz.view.figures.query_pairs import pairs_figure
    from qformer_viz.view.figures.shapley_bars import shapley_figure

    try:
        context = get_or_create(app, session).context
        if type(word) is not int or not 0 <= word < len(context.scorer.words) or not context.known("shapley"):
            return [gr.skip(), gr.skip()]
        found, alone = context.cached("shapley", lambda: shapley_values(context)), effects(context)[word]
        closest = sorted(alone.abs().topk(min(CLOSEST, len(alone))).indices.tolist())
        both = context.cached(("pairs", tuple(closest)), lambda: pairwise_interactions(context, closest))[
            word
        ]
    except app.user_errors:
        return [gr.skip(), gr.skip()]
    spoken, names = context.scorer.words[word], labels(context)
    shares = shapley_figure(found.values[word], found.error[word], alone, names, spoken)
    twos = pairs_figure(both, [names[query] for query in closest], spoken)
    return [gr.update(value=shares, visible=True), gr.update(value=twos, visible=True)]


def enough(few: list[str], count: int) -> Markup:
    """The smallest set found, by name, as HTML."""
    if not few:
        return markup(
            "<p role='status'><b>The answer needs none of the queries: the model gives it for any image.</b></p>"
        )
    return markup(
        "<p role='status'><b>{few} of {count} queries are enough for the same answer, word for word: {names}."
        "</b> Without any one of these the answer changes. The search is greedy, so a smaller set may exist.</p>",
        few=len(few),
        count=count,
        names=", ".join(few),
    )


def lens(context: ExplanationContext) -> Markup:
    """The tokens that the output layer reads off every query, with the warning, as HTML."""
    rows = (
        (name, ", ".join(token for token, _ in row))
        for name, row in zip(labels(context), logit_lens(context), strict=True)
    )
    return markup(
        "<p class='qfv-note'>{warning}</p>{table}",
        warning=LENS_WARNING,
        table=table(("query", "likeliest words, baseline-corrected"), rows),
    )


def forget(session: Session) -> list:
    """Another image, model or answer: what was weighed is of no more use."""
    kept = get_current(session)
    if kept is not None and kept.context.known("smallest"):
        return [gr.skip()] * 6
    return ["", gr.update(choices=[], value=None), *[gr.update(visible=False)] * 3, ""]


def wire(context: ViewContext) -> None:
    """Connect the button and the word."""
    app, session, parts = context.app, context.session, context.parts

    # A closure, because Gradio reads no type hints off a partial.
    def weigh(session: Session, progress=gr.Progress()):  # noqa: B008
        return discard_if_stale(session, lambda: weighed(app, session, progress))

    after_answer(
        parts["run"].click,
        weigh,
        session,
        _results(parts),
        show_progress_on=parts["message"],
        **LONG,
    )
    parts["word"].input(
        partial(for_word, app),
        [session, parts["word"]],
        parts["figures"][1:],
        show_progress="hidden",
        **LONG,
    )
    stop_button(parts["stop"], session)


def _results(parts: Parts) -> list[gr.Component]:
    return [parts["message"], parts["word"], *parts["figures"], parts["lens"]]


def clear(context: ViewContext) -> list[Step]:
    """Remove what belongs to another image or answer."""
    return [(forget, context.session, _results(context.parts))]


VIEW = InspectorView(
    id="together", title="Queries", order=30, build=build, wire=wire, on_image=clear, on_answer=clear
)
