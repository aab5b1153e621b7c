"""The Heads tab: how much a word of the last answer loses without each attention head, or without what each query
passes on to the others; and the self-attention of the queries."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import gradio as gr

from qformer_viz.analysis.head_ablation import (
    HeadAblation,
    MessageAblation,
    ablate_heads,
    ablate_query_messages,
    shares,
)
from qformer_viz.analysis.query_similarity import cosine, leaf_order
from qformer_viz.attribution.methods.knockout import effects, ends
from qformer_viz.ui.app_context import AppContext, Geometry
from qformer_viz.ui.components import Figure, alert, facts, note, word_row
from qformer_viz.ui.conversation import Session
from qformer_viz.ui.event_groups import LIGHT, LONG, Step, after_answer, discard_if_stale, stop_button
from qformer_viz.ui.explanation_cache import get_current, get_or_create, progress_callback
from qformer_viz.ui.inspector.similarity_view import INDEX, LEAF, MEAN
from qformer_viz.ui.inspector.view import InspectorView, Parts, ViewContext
from qformer_viz.view.word_payload import first_word


def build(app: AppContext) -> Parts:
    """A button, a word, four figures and their facts."""
    note(
        "Each attention head is replaced by its average over other images. The chart shows how much less likely the "
        "word becomes. The same is done with what each query passes on to the other queries. If two heads do the "
        "same, removing one changes nothing; the column “all” takes a whole layer. A click on a head of "
        "cross-attention shows its maps on the canvas."
    )
    row = word_row("heads", "Test every head")
    message = gr.HTML(elem_id="heads-told", apply_default_css=False)
    with gr.Row():
        cross, own = (
            Figure(show_label=False, label=label, elem_id=f"heads-{name}", visible=False, min_width=320)
            for name, label in (("cross", "Heads of cross-attention"), ("own", "Heads of self-attention"))
        )
    said = Figure(show_label=False, label="Exchange between queries", elem_id="heads-talk", visible=False)
    note(
        "Which queries each query attends to in self-attention: a row adds up to one, together with the text that an "
        "InstructBLIP's Q-Former reads. Attention does not show use. The test above does."
    )
    geometry = app.chat_model.geometry
    with gr.Row(elem_classes="qfv-controls"):
        layer, head = (
            gr.Dropdown(_choices(count), value=MEAN, label=label, elem_id=f"heads-{label}", min_width=100)
            for label, count in (("Layer", geometry.layers), ("Head", geometry.heads))
        )
        order = gr.Dropdown([INDEX, LEAF], value=INDEX, label="Order by", min_width=110)
    with gr.Row():
        attention = Figure(
            show_label=False, label="Self-attention", elem_id="heads-attention", scale=3, min_width=320
        )
        with gr.Column(scale=2, min_width=260):
            split = gr.HTML(elem_id="heads-shares", apply_default_css=False)
    return row | {
        "message": message,
        "figures": [cross, own, said],
        "controls": [layer, head, order],
        "attention": [attention, split],
    }


def _choices(count: int) -> list[str]:
    return [MEAN, *map(str, range(count))]


def refit(geometry: Geometry) -> list:
    """Updates of the controls for a model of this geometry."""
    return [
        *(gr.update(choices=_choices(n), value=MEAN) for n in (geometry.layers, geometry.heads)),
        gr.skip(),
    ]


def ablated(app: AppContext, session: Session, progress: gr.Progress) -> list:
    """(message, words, three figures) of the last answer; an error becomes a message."""
    try:
        kept = get_or_create(app, session)
        context = replace(kept.context, on_progress=progress_callback(session, progress, "Testing heads"))
        ablate_heads(context)
        ablate_query_messages(context)
        if context.frames == 1:
            effects(context)
        image_gain = ends(context)[0] - ends(context)[1]
    except app.user_errors as error:
        return [alert(str(error)), *[gr.skip()] * 4]
    first = first_word(context.scorer.words, image_gain)
    choices = [(f"{word} ({index + 1})", index) for index, word in enumerate(context.scorer.words)]
    message, *figures = for_word(app, session, first)
    return [message, gr.update(choices=choices, value=first), *figures]


def for_word(app: AppContext, session: Session, word: object) -> list:
    """(message, three figures) of one word; nothing where the answer has gone meanwhile."""
    from qformer_viz.view.figures.figure_style import query_labels
    from qformer_viz.view.figures.head_losses import heads_figure
    from qformer_viz.view.figures.message_losses import message_figure

    kept = get_current(session)
    if (
        kept is None
        or not kept.context.known("heads", "talk")
        or type(word) is not int
        or not 0 <= word < len(kept.context.scorer.words)
    ):
        return [gr.skip()] * 4
    context = kept.context
    found, said = ablate_heads(context), ablate_query_messages(context)
    cross, own = context.capture.cross_layers, range(len(context.capture.self_attention))
    parts = (found.cross[word], found.cross_layers[word]), (found.own[word], found.own_layers[word])
    top = max(float(values.abs().max()) for part in parts for values in part)
    pieces = _read(app, session)
    queries = query_labels(len(said.queries[word]))
    alone = effects(context)[word] if context.frames == 1 else None
    figures = (
        heads_figure(*parts[0], cross, "Cross-attention", top),
        heads_figure(*parts[1], own, "Self-attention", top),
        message_figure(said.queries[word], alone, queries, said.text[word], pieces),
    )
    message = facts(summary(found, said, word, cross, pieces), lead=f"“{context.scorer.words[word]}”")
    return [message, *(gr.update(value=figure, visible=True) for figure in figures)]


def summary(
    found: HeadAblation, said: MessageAblation, word: int, cross_layers: Sequence[int], pieces: Sequence[str]
) -> list[tuple[str, str, str]]:
    """The rows of facts about one word."""
    from qformer_viz.view.figures.figure_style import LEAST

    cross, own = found.cross[word], found.own[word]
    count = sum(int((values.abs() >= LEAST).sum()) for values in (cross, own))
    single = {
        f"head {head} of {kind} in layer {layer}": value
        for kind, layers, values in (
            ("cross-attention", cross_layers, cross),
            ("self-attention", range(len(own)), own),
        )
        for layer, row in zip(layers, values.tolist(), strict=True)
        for head, value in enumerate(row)
    }
    whole = {
        f"all heads of {kind} in layer {layer}": value
        for kind, layers, values in (
            ("cross-attention", cross_layers, found.cross_layers[word]),
            ("self-attention", range(len(own)), found.own_layers[word]),
        )
        for layer, value in zip(layers, values.tolist(), strict=True)
    }
    queries = {f"query {q:02d}, hidden from the others": v for q, v in enumerate(said.queries[word].tolist())}
    rows = [
        (
            "Heads that count",
            f"{count} of {len(single)}",
            f"change the word's log-probability by {LEAST} nats or more, each alone",
        ),
        _greatest("Strongest head", single),
        _greatest("Strongest layer", whole),
        (
            "Exchange between queries",
            f"{float(said.apart[word]):.2f} nats",
            "lost when every query gets only the averages of the other queries over other images. It shows that the "
            "word needs the exchange, not that the exchange carries the word",
        ),
        _greatest("Query the others rely on most", queries),
    ]
    if len(pieces):
        text = dict(zip(pieces, said.text[word].tolist(), strict=True))
        rows.append(
            _greatest("Piece of the text", {f"“{k}”, hidden from the Q-Former": v for k, v in text.items()})
        )
    return rows


def _greatest(name: str, lost: Mapping[str, float]) -> tuple[str, str, str]:
    """A row of facts about what costs the word most."""
    from qformer_viz.view.figures.figure_style import LEAST

    most = max(lost, key=lambda each: lost[each])
    if lost[most] < LEAST:
        return name, "none", f"each alone costs the word less than {LEAST} nats"
    return name, f"{lost[most]:.2f} nats", most


def attended(app: AppContext, session: Session, layer: str, head: str, order: str) -> list:
    """(figure, facts) of the self-attention of one layer and head, or their means."""
    from qformer_viz.view.figures.query_self_attention import self_attention_figure

    if session.encoded is None:
        return [None, ""]
    capture = session.capture
    own = _selected(capture.self_attention[:, 0], layer, head)
    read_text = capture.text_attention
    text = None if read_text is None else _selected(read_text[:, 0], layer, head)
    sequence = (
        leaf_order(cosine(own)) if order == LEAF else range(len(own))
    )  # queries are near one another where they attend alike
    pieces = _read(app, session)
    itself, others, read = shares(own, text)
    rows = [
        ("On themselves", f"{itself:.1%}", "of the queries' self-attention, mean over queries"),
        (
            "On other queries",
            f"{others:.1%}",
            f"even over all queries would be {(len(own) - 1) / len(own):.1%}",
        ),
    ]
    if text is not None:
        rows.append(("On the text", f"{read:.1%}", "the question, or the prompt of a caption"))
    most = own.mean(0)
    rows.append(
        (
            "Most attended query",
            f"{int(most.argmax()):02d}",
            f"{float(most.max()):.1%} of the attention, mean over queries",
        )
    )
    return [self_attention_figure(own, text, list(sequence), pieces), facts(rows)]


def _read(app: AppContext, session: Session) -> list[str]:
    """The pieces of text that the Q-Former reads, each with a name of its own."""
    return unlike(app.of(session).pipe.qformer_text_tokens(session.encoded.question))


def unlike(pieces: Sequence[str]) -> list[str]:
    """Names of pieces of text, those that come again with their place in the text, from 1."""
    again = Counter(pieces)
    return [f"{piece} ({at})" if again[piece] > 1 else piece for at, piece in enumerate(pieces, 1)]


def _selected(maps: Any, layer: str, head: str) -> Any:
    """[q, k] of maps [L, h, q, k]."""
    maps = maps.mean(0) if layer == MEAN else maps[int(layer)]
    return maps.mean(0) if head == MEAN else maps[int(head)]


def forget(session: Session) -> list:
    """Another image, model or answer: what was found is of no more use."""
    kept = get_current(session)
    if kept is not None and kept.context.known("talk"):
        return [gr.skip()] * 5
    return ["", gr.update(choices=[], value=None), *[gr.update(visible=False)] * 3]


def wire(context: ViewContext) -> None:
    """Connect the button, the word and the controls of the self-attention."""
    app, session, parts = context.app, context.session, context.parts

    # A closure, because Gradio reads no type hints off a partial.
    def ablate(session: Session, progress=gr.Progress()):  # noqa: B008
        return discard_if_stale(session, lambda: ablated(app, session, progress))

    after_answer(
        parts["run"].click,
        ablate,
        session,
        _results(parts),
        show_progress_on=parts["message"],
        **LONG,
    )
    parts["word"].input(
        partial(for_word, app), [session, parts["word"]], [parts["message"], *parts["figures"]], **LIGHT
    )
    stop_button(parts["stop"], session)
    (drawing,) = on_maps(context)
    gr.on([control.input for control in parts["controls"]], *drawing, trigger_mode="always_last", **LIGHT)


def _results(parts: Parts) -> list[gr.Component]:
    return [parts["message"], parts["word"], *parts["figures"]]


def on_maps(context: ViewContext) -> list[Step]:
    """Draw the self-attention of the chosen layer and head."""
    parts = context.parts

    def attend(session: Session, layer: str, head: str, order: str) -> list:
        return attended(context.app, session, layer, head, order)

    return [(attend, [context.session, *parts["controls"]], parts["attention"])]


def clear(context: ViewContext) -> list[Step]:
    """Remove what belongs to another image or answer."""
    return [(forget, context.session, _results(context.parts))]


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
    id="heads",
    title="Heads",
    order=40,
    build=build,
    wire=wire,
    on_image=clear,
    on_maps=on_maps,
    on_answer=clear,
    on_model=on_model,
)
