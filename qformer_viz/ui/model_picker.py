"""The picker of models: who speaks is each visitor's own choice."""

from html import escape

import gradio as gr

from qformer_viz.errors import UserError
from qformer_viz.ui import conversation
from qformer_viz.ui.app_context import AppContext
from qformer_viz.ui.conversation import Session, messages
from qformer_viz.ui.event_groups import CHAT, LIGHT, LOAD, Step, listed
from qformer_viz.ui.inspector import about_view


def picker(services: AppContext) -> gr.Dropdown | None:
    """A dropdown of the models on offer, or None where there is one only."""
    if len(services.models) < 2:
        return None
    return gr.Dropdown(
        list(services.models),
        value=next(iter(services.models)),
        label="Model",
        elem_id="model",
        interactive=True,
        container=False,
        min_width=200,
        scale=0,
    )


def load(services: AppContext, session: Session, name: str) -> str:
    """The name, once its model is there; the visitor goes on talking with the other one until then. On failure the name
    of the model that speaks."""
    if name not in services.models:
        raise UserError("This model is not on offer here. Choose one of the list.")
    try:
        services.models[name]()
    except services.user_errors as error:
        _cannot(error)
        return speaking(services, session)
    return name


def speaking(services: AppContext, session: Session) -> str:
    """The name of the model that this visitor talks to."""
    return session.model or next(iter(services.models))


def pair(services: AppContext, session: Session, name: str) -> tuple[str, str]:
    """The names of the model that speaks and of another to compare it with. UserError says what to do where they are
    the same, or the other is not on offer."""
    one = speaking(services, session)
    if name not in services.models or name == one:
        raise UserError("Choose another model than the one that speaks.")
    return one, name


def others(services: AppContext, session: Session) -> list[str]:
    """Every model on offer but the one that speaks."""
    return [name for name in services.models if name != speaking(services, session)]


def _cannot(error: Exception) -> None:
    gr.Warning(escape(str(error)), duration=12, title="This model cannot be loaded")


def switch(services: AppContext, session: Session, name: str) -> tuple:
    """(session, picker, chat, header). On failure the model that spoke goes on."""
    if name in services.models and name != speaking(services, session):
        try:
            session = conversation.switch(services, session, name)
        except services.user_errors as error:
            _cannot(error)
    header = about_view.header(services.of(session), offers=True)
    return session, speaking(services, session), messages(session), header


def wire(
    services: AppContext, session: gr.State, choice: gr.Dropdown, shown: list, renewal: Step, halt
) -> gr.events.Dependency:
    """`shown`: chat and header; `renewal`: the step that makes the tabs fit the new model, which reads the session
    alone. Returns the event after which all is new."""
    renew, inputs, outputs = renewal
    if any(each is not session for each in listed(inputs)):
        raise ValueError(
            "A step of `on_model` reads the session alone: what the browser holds is out of date."
        )

    # Closures, because Gradio reads no type hints off a partial. What downloading and reading weights tell of their
    # progress is shown over the header: the conversation goes on.
    def read(session: Session, name: str, progress=gr.Progress(track_tqdm=True)):  # noqa: B008
        return (load(services, session, name),) * 2

    def stop(session: Session, name: str) -> None:
        if name != speaking(services, session):
            halt(session)

    def change(session: Session, name: str):
        session, *switched = switch(services, session, name)
        return session, *switched, *renew(*[session] * len(listed(inputs)))

    name = gr.State("")  # what the browser holds may lag behind
    # Of its events, input comes twice for a click, and select not at all for a key.
    ready = choice.change(read, [session, choice], [choice, name], show_progress_on=shown[1], **LOAD)
    halted = ready.success(stop, [session, name], None, **LIGHT)
    changed = [session, choice, *shown, *outputs]
    return halted.success(change, [session, name], changed, show_progress="hidden", **CHAT)
