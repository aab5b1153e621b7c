"""The What if tab: remove queries, patches or an object of a known scene, ask again, and compare both answers."""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import gradio as gr
import torch

from qformer_viz.attribution.methods.knockout import replaced
from qformer_viz.attribution.reference_activations import reference_activations
from qformer_viz.errors import UserError
from qformer_viz.types import EncodedImage
from qformer_viz.ui.app_context import AppContext
from qformer_viz.ui.components import alert, joined, live_view, markup, note, side_by_side, table
from qformer_viz.ui.conversation import Session
from qformer_viz.ui.event_groups import LONG, Step, after_answer, discard_if_stale
from qformer_viz.ui.explanation_cache import get_or_create
from qformer_viz.ui.inspector.view import InspectorView, Parts, ViewContext
from qformer_viz.ui.stage_updates import as_json, pictures
from qformer_viz.view.stage_payload import embed

AWAY, KEEP = "Remove them", "Keep only them"
REMOVE, MOVE = "Remove it", "Move it"
HIDDEN_FROM = {
    "qformer": (
        "the Q-Former",
        "No query can attend to them. The ViT still mixes them into their neighbours.",
    ),
    "vit": ("the ViT", "The ViT never gets them, so nothing after it does."),
}
PLACES = {
    "top left": (0.2, 0.2),
    "top": (0.5, 0.2),
    "top right": (0.8, 0.2),
    "left": (0.2, 0.5),
    "middle": (0.5, 0.5),
    "right": (0.8, 0.5),
    "bottom left": (0.2, 0.8),
    "bottom": (0.5, 0.8),
    "bottom right": (0.8, 0.8),
}
UNKNOWN_SCENE = (
    "What is in this image is not known, so it cannot be drawn again. Pick an example or make a scene."
)


def build(app: AppContext) -> Parts:
    """Three ways to change what the language model gets, and one place for what follows."""
    note("Asks the last question again with something removed. Nothing here changes the conversation.")
    parts: dict[str, Any] = {}
    with gr.Tabs():
        with gr.Tab("Patches", id="whatif-patches"):
            parts["painter"] = live_view("patchBrush", "whatif-painter")
        with gr.Tab("Queries", id="whatif-some-queries"), gr.Row(elem_classes="qfv-controls"):
            parts["numbers"] = gr.Textbox(
                label="Queries, by number",
                placeholder="12, 17",
                elem_id="whatif-queries",
                min_width=180,
                scale=2,
            )
            parts["how"] = gr.Radio(
                [AWAY, KEEP], value=AWAY, label="What to do with them", min_width=220, scale=2
            )
            parts["again"] = gr.Button(
                "Answer again", size="md", elem_id="whatif-again", min_width=140, scale=0
            )
        if app.scene_maker:
            with gr.Tab("An object of the scene", id="whatif-scene"), gr.Row(elem_classes="qfv-controls"):
                parts["object"] = gr.Dropdown(
                    [], label="Object", elem_id="whatif-object", min_width=150, scale=2
                )
                parts["act"] = gr.Radio(
                    [REMOVE, MOVE], value=REMOVE, label="What to do with it", min_width=180, scale=2
                )
                parts["place"] = gr.Dropdown(
                    list(PLACES), value="middle", label="Where to", min_width=120, scale=1
                )
                parts["draw"] = gr.Button(
                    "Draw and answer again", size="md", elem_id="whatif-draw", min_width=190, scale=0
                )
    parts["outcome"] = gr.HTML(elem_id="whatif-outcome", apply_default_css=False)
    return parts


def shown(app: AppContext, session: Session) -> list:
    """For a new image: the painter's pictures, how queries are named, and a scene's objects where they are known."""
    picture, drawn, film = "", None, False
    if session.encoded is not None:
        picture = as_json(
            pictures(session.encoded) | {"grid": list(session.capture.grid), "from": HIDDEN_FROM}
        )
        drawn, film = _drawn(app, session), len(session.encoded.frames) > 1
    named = gr.update(placeholder=f"12, 17{' or, of frame 2 alone, 2·17' if film else ''}")
    names = list(drawn.objects) if drawn else []
    objects = [gr.update(choices=names, value=names[0] if names else None)] if app.scene_maker else []
    return [picture, named, *objects]


def without_queries(app: AppContext, session: Session, numbers: str, how: str) -> str:
    """Some queries are replaced by their average over other images."""
    get_or_create(app, session)
    encoded = session.encoded
    mean = reference_activations(app.of(session).pipe, encoded.question).queries
    frames = len(encoded.frames)
    away = torch.zeros(1, frames * mean.shape[1], dtype=torch.bool)
    away[0, parsed(numbers, mean.shape[1], frames)] = True
    away = ~away if how == KEEP else away
    changed = replace(encoded, queries=replaced(encoded.queries, mean.repeat(1, frames, 1), away))
    lead = f"With {int(away.sum())} of {away.numel()} queries{_of(frames)} replaced by their average over other images:"
    return consequence(app, session, changed, lead)


def without_patches(app: AppContext, session: Session, data: object) -> str:
    """Painted patches, numbered row by row and frame after frame, are hidden from the Q-Former or from the ViT."""
    get_or_create(app, session)
    rows, columns = session.capture.grid
    frames = len(session.encoded.frames)
    keep = torch.ones(frames, rows * columns, dtype=torch.bool)
    hidden, where = (data.get("patches"), data.get("where")) if isinstance(data, dict) else (None, None)
    whole = isinstance(hidden, list) and all(type(p) is int and 0 <= p < keep.numel() for p in hidden)
    if not whole or not hidden or not isinstance(where, str) or where not in HIDDEN_FROM:
        raise UserError("Paint at least one patch on the image, then ask again.")
    keep.view(-1)[hidden] = False
    changed = app.of(session).pipe.hidden(session.encoded, keep, where)
    many = f"{int((~keep).sum())} of {keep.numel()} patches{_of(frames)}"
    lead = f"With {many} hidden from {HIDDEN_FROM[where][0]}:"
    return consequence(app, session, changed, lead)


