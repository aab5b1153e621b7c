"""What a view of the inspector is: the record that every file of this package defines as its `VIEW`.

The page asks each view for its components, connects its events, and runs its steps after a new image, after an answer
and after another model. A step is (function, inputs, outputs) of a Gradio event.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from qformer_viz.ui.app_context import AppContext
from qformer_viz.ui.event_groups import Step

Parts = dict[str, Any]
"""The components of a view, by names that only its own file uses."""


@dataclass(frozen=True)
class ViewContext:
    """What a view is connected to.

    Attributes:
        app: The models and limits of this server.
        session: The visitor's session.
        canvas: The canvas above the tabs. Its value is a payload as JSON.
        parts: What the view's own `build` returned.
    """

    app: AppContext
    session: gr.State
    canvas: gr.HTML
    parts: Parts


def always(app: AppContext) -> bool:
    """The view is shown on every page."""
    return True


def no_events(context: ViewContext) -> None:
    """The view has no events of its own."""


def no_steps(context: ViewContext) -> Sequence[Step]:
    """The view has nothing to do."""
    return ()


@dataclass(frozen=True)
class InspectorView:
    """One tab of the inspector.

    Attributes:
        id: Names the tab in links and in tests. No two views share one.
        title: The words on the tab.
        order: Tabs stand from the lowest to the highest order.
        build: Makes the components inside the tab.
        available: Whether this server shows the tab.
        wire: Connects the events that start in the tab.
        on_image: Steps after a new image.
        on_maps: Steps after new attention maps are on the canvas: after a new image, after the choice of another frame,
            and after an answer of a model whose Q-Former reads the question.
        on_answer: Steps after an answer, and after the conversation was cleared.
        on_model: Steps after the visitor chose another model, before those of `on_image`. Their only input is the
            session: what the browser holds of the other components is out of date.
        slow: The steps may run a model. They get an event of their own, so that no other view waits for them.
    """

    id: str
    title: str
    order: int
    build: Callable[[AppContext], Parts]
    available: Callable[[AppContext], bool] = always
    wire: Callable[[ViewContext], None] = no_events
    on_image: Callable[[ViewContext], Sequence[Step]] = no_steps
    on_maps: Callable[[ViewContext], Sequence[Step]] = no_steps
    on_answer: Callable[[ViewContext], Sequence[Step]] = no_steps
    on_model: Callable[[ViewContext], Sequence[Step]] = no_steps
    slow: bool = False
