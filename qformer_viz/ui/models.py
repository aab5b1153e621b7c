"""The picker of models: who speaks is each visitor's own choice."""

from html import escape

import gradio as gr

from . import about, conversation, similarity, statistics
from .conversation import Session, messages
from .services import Services


def picker(services: Services) -> gr.Dropdown | None:
    """A dropdown of the models on offer, or None where there is one only."""
    if len(services.speakers) < 2:
        return None
    return gr.Dropdown(
        list(services.speakers),
        value=next(iter(services.speakers)),
        label="Model",
        elem_id="model",
        container=False,
        min_width=200,
        scale=0,
    )


def switch(services: Services, session: Session, name: str) -> tuple:
    """(session, picker, chat, header, about, controls of the tabs ...). On failure the model that spoke goes on."""
    try:
        if name not in services.speakers:
            raise gr.Error("This model is not on offer here. Choose one of the list.", print_exception=False)
        session = conversation.switch(services, session, name)
    except services.user_errors as error:
        gr.Warning(escape(str(error)), duration=12, title="This model cannot be loaded")
    speaker = services.of(session)
    return (
        session,
        session.model or next(iter(services.speakers)),
        messages(session),
        about.header(speaker, offers=True),
        about.text(speaker),
        *similarity.refit(speaker.geometry),
        *statistics.refit(speaker.geometry),
    )


def wire(
    services: Services, session: gr.State, choice: gr.Dropdown, shown: list, halt
) -> gr.events.Dependency:
    """`shown`: chat, header, about text and the tabs' controls. Returns the event after which all is new."""

    # A closure, because Gradio reads no type hints off a partial. What downloading and reading weights tell of their
    # progress is shown over the conversation.
    def change(session: Session, name: str, progress=gr.Progress(track_tqdm=True)):  # noqa: B008
        return switch(services, session, name)

    private = {"api_visibility": "private"}
    begun = choice.input(halt, session, None, concurrency_limit=8, show_progress="hidden", **private)
    return begun.success(
        change,
        [session, choice],
        [session, choice, *shown],
        concurrency_id="model",
        concurrency_limit=1,
        show_progress_on=shown[0],
        **private,
    )