def _drawn(app: AppContext, session: Session) -> Any:
    """What is known of the scene in the image; of a film nothing is."""
    if app.scene_maker is None or len(session.encoded.frames) != 1:
        return None
    return app.scene_maker.recall(session.encoded.image)


def _of(frames: int) -> str:
    return f" of {frames} frames" if frames > 1 else ""


def redrawn(app: AppContext, session: Session, name: str | None, act: str, place: str) -> str:
    """An object of a known scene is taken out or moved, and everything runs again on the new picture."""
    get_or_create(app, session)
    drawn = _drawn(app, session)
    if drawn is None:
        raise UserError(UNKNOWN_SCENE)
    if name not in drawn.objects or place not in PLACES:
        raise UserError("Choose an object of this scene, and where to move it.")
    index = drawn.objects.index(name)
    image = drawn.without(index) if act == REMOVE else drawn.moved(index, *PLACES[place])
    changed = app.of(session).pipe.encode(image, session.encoded.question)
    lead = f"Without the {name}:" if act == REMOVE else f"With the {name} moved to the {place}:"
    return consequence(app, session, changed, lead, (session.encoded.image, image))


def consequence(
    app: AppContext, session: Session, changed: EncodedImage, lead: str, scenes: tuple[Any, Any] | None = None
) -> str:
    """As HTML: the new answer beside the old one, and the change in log-probability of every word of the old one."""
    pipe, old = app.of(session).pipe, session.answer
    *before, (question, _) = session.turns()
    new = pipe.ask(changed, question, before) if question else pipe.caption(changed)
    scorer = get_or_create(app, session).context.scorer
    was, now = scorer.score(torch.cat([scorer.queries, changed.queries.to(scorer.queries)]))
    rows = (
        (word, f"{a.exp():.1%}", f"{b.exp():.1%}", _signed(b - a))
        for word, a, b in zip(scorer.words, was, now, strict=True)
    )
    sides = [
        ("before", _picture(scenes, 0), old.text),
        ("now, greedily", _picture(scenes, 1), new.text or "(no word)"),
    ]
    return joined(
        (side_by_side(lead, sides), table(("word of the old answer", "before", "now", "nats"), rows))
    )


def _signed(nats: torch.Tensor) -> str:
    """Two digits after the point, and no minus before a nought."""
    return f"{round(nats.item(), 2) + 0.0:+.2f}"


def _picture(scenes: tuple[Any, Any] | None, index: int) -> str:
    if scenes is None:
        return ""
    alt = ("the scene as it was", "the scene drawn again")[index]
    return markup("<img src='{src}' alt='{alt}'>", src=embed(scenes[index])["src"], alt=alt)


def parsed(numbers: str, count: int, frames: int = 1) -> list[int]:
    """The queries named in a text such as "3, 12", as indices into all frames' queries: of every frame, or as "2·12" or
    "2.12" of the second alone. UserError for none, or for one that does not exist."""
    found = [part for part in re.split(r"[\s,;]+", (numbers or "").strip()) if part]
    chosen: set[int] = set()
    for part in found or [""]:
        named = re.fullmatch(r"(?:([1-9][0-9]?)[·.])?([0-9]{1,5})", part)
        frame = int(named[1]) if named and named[1] else None
        query = int(named[2]) if named else count
        if query >= count or (frame or 1) > frames:
            of_one = f"; of frame 2 alone: 2·{count - 1}" if frames > 1 else ""
            raise UserError(
                f"Name queries by their numbers, 0 to {count - 1}, for example: 0, {count - 1}{of_one}"
            )
        chosen |= {count * at + query for at in (range(frames) if frame is None else (frame - 1,))}
    return sorted(chosen)


def run_change(change: Callable[..., str], app: AppContext, session: Session, *chosen: object) -> str:
    """What a change brings, or the trouble with its fix."""

    def work() -> str:
        try:
            return change(app, session, *chosen)
        except app.user_errors as error:
            return alert(str(error))

    return discard_if_stale(session, work)


def wire(context: ViewContext) -> None:
    """Connect the three ways to change what the language model gets."""
    app, session, parts = context.app, context.session, context.parts

    # A closure, because Gradio reads no type hints off a partial.
    def paint(session: Session, event: gr.EventData) -> str:
        return run_change(without_patches, app, session, event._data)

    outcome, numbers = parts["outcome"], parts["numbers"]
    queries = [session, numbers, parts["how"]]
    after_answer(
        partial(gr.on, [parts["again"].click, numbers.submit]),
        partial(run_change, without_queries, app),
        queries,
        outcome,
        **LONG,
    )
    parts["painter"].submit(paint, session, outcome, **LONG)
    if app.scene_maker:
        scene = [session, parts["object"], parts["act"], parts["place"]]
        after_answer(parts["draw"].click, partial(run_change, redrawn, app), scene, outcome, **LONG)


def on_answer(context: ViewContext) -> list[Step]:
    """Remove what belongs to another answer."""
    return [(lambda: "", None, context.parts["outcome"])]


def on_image(context: ViewContext) -> list[Step]:
    """Show the image to paint on, and offer the objects of its scene."""
    parts = context.parts
    outputs = [parts[name] for name in ("painter", "numbers", "object") if name in parts]
    return [(partial(shown, context.app), context.session, outputs), *on_answer(context)]


VIEW = InspectorView(
    id="whatif", title="What if", order=20, build=build, wire=wire, on_image=on_image, on_answer=on_answer
)
