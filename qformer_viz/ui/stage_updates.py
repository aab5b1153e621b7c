"""What the browser's canvas is fed for one visitor's image."""

import json
from typing import Any

import gradio as gr

from qformer_viz.runtime.map_placement import of
from qformer_viz.types import EncodedImage
from qformer_viz.ui.app_context import AppContext
from qformer_viz.ui.conversation import Session
from qformer_viz.ui.event_groups import Step, listed
from qformer_viz.view.provenance import provenance_of
from qformer_viz.view.stage_payload import canvas_payload, embed

VISITING = "visiting"
"""Whether the maps of another model than the one that chats are on a visitor's canvas, in `Session.kept`."""


def payload(services: AppContext, session: Session) -> dict:
    """The canvas payload of the current image, with the conversation and where the maps come from."""
    encoded = session.encoded
    meta = provenance_of(services.of(session).pipe, encoded, session.turns())
    meta["example"] = services.example_titles.get(encoded.sha256)
    film = list(zip(encoded.frames, encoded.timestamps, strict=False))  # a still picture has no moments
    return canvas_payload(
        encoded.capture, encoded.image, meta=meta, video=film, placements=encoded.placements
    )


def as_text(services: AppContext, session: Session) -> str:
    """The payload as JSON without a literal tag in it, or "" while there is no image."""
    if session.encoded is None:
        return ""
    return as_json(payload(services, session))


def own(services: AppContext, session: Session) -> str:
    """The payload of the model that chats, also where maps of another one are on the canvas."""
    session.kept.pop(VISITING, None)
    return as_text(services, session)


def answered(services: AppContext, session: Session) -> str | dict[str, str]:
    """That payload, where an answer has brought new maps, or ends those of another model on the canvas."""
    new = services.of(session).reads_questions or session.kept.get(VISITING)
    return own(services, session) if new else gr.skip()


def if_question_is_read(services: AppContext, session: gr.State, step: Step) -> Step:
    """The step that runs only where an answer has brought new maps: the model's Q-Former reads the question."""
    fn, inputs, outputs = step

    def run(session: Session, *values: Any) -> Any:
        if services.of(session).reads_questions:
            return fn(*values)
        return [gr.skip() for _ in outputs] if isinstance(outputs, list) else gr.skip()

    return run, [session, *listed(inputs)], outputs


def pictures(encoded: EncodedImage) -> dict:
    """An image's one picture, or a film's frames with their moments, for the views below the canvas."""
    frames = [embed(frame, of(encoded, at)) for at, frame in enumerate(encoded.frames)]
    return {"frames": frames, "timestamps": list(encoded.timestamps)}


def as_json(shown: dict) -> str:
    """A payload as JSON without a literal tag in it."""
    return json.dumps(shown, ensure_ascii=False).replace("<", "\\u003c")
