"""The Match tab: how well texts match the image, and where the queries attend while they read a text."""

from functools import partial
from typing import Any

import gradio as gr
from markupsafe import Markup

from qformer_viz.types import Match
from qformer_viz.ui.app_context import AppContext
from qformer_viz.ui.components import Figure, alert, markup, note, table
from qformer_viz.ui.conversation import Session, too_long
from qformer_viz.ui.event_groups import LIGHT, LONG, Step, discard_if_stale
from qformer_viz.ui.inspector.view import InspectorView, Parts, ViewContext
from qformer_viz.ui.stage_updates import VISITING, as_json, own
from qformer_viz.view.stage_payload import canvas_payload

NO_TEXT = "There is no text yet. Type one a line, for example: a cat above a dog"


def build(app: AppContext) -> Parts:
    """Texts, their ranking, and the votes of single queries for one of them."""
    assert app.matcher is not None, "`available` says so"
    about = app.matcher.describe()
    note(
        markup(
            "Judged by <strong>{title}</strong>, a separate model that only compares images with texts. The model "
            "that chats has no part in it. The probability comes from its matching head, which reads image and text "
            "together. The similarity comes from its contrastive space, where the best query counts. "
            "{caution}",
            title=about["title"],
            caution=about.get("caution", ""),
        )
    )
    with gr.Row(elem_classes="qfv-controls"):
        texts = gr.Textbox(
            lines=3,
            max_lines=8,
            label="Texts to compare, one a line",
            placeholder="a cat above a dog",
            elem_id="match-texts",
            scale=4,
            min_width=260,
        )
        compare = gr.Button("Compare", variant="primary", size="md", elem_id="match-compare", min_width=120)
    table = gr.HTML(elem_id="match-table", apply_default_css=False)
    with gr.Column(visible=False, elem_id="match-detail") as detail:
        with gr.Row(elem_classes="qfv-controls"):
            chosen = gr.Dropdown([], label="Queries and maps for", elem_id="match-chosen", min_width=220)
            show = gr.Button("Show these maps on the canvas", elem_id="match-show", size="md", min_width=200)
            back = gr.Button("Back to the model that chats", elem_id="match-back", size="md", min_width=200)
        plot = Figure(show_label=False, label="Votes of queries", elem_id="match-plot")
    return {
        "matches": gr.State((), time_to_live=app.limits.cache_seconds),
        "texts": texts,
        "compare": compare,
        "table": table,
        "detail": detail,
        "chosen": chosen,
        "show": show,
        "back": back,
        "plot": plot,
    }


def rank(app: AppContext, session: Session, texts: str) -> tuple:
    """(matches, table, detail, choice, plot) for the lines of `texts`; an error takes the place of the table."""
    lines = list(dict.fromkeys(line.strip() for line in (texts or "").splitlines() if line.strip()))
    if session.encoded is None:
        return trouble(session.no_image)
    if not lines:
        return trouble(NO_TEXT)
    if long := too_long("A text", max(lines, key=len), app.limits):
        return trouble(long)
    assert app.matcher is not None, "`available` says so"
    try:
        matches = tuple(app.matcher.rank(session.picture, lines))
    except app.user_errors as error:
        return trouble(str(error))
    choices = [(match.text, index) for index, match in enumerate(matches)]
    return (
        matches,
        ranking(matches),
        gr.update(visible=True),
        gr.update(choices=choices, value=0),
        draw(matches, 0),
    )


def trouble(message: str) -> tuple:
    return (), alert(message), gr.update(visible=False), gr.update(choices=[], value=None), None


def ranking(matches: tuple) -> Markup:
    """The texts as a table, the most probable first."""
    meter = "<meter min='0' max='1' value='{share:.4f}'></meter> {share:.1%}"
    return table(
        ("text", "match probability", "similarity", "best query"),
        (
            (
                match.text,
                markup(meter, share=match.probability),
                f"{match.similarity:.3f}",
                f"{best(match):02d}",
            )
            for match in matches
        ),
    )


def best(match: Match) -> int:
    """The query that is most similar to the text."""
    return max(range(len(match.similarities)), key=match.similarities.__getitem__)


def draw(matches: tuple, index: int | None):
    """Similarity and vote of every query for one text."""
    from qformer_viz.view.figures.match_votes import votes_figure

    if index is None or not 0 <= index < len(matches):
        return None
    match = matches[index]
    return votes_figure(match.similarities, match.probabilities)


def maps(
    app: AppContext, session: Session, matches: tuple[Match, ...], index: int | None
) -> str | dict[str, str]:
    """The canvas payload of the matching pass: maps that depend on the text. They end with the next answer."""
    if session.encoded is None or index is None or not 0 <= index < len(matches):
        return gr.skip()
    assert app.matcher is not None, "`available` says so"
    match, about = matches[index], app.matcher.describe()
    session.kept[VISITING] = True
    meta = {
        "model": about["title"],
        "precision": about["precision"],
        "scope": "image and text",
        "visiting": f"Maps of {about['title']}, for “{match.text}”: not those of the model that chats.",
        "caption": match.text,
        "notes": [
            f"These maps belong to the image and to the text “{match.text}”. They are those of the retrieval model, "
            "not of the model that chats; a text never looks at the image itself, the queries do while they read it."
        ],
        "facts": {
            "image": match.sha256[:16],
            "probability": f"{match.probability:.4f}",
            "similarity": f"{match.similarity:.4f}",
        },
    }
    placements = () if match.placement is None else (match.placement,)
    assert match.capture is not None, "the page's matcher records"
    return as_json(canvas_payload(match.capture, match.image, meta=meta, placements=placements))


def forget() -> tuple:
    """Another image: what was compared is of no more use."""
    return (), "", gr.update(visible=False), gr.update(choices=[], value=None), None


def wire(context: ViewContext) -> None:
    """Connect the comparison, and the maps of a text on the canvas."""
    app, session, parts = context.app, context.session, context.parts

    def compare(session: Session, texts: str) -> Any:
        return discard_if_stale(session, lambda: rank(app, session, texts))

    chosen = [parts["matches"], parts["chosen"]]
    gr.on([parts["compare"].click], compare, [session, parts["texts"]], _results(parts), **LONG)
    parts["chosen"].input(draw, chosen, parts["plot"], **LIGHT)
    parts["show"].click(partial(maps, app), [session, *chosen], context.canvas, **LIGHT)
    parts["back"].click(partial(own, app), session, context.canvas, **LIGHT)


def _results(parts: Parts) -> list[gr.Component]:
    return [parts[name] for name in ("matches", "table", "detail", "chosen", "plot")]


def on_image(context: ViewContext) -> list[Step]:
    """Remove what belongs to another image."""
    return [(forget, None, _results(context.parts))]


VIEW = InspectorView(
    id="match",
    title="Match",
    order=100,
    available=lambda app: app.matcher is not None,
    build=build,
    wire=wire,
    on_image=on_image,
)
