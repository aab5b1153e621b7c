"""The left column: image, examples, scene maker, conversation and its settings."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from html import escape
from typing import Any

import gradio as gr
from PIL import Image

from qformer_viz.atomic_files import atomic_write
from qformer_viz.types import Decoding
from qformer_viz.ui import conversation
from qformer_viz.ui.app_context import AppContext, Limits
from qformer_viz.ui.components import UploadedImage, uploaded
from qformer_viz.ui.conversation import Session, messages
from qformer_viz.ui.event_groups import CHAT, LIGHT
from qformer_viz.ui.inspector.export_view import fresh_folder
from qformer_viz.ui.session_recovery import Shown, recovered

# Send and Stop change places in the browser.
BUSY, IDLE = "() => window.qfvBusy(true)", "() => window.qfvBusy(false)"
GREEDY, SAMPLED, BEAMS = "Greedy", "Sampled", "Beams"


def picture(app: AppContext) -> dict[str, gr.Component]:
    """Upload box, example strip and scene maker."""
    image = UploadedImage(
        label="Image",
        type="filepath",
        format="png",  # what the scene maker draws must arrive as drawn
        sources=["upload", "clipboard", "webcam"],
        height=236,
        elem_id="image",
        buttons=[],
        placeholder="Drop an image here, or tap to choose one",
    )
    parts: dict[str, Any] = {"image": image}
    if app.compares_questions:
        parts["film"] = gr.UploadButton(
            "Upload a video", file_types=["video", "image"], size="sm", elem_id="film", variant="secondary"
        )
    if app.examples:
        parts["examples"] = gr.Gallery(
            value=[(str(path), title) for path, title in app.examples],
            show_label=False,
            label="Examples",
            columns=len(app.examples),
            height="auto",
            allow_preview=False,
            object_fit="cover",
            buttons=[],
            interactive=False,
            elem_id="examples",
        )
    if app.scene_maker:
        parts |= _scene_maker(app.scene_maker, app.compares_questions)
    return parts


def _scene_maker(maker, films: bool) -> dict[str, gr.Component]:
    with gr.Accordion("Make a scene", open=False, elem_id="scene-maker"):
        nouns = gr.Dropdown(
            list(maker.nouns),
            value=list(maker.nouns[:2]),
            multiselect=True,
            max_choices=maker.max_objects,
            label=f"Objects (one to {maker.max_objects})",
            elem_id="scene-nouns",
        )
        with gr.Row():
            layout = gr.Dropdown(list(maker.layouts), value=maker.layouts[0], label="Layout", min_width=100)
            style = gr.Dropdown(["mixed", *maker.styles], value="mixed", label="Artwork", min_width=100)
        parts = {"nouns": nouns, "layout": layout, "style": style}
        with gr.Row():
            parts["make"] = gr.Button("Draw it", size="sm", elem_id="scene-draw", min_width=80)
            if films and maker.video:
                parts["make_film"] = gr.Button("Draw a video", size="sm", elem_id="scene-film", min_width=80)
    return parts


def talk(app: AppContext) -> dict[str, gr.Component]:
    """The conversation, the question box, the buttons and the folded settings."""
    log = gr.Chatbot(
        value=[],
        show_label=False,
        height=300,
        min_height=140,
        render_markdown=False,
        sanitize_html=True,
        allow_tags=False,
        group_consecutive_messages=False,
        allow_file_downloads=False,
        buttons=[],
        layout="bubble",
        placeholder="The caption appears here. Then ask about the image.",
        elem_id="chat",
    )
    with gr.Row(elem_id="ask-row"):
        question = gr.Textbox(
            show_label=False,
            label="Question",
            placeholder="Ask about the image",
            max_lines=3,
            scale=8,
            min_width=120,
            container=False,
            elem_id="question",
        )
        send = gr.Button("Send", variant="primary", min_width=72, scale=1, elem_id="send")
        stop = gr.Button("Stop", variant="stop", min_width=72, scale=1, elem_id="stop")
    with gr.Row(elem_id="chat-buttons"):
        caption = gr.Button("Caption", size="sm", min_width=60, elem_id="caption")
        retry = gr.Button("Retry", size="sm", min_width=60, elem_id="retry")
        clear = gr.Button("Clear", size="sm", min_width=60, elem_id="clear")
    names = ("log", "question", "send", "stop", "caption", "retry", "clear")
    parts = dict(zip(names, (log, question, send, stop, caption, retry, clear), strict=True))
    parts["picture"] = gr.Textbox(visible=False)
    return parts | {"settings": _settings(app.limits)}


def _settings(limits: Limits) -> list[gr.Component]:
    with gr.Accordion("Decoding", open=False, elem_id="decoding"):
        mode = gr.Radio(
            [GREEDY, SAMPLED, BEAMS],
            value=GREEDY,
            show_label=False,
            label="Decoding",
            info="Greedy repeats itself exactly; sampled answers differ at every retry; beams search wider.",
        )
        with gr.Row():
            tokens = gr.Slider(1, limits.max_new_tokens, 40, step=1, label="Most new tokens", min_width=130)
            penalty = gr.Slider(1.0, 2.0, 1.0, step=0.05, label="Repetition penalty", min_width=130)
        with gr.Row():
            temperature = gr.Slider(0.1, 2.0, 0.8, step=0.05, label="Temperature (sampled)", min_width=130)
            top_p = gr.Slider(0.1, 1.0, 0.9, step=0.05, label="Top-p (sampled)", min_width=130)
        beams = gr.Slider(2, limits.max_beams, min(3, limits.max_beams), step=1, label="Beams (beams)")
    return [mode, tokens, temperature, top_p, beams, penalty]


def decoding(
    app: AppContext,
    mode: str,
    tokens: float,
    temperature: float,
    top_p: float,
    beams: float,
    penalty: float,
) -> Decoding:
    """The settings as the pipeline's decoding options, inside this server's caps whatever was sent."""
    limits = app.limits

    def clamp(value: float, low: float, high: float) -> float:
        return max(low, min(high, value))

    return app.decoding(
        max_new_tokens=int(clamp(tokens, 1, limits.max_new_tokens)),
        do_sample=mode == SAMPLED,
        temperature=float(clamp(temperature, 0.1, 2.0)) if mode == SAMPLED else 1.0,
        top_p=float(clamp(top_p, 0.1, 1.0)) if mode == SAMPLED else 1.0,
        num_beams=int(clamp(beams, 1, limits.max_beams)) if mode == BEAMS else 1,
        repetition_penalty=float(clamp(penalty, 1.0, 2.0)),
    )


def halt(session: Session) -> None:
    """Ask a running answer and all other work for this visitor to end; what comes next waits for the answer."""
    session.stop.set()
    session.pause.set()


def look(app: AppContext, session: Session, source: str | None) -> tuple:
    """A new image: (session, chat, image box). A bad one leaves image and conversation as they were; with the
    last one goes all that was said and shown of it."""
    if source is None:
        session = conversation.without_image(session)
        return session, messages(session), gr.skip()
    try:
        session = conversation.look(app, session, source, source)
    except app.user_errors as error:
        gr.Warning(escape(str(error)), duration=12, title="This image cannot be read")
        session = session.add("notice", str(error))
        return session, messages(session), session.preview
    return session, messages(session), gr.skip()


def look_at_film(app: AppContext, session: Session, path: str) -> tuple:
    """As `look`, for a file that the image box would not take; the box shows its first frame."""
    source = str(uploaded(path))
    session, lines, preview = look(app, session, source)
    if session.preview != source:
        return session, lines, preview
    session = replace(session, preview=session.encoded.image)
    return session, lines, session.preview


def answer(app: AppContext, session: Session, *settings) -> Iterator[tuple]:
    """Stream (session, chat) until the last question, or the caption, is answered."""
    # Gradio empties the outputs of a generator that yields nothing.
    yield session, messages(session)
    for grown in conversation.answer(app, session, decoding(app, *settings)):
        yield grown, messages(grown)


def pose(
    app: AppContext,
    session: Session,
    question: str,
    picture: str,
    bubbles: Sequence[dict],
    model: str | None = None,
) -> tuple:
    """(session, chat, question box): the box is emptied once the question has been taken. picture, bubbles, model: what
    the page shows, as in `Shown`."""
    session = recovered(app, session, Shown(picture, bubbles, model))
    if session.growing():
        gr.Info("The answer is still being written. Wait for its end or press Stop.")
        return gr.skip(), gr.skip(), gr.skip()
    session = conversation.pose(session, question, app.limits)
    return session, messages(session), "" if session.lines[-1].kind == "question" else gr.skip()


def pose_caption(
    app: AppContext, session: Session, picture: str, bubbles: Sequence[dict], model: str | None = None
) -> tuple:
    session = conversation.pose_caption(recovered(app, session, Shown(picture, bubbles, model)))
    return session, messages(session)


def retry(
    app: AppContext, session: Session, picture: str, bubbles: Sequence[dict], model: str | None = None
) -> tuple:
    """Take the last answer away, so that its question is answered again."""
    session = recovered(app, session, Shown(picture, bubbles, model))
    if session.last_question() is None:
        gr.Info("There is no question to ask again yet.")
    session = conversation.retried(session)
    return session, messages(session)


def clear(session: Session) -> tuple:
    session = conversation.cleared(session)
    return session, messages(session)


def scene(app: AppContext, session: Session, nouns: list[str], layout: str, style: str) -> Image.Image:
    """The scene maker's picture, for the image box."""
    assert app.scene_maker is not None, "without one there is no such button"
    return _drawn(app, app.scene_maker.render, session, nouns, layout, style)


