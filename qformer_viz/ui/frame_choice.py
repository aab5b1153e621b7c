"""Moving pictures on the page: the frame on the canvas is the one that the tabs are about."""

import gradio as gr

from qformer_viz.ui.conversation import Session
from qformer_viz.ui.event_groups import Step


def choose(session: Session, frame: object) -> None:
    """Note which frame is on the canvas; one that does not exist is passed over."""
    if session.encoded is not None and type(frame) is int and 0 <= frame < len(session.encoded.frames):
        session.kept["frame"] = frame


def wire(session: gr.State, view: gr.HTML, redrawn: Step) -> None:
    """`redrawn`: what is drawn on the server."""

    # A closure, because Gradio reads no type hints off a partial.
    def chosen(session: Session, event: gr.EventData) -> None:
        choose(session, event._data.get("frame") if isinstance(event._data, dict) else None)

    light = {"concurrency_limit": 8, "show_progress": "hidden", "api_visibility": "private"}
    begun = view.submit(chosen, session, None, trigger_mode="always_last", **light)
    begun.success(*redrawn, **light)
