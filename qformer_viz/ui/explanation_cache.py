"""What has been computed of a visitor's last answer, kept with the session: nothing is computed twice."""

from collections.abc import Callable
from dataclasses import dataclass, field

import gradio as gr

from qformer_viz.attribution import METHODS, ExplanationContext
from qformer_viz.attribution.explanation import attribute, prepare
from qformer_viz.errors import UserError
from qformer_viz.types import Answer, Attribution
from qformer_viz.ui.app_context import AppContext
from qformer_viz.ui.conversation import Session

NO_ANSWER = "There is no finished answer yet. Caption the image or ask a question; then come back."
STOPPED = "Stopped. What was computed before is kept; press the button to start again."


@dataclass(eq=False)
class ExplanationCache:
    """One answer's case, and the maps found so far by method; a method that works word by word has one for each."""

    answer: Answer
    context: ExplanationContext
    found: dict[tuple[str, int | None], Attribution] = field(default_factory=dict)

    def map(
        self, method: str, word: int, on_progress: Callable[[int, int], object] | None = None
    ) -> Attribution:
        """The attribution by a method that holds this word, computed now if need be."""
        single = METHODS[method].single
        key = (method, word if single else None)
        if key not in self.found:
            self.found[key] = attribute(
                self.context, method, words=[word] if single else None, on_progress=on_progress
            )
        return self.found[key]

    def known(self, method: str, word: int) -> tuple[Attribution, int] | None:
        """The attribution that holds this word by now, and the word's row there."""
        single = METHODS[method].single
        found = self.found.get((method, word if single else None))
        return None if found is None else (found, 0 if single else word)

    @property
    def methods(self) -> list[str]:
        """Those that have run, for any word."""
        run = {method for method, _ in self.found}
        return [name for name in METHODS if name in run]


def get_or_create(services: AppContext, session: Session) -> ExplanationCache:
    """What is kept of the last answer. UserError says what to do where there is none."""
    if session.encoded is None:
        raise UserError(session.no_image)
    if session.answer is None or not session.answer.text:
        raise UserError(NO_ANSWER)
    kept = get_current(session)
    if kept is None:
        context = prepare(services.of(session).pipe, session.encoded, session.answer)
        kept = session.kept["explained"] = ExplanationCache(session.answer, context)
    return kept


def get_current(session: Session) -> ExplanationCache | None:
    """What is kept, if it is about the last answer; a visitor may ask for it before the page has cleared the old."""
    kept = session.kept.get("explained")
    return kept if kept is not None and kept.answer is session.answer else None


def progress_callback(
    session: Session, progress: gr.Progress, what: str, outdates: bool = True
) -> Callable[[int, int], None]:
    """on_progress(done, of) for long work: moves the bar, and raises UserError when the visitor has pressed Stop or,
    where that outdates it, gone on to another image, model or answer."""
    session.pause.clear()
    mark = session.mark()

    def on_progress(done: int, of: int) -> None:
        if session.pause.is_set() or (outdates and not session.holds(mark)):
            raise UserError(STOPPED)
        progress((done, of), desc=what, unit="steps")

    return on_progress


def chosen(data: object, words: int) -> tuple[str, int]:
    """(method, word) as the view in the browser sent them; UserError for anything else."""
    method, word = (data.get("method"), data.get("word")) if isinstance(data, dict) else (None, None)
    if not isinstance(method, str) or method not in METHODS or type(word) is not int or not 0 <= word < words:
        raise UserError("Choose a method and a word of the answer, then press the button again.")
    return method, word
