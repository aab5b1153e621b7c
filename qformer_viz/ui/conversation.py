"""One visitor's conversation as plain data, and the steps that carry it forward. No Gradio here."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from typing import Any, Literal

from PIL import Image

from qformer_viz.attribution.explanation import captured
from qformer_viz.errors import UserError
from qformer_viz.media.image_decoder import Decoded
from qformer_viz.runtime.map_placement import Placement, of
from qformer_viz.types import Capture, Decoding, EncodedImage, ImageSource
from qformer_viz.ui.app_context import AppContext, ChatModel, Limits

EMPTY = (
    "The model ended its answer before the first word. Ask in other words, or retry with sampled decoding."
)
NO_IMAGE = "There is no image yet. Upload one, pick an example or make a scene; then ask again."
EXPIRED = (
    "The server no longer holds what this page shows: it keeps a conversation for an hour after the last word, as long "
    "as there is memory, and was perhaps started anew. Ask a question or press Caption, and it goes on from the "
    "picture on the screen; where there is none any more, choose one."
)
CAPTION = "Caption this image."
NOTICE = "ⓘ "
ENDINGS = {None: " ▍", "stopped": " ■ stopped", "length": " … (token limit reached)"}
"""What a bubble shows behind an answer that ended in such a way; None: one that is being written."""


LineKind = Literal["question", "answer", "notice"]


@dataclass(frozen=True)
class Line:
    """One bubble. `finish` is None while an answer grows; a caption answers the empty question."""

    kind: LineKind
    text: str
    finish: str | None = None


class Flag(threading.Event):
    """An Event that a session's deep copy replaces by its own, so that no two visitors share one."""

    def __deepcopy__(self, memo: dict) -> "Flag":
        return Flag()


def _raised() -> Flag:
    flag = Flag()
    flag.set()
    return flag


@dataclass(frozen=True, eq=False)
class Session:
    """Everything the server keeps for one visitor. `encoded` and `preview` describe the current image; `answer` is the
    last finished one, about `encoded`; `kept` is what tabs have computed of it (`ui.explained`), and which `frame` of a
    film is on the canvas; `model` is the name chosen of `AppContext.models`, None: the one that the page opened with.
    `stop` ends an answer that is being written, `pause` the long work of a tab. `opened` is set once the page has been
    opened in this session; a deep copy, which Gradio makes for a visitor of whom it holds nothing, is not.
    """

    model: str | None = None
    encoded: Any = None
    preview: str | None = None
    lines: tuple[Line, ...] = ()
    answer: Any = None
    stop: Flag = field(default_factory=Flag)
    pause: Flag = field(default_factory=Flag)
    opened: Flag = field(default_factory=_raised)
    kept: dict[str, Any] = field(default_factory=dict)

    def __deepcopy__(self, memo: dict) -> "Session":
        return replace(self, stop=Flag(), pause=Flag(), opened=Flag(), kept={})

    @property
    def no_image(self) -> str:
        """Why there is no image, and what to do."""
        return NO_IMAGE if self.opened.is_set() else EXPIRED

    def mark(self) -> object:
        """Stands for what is on the page now: image, model and last answer."""
        return self.kept.setdefault("mark", object())

    def holds(self, mark: object) -> bool:
        return self.kept.get("mark") is mark

    @property
    def frame(self) -> int:
        """Of a film, the frame on the canvas; 0 for a still picture."""
        return self.kept.get("frame", 0)

    @property
    def picture(self) -> Image.Image:
        """What is on the canvas: the image, or the chosen frame of a film."""
        return self.encoded.frames[self.frame]

    @property
    def placement(self) -> Placement | None:
        """Which part of it the model sees (`view.placement`)."""
        return of(self.encoded, self.frame)

    @property
    def capture(self) -> Capture:
        """The Capture of what is on the canvas. UserError says what to do where there is no image."""
        if self.encoded is None:
            raise UserError(self.no_image)
        whole = captured(self.encoded)
        return whole.image(self.frame) if len(self.encoded.frames) > 1 else whole

    def turns(self) -> tuple[tuple[str, str], ...]:
        """(question, answer) for every answer with words; the caption's question is empty."""
        pairs, question = [], ""
        for line in self.lines:
            if line.kind == "question":
                question = line.text
            elif line.kind == "answer":
                if line.text and line.finish != "empty":
                    pairs.append((question, line.text))
                question = ""
        return tuple(pairs)

    def last_question(self) -> str | None:
        """The question that Retry asks again; "" for the caption; None if nothing was asked."""
        asked = [line for line in self.lines if line.kind != "notice"]
        if not asked:
            return None
        questions = [line.text for line in asked if line.kind == "question"]
        return questions[-1] if questions else ""

    def add(self, kind: LineKind, text: str, finish: str | None = None) -> "Session":
        return replace(self, lines=(*self.lines, Line(kind, text, finish)))

    def growing(self) -> bool:
        """Whether an answer is being written at this moment."""
        return bool(self.lines) and self.lines[-1].kind == "answer" and self.lines[-1].finish is None


def look(services: AppContext, session: Session, source: "ImageSource", preview: str | None) -> Session:
    """Decode and encode a new image; the conversation starts afresh with what there is to say about it."""
    session.stop.clear()
    decoded = services.decode(source)
    found = seen(services.of(session), replace(session, preview=preview, lines=(), answer=None), decoded)
    session.kept.clear()
    return found