def moving_scene(app: AppContext, session: Session, nouns: list[str], layout: str, style: str) -> str:
    """The scene maker's film, for the image box: an animated PNG, which loses nothing."""
    assert app.scene_maker is not None and app.scene_maker.video is not None, (
        "without one there is no such button"
    )
    first, *others = _drawn(app, app.scene_maker.video, session, nouns, layout, style)
    path = fresh_folder() / "film.png"
    with atomic_write(path) as temporary:
        first.save(temporary, save_all=True, append_images=others, duration=700, loop=0)
    return str(path)


def _drawn(
    app: AppContext, draw: Callable, session: Session, nouns: list[str], layout: str, style: str
) -> Any:
    halt(session)
    try:
        return draw(nouns, layout, None if style == "mixed" else style)
    except app.user_errors as error:
        raise gr.Error(
            escape(str(error)), title="This scene cannot be drawn", print_exception=False
        ) from None


def _picture_at(index: int) -> str:
    """JavaScript that puts the path of the picture in the image box in this place of an event's inputs."""
    return f"async (...inputs) => inputs.with({index}, await window.qfvPicturePath())"


def example_picker(app: AppContext) -> Callable:
    """The handler of the example strip; a closure, because Gradio reads no type hints off a partial."""

    def example(session: Session, event: gr.SelectData) -> str:
        halt(session)
        return str(app.examples[event.index][0])

    return example


