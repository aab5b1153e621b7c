"""Which events wait for which. Models run one batch at a time whoever asks (`qformer_viz.runtime.device_queue`).
Here is what else waits.

CHAT   changes a visitor's session: one after another, so that none works on what another has just replaced.
LONG   only reads it, and may take long: several at once, so that no question waits for somebody's explanation.
LOAD   reads weights; who is talking meanwhile goes on.
LIGHT  runs no model to speak of.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import gradio as gr
from gradio.events import Dependency

from qformer_viz.ui.conversation import Session

PRIVATE = {"api_visibility": "private"}
CHAT = {"concurrency_id": "chat", "concurrency_limit": 1, **PRIVATE}
LONG = {"concurrency_id": "long", "concurrency_limit": 4, **PRIVATE}
LOAD = {"concurrency_id": "load", "concurrency_limit": 1, **PRIVATE}
LIGHT = {"concurrency_limit": 8, "show_progress": "hidden", **PRIVATE}


def stop_button(button: gr.Button, session: gr.State) -> None:
    """The button ends the long work of a visitor's tabs, and no answer."""
    button.click(lambda session: session.pause.set(), session, None, **LIGHT)


def after_answer(trigger: Callable[..., Any], *event: object, **options: object) -> Dependency:
    """The event, once the answer that is perhaps being written is finished, with what that made of the session."""
    return trigger(lambda: None, None, None, show_progress="hidden", **CHAT).then(*event, **options)


Shown = TypeVar("Shown")
Step = tuple[Callable[..., Any], Any, Any]
"""(fn, inputs, outputs) of an event."""


def at_once(steps: Sequence[Step]) -> Step:
    """One step in place of several. Every event is a request with a queue of its own: a dozen after each picture cost
    more than what they do."""
    read: list[Any] = []
    written: list[Any] = []
    plan = []
    for fn, inputs, outputs in steps:
        given, shown = listed(inputs), listed(outputs)
        read += [each for each in given if not any(each is known for known in read)]
        at = [next(index for index, known in enumerate(read) if known is each) for each in given]
        plan.append((fn, at, len(shown)))
        written += shown

    def all_of_them(*values: Any) -> list[Any]:
        found: list[Any] = []
        for fn, at, count in plan:
            result = fn(*(values[index] for index in at))
            found += result if count > 1 else [result]
        return found

    return all_of_them, read, written


def listed(components: object) -> list[Any]:
    """The inputs or outputs of an event as a list: Gradio takes None and a single component as well."""
    if components is None:
        return []
    return list(components) if isinstance(components, list | tuple) else [components]


def discard_if_stale(session: Session, work: Callable[[], Shown]) -> Shown:
    """What work() returns; nothing changes on the page if its visitor has gone on to another image, model or answer
    meanwhile."""
    mark = session.mark()
    found = work()
    if session.holds(mark):
        return found
    if isinstance(found, Sequence) and not isinstance(found, str):
        return cast(Shown, [gr.skip() for _ in found])
    return cast(Shown, gr.skip())