def without_image(session: Session) -> Session:
    """Nothing of the last image: no lines, no answer, nothing that tabs have kept of it."""
    session.kept.clear()
    return replace(session, encoded=None, preview=None, lines=(), answer=None)


def seen(chat_model: ChatModel, session: Session, image: Decoded | EncodedImage) -> Session:
    """The session with the image encoded by this model, what there is to say of it, and a warning if it is
    out of distribution. image: decoded, or encoded by another model."""
    encoded = chat_model.pipe.encode(image)
    unlike = chat_model.ood_check(encoded) if chat_model.ood_check else None
    session = replace(session, encoded=encoded)
    for notice in encoded.notices:
        session = session.add("notice", notice)
    return session.add("notice", unlike) if unlike else session


def switch(services: AppContext, session: Session, name: str) -> Session:
    """Let another model speak, about the same image, in a new conversation. On any error `session` still holds."""
    session.stop.clear()
    fresh = replace(session, model=name, lines=(), answer=None)
    chat_model = services.of(fresh)
    found = fresh if session.encoded is None else seen(chat_model, fresh, session.encoded)
    session.kept.clear()
    return found


def pose(session: Session, question: str, limits: Limits) -> Session:
    """Add the visitor's question to the lines, or a notice saying why it cannot be asked."""
    session.stop.clear()
    text = (question or "").strip()
    if session.encoded is None:
        return session.add("notice", session.no_image)
    if not text:
        return session.add("notice", "The question is empty. Type one, for example: what is in the image?")
    if too_long("The question", text, limits):
        return session.add("notice", too_long("The question", text, limits))
    if len(session.turns()) >= limits.max_turns:
        return session.add(
            "notice", f"This conversation has {limits.max_turns} turns. Press Clear to start anew."
        )
    return session.add("question", text)


def too_long(what: str, text: str, limits: Limits) -> str:
    """What to tell a visitor whose text is longer than this server takes, or ""."""
    if len(text) <= limits.max_question:
        return ""
    return f"{what} has {len(text)} characters, more than the {limits.max_question} this server takes. Shorten it."


def pose_caption(session: Session) -> Session:
    """Ask for a caption again, as an empty question."""
    session.stop.clear()
    return session.add("notice", session.no_image) if session.encoded is None else session.add("question", "")


def retried(session: Session) -> Session:
    """Without the last answer and whatever followed it; its question stays as the last line."""
    session.stop.clear()
    for index in range(len(session.lines) - 1, -1, -1):
        if session.lines[index].kind == "question":
            return replace(session, lines=session.lines[: index + 1])
        if session.lines[index].kind == "answer" and session.last_question() == "":
            return replace(session, lines=session.lines[:index])
    return session


def cleared(session: Session) -> Session:
    """No lines; the image stays, and with it everything that is drawn about it. Work on the last answer is of no more
    use."""
    session.kept.pop("mark", None)
    return replace(session, lines=(), answer=None)


def answer(services: AppContext, session: Session, decoding: Decoding) -> Iterator[Session]:
    """Stream the answer to the last line: to a question, or the caption if nothing was asked.

    Does nothing where the last line is a notice that `pose` added in place of a question.
    """
    last = session.lines[-1] if session.lines else None
    if session.encoded is None or (last and last.kind == "answer"):
        return
    question = last.text if last and last.kind == "question" else ""
    if last and last.kind == "notice" and session.last_question() is not None:
        return
    session.kept.pop("mark", None)
    chat_model = services.of(session)
    unread = chat_model.unknown_words(question) if chat_model.unknown_words and question else ()
    if unread:
        session = session.add("notice", never_read(unread))
    session = replace(session, answer=None)
    try:
        session = for_question(chat_model, session, question)
        for partial in _stream(chat_model.pipe, session, question, decoding):
            done = partial if partial.finish else None
            yield replace(session.add("answer", partial.text, partial.finish), answer=done)
    except services.user_errors as error:
        yield session.add("notice", str(error))


def never_read(words: Sequence[str]) -> str:
    """What is said before an answer to a question with words that the model does not know."""
    quoted = ", ".join(f"“{word}”" for word in words)
    what = "this word" if len(words) == 1 else "these words"
    return f"The model has never read {what}: {quoted}. It cannot know what is meant, so take its answer as a guess."


def for_question(chat_model: ChatModel, session: Session, question: str) -> Session:
    """InstructBLIP's Q-Former reads the question, so there the maps belong to the question."""
    if not chat_model.reads_questions or not question:
        return session
    return replace(session, encoded=chat_model.pipe.encode(session.encoded, question))


def _stream(pipe: Any, session: Session, question: str, decoding: Any) -> Iterator[Any]:
    if not question:
        return pipe.stream_caption(session.encoded, decoding, stop=session.stop)
    return pipe.stream_ask(session.encoded, question, session.turns(), decoding, stop=session.stop)


def messages(session: Session) -> list[dict]:
    """The lines as Gradio chat messages, escaped: the chatbot renders tags even with markup turned off."""
    return [
        {"role": "user" if line.kind == "question" else "assistant", "content": escape(_shown(line))}
        for line in session.lines
    ]


def _shown(line: Line) -> str:
    if line.kind == "notice":
        return f"{NOTICE}{line.text}"
    if line.kind == "question":
        return line.text or CAPTION
    if line.finish == "empty" or (line.finish and not line.text.strip() and line.finish != "stopped"):
        return f"{NOTICE}{EMPTY}"
    return line.text + ENDINGS.get(line.finish, "")
