"""Go on from what the browser still shows, where the server no longer holds the visitor's session."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import unescape
from typing import Any

from qformer_viz.ui import conversation
from qformer_viz.ui.app_context import AppContext, Limits
from qformer_viz.ui.components import uploaded
from qformer_viz.ui.conversation import CAPTION, ENDINGS, NOTICE, Line, Session

RECOVERED = (
    "The server had let go of this conversation. It goes on from the picture and the words on this page."
)


@dataclass(frozen=True)
class Shown:
    """What a page shows: `picture`, the path of the upload in its image box, "" for none; `messages` of its chatbot;
    `model`, the name of the model chosen, None where there is one only."""

    picture: str
    messages: Sequence[Mapping[str, Any]]
    model: str | None = None


def recovered(services: AppContext, session: Session, shown: Shown) -> Session:
    """The session as it is, or, where it is not the server's any more, made anew from what the page shows.

    Raises the user errors of `services` where the picture cannot be read any more.
    """
    held = session.encoded is not None or session.opened.is_set()
    if held or not (shown.picture or shown.messages):
        return session
    if shown.model in services.models and shown.model != next(iter(services.models)):
        session = replace(session, model=shown.model)
    lines = lines_of(shown.messages, services.limits)
    if not shown.picture:
        return replace(session, lines=lines)
    source = str(uploaded(shown.picture))
    session = conversation.look(services, session, source, source)
    session.opened.set()
    return replace(session, lines=lines).add("notice", RECOVERED)


def lines_of(messages: Sequence[Mapping[str, Any]], limits: Limits) -> tuple[Line, ...]:
    """The lines of a conversation from the messages that `conversation.messages` made of them."""
    lines = []
    for message in messages[-3 * limits.max_turns :]:
        text = unescape(text_of(message.get("content")))[: 4 * limits.max_question]
        if message.get("role") == "user":
            lines.append(Line("question", "" if text == CAPTION else text))
        elif text.startswith(NOTICE):
            lines.append(Line("notice", text.removeprefix(NOTICE)))
        else:
            finish = next((name for name, ending in ENDINGS.items() if name and text.endswith(ending)), "eos")
            lines.append(Line("answer", text.removesuffix(ENDINGS.get(finish, "")), finish))
    return tuple(lines)


def text_of(content: object) -> str:
    """The text of a chat message: Gradio's content is a text, or blocks some of which hold one."""
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else [content]
    return "".join(str(block.get("text", "")) for block in blocks if isinstance(block, dict))