def wire(
    app: AppContext,
    session: gr.State,
    parts: dict,
    choice: gr.Dropdown | None,
    after_look: list,
    after_answer: list,
    switched: list,
) -> None:
    """Connect the column. `choice`: the picker of models; `after_look` and `after_answer` are (fn, inputs, outputs) for
    the other tabs; `switched`: events after which another model has looked at the image.

    Everything that changes the session shares one queue.
    """
    log, image, question = parts["log"], parts["image"], parts["question"]
    queue_for, light = CHAT | {"show_progress": "hidden"}, LIGHT
    chat = [session, log]
    new_image = [image.input(halt, session, None, **light)]
    if "examples" in parts:
        new_image.append(parts["examples"].select(example_picker(app), session, image, **light))
    if "make" in parts:
        choices = [parts[name] for name in ("nouns", "layout", "style")]
        for name, draw in (("make", scene), ("make_film", moving_scene)):
            if name in parts:
                begun = parts[name].click(partial(draw, app), [session, *choices], image, **light)
                new_image.append(begun)
    looked = [
        begun.success(partial(look, app), [session, image], [session, log, image], **queue_for)
        for begun in new_image
    ] + switched
    if "film" in parts:
        begun = parts["film"].upload(halt, session, None, **light)
        looked.append(
            begun.success(
                partial(look_at_film, app), [session, parts["film"]], [session, log, image], **queue_for
            )
        )
    for seen in looked:
        for fn, inputs, outputs in after_look:
            seen.success(fn, inputs, outputs, **light)
    asking = [parts["send"].click, question.submit]
    # What the page shows goes along, so that a session which the server has let go of can be made anew.
    shown = [parts["picture"], log, *([choice] if choice is not None else [])]
    posed = gr.on(
        asking,
        partial(pose, app),
        [session, question, *shown],
        [session, log, question],
        js=_picture_at(2),
        **light,
    )
    captioned, retried = (
        parts[name]
        .click(halt, session, None, **light)
        .then(partial(fn, app), [session, *shown], chat, js=_picture_at(1), **queue_for)
        for name, fn in (("caption", pose_caption), ("retry", retry))
    )
    for begun in (*looked, posed, captioned, retried):
        begun.then(None, None, None, js=BUSY)
        done = begun.success(partial(answer, app), [session, *parts["settings"]], chat, **queue_for)
        done.then(None, None, None, js=IDLE)
        for fn, inputs, outputs in after_answer:
            done.success(fn, inputs, outputs, **light)
    parts["stop"].click(halt, session, None, **light)
    cleared = gr.on([parts["clear"].click, log.clear], halt, session, None, **light)
    cleared = cleared.then(clear, session, chat, **queue_for)
    for fn, inputs, outputs in after_answer:
        cleared.success(fn, inputs, outputs, **light)
