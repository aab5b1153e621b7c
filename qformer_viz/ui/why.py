"""Tab: which queries and patches every word of the last answer came from."""

from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from ..attribution import METHODS
from ..explain import DEFAULT, explain
from ..view.palette import DIVERGING
from ..view.payload import embed
from .components import alert
from .conversation import NO_IMAGE, Session
from .payload import as_json
from .services import Services

NO_ANSWER = "There is no finished answer yet. Caption the image or ask a question; then come back."
SLOW = ("occlusion",)
HOST = Path(__file__).parent / "static" / "why.host.js"


def tab() -> dict:
    """One button, and the view of words, queries and patches."""
    gr.HTML(
        "<p class='qfv-note'>Takes the last answer apart: which queries each word came from, and where those looked. "
        "A word that the model would have said of any image says so and gets no map.</p>",
        apply_default_css=False,
    )
    with gr.Row(elem_classes="qfv-controls"):
        run = gr.Button(
            "Explain the last answer",
            variant="primary",
            size="md",
            elem_id="why-run",
            min_width=200,
            scale=0,
        )
        occlude = gr.Checkbox(
            False,
            label="Hide each patch in turn too (slower: one more pass for every patch)",
            elem_id="why-occlude",
            container=False,
            min_width=240,
        )
    told = gr.HTML(elem_id="why-told", apply_default_css=False)
    view = gr.HTML(
        value="",
        html_template="<div class='qfv-host'></div>",
        js_on_load=HOST.read_text(encoding="utf-8"),
        apply_default_css=False,
        elem_id="why-view",
    )
    return {"run": run, "occlude": occlude, "told": told, "view": view}


def told_and_view(services: Services, session: Session, occlude: bool) -> tuple[str, str]:
    """(message, view): every method for every word as JSON; trouble is told instead."""
    try:
        return "", as_json(words(services, session, occlude))
    except (ValueError, *services.user_errors) as error:
        return alert(str(error)), ""


def words(services: Services, session: Session, occlude: bool) -> dict[str, Any]:
    """What the view draws. Everything the visitor can choose is in it. ValueError says what to do instead."""
    if session.encoded is None:
        raise ValueError(NO_IMAGE)
    if session.answer is None or not session.answer.token_ids:
        raise ValueError(NO_ANSWER)
    pipe = services.of(session).pipe
    found = {
        name: explain(pipe, session.encoded, session.answer, name)
        for name in METHODS
        if occlude or name not in SLOW
    }
    first = found[DEFAULT]
    return {
        "image": embed(session.encoded.image),
        "grid": list(first.grid),
        "layer": first.layer,
        "words": list(first.words),
        "probabilities": _rounded(first.logprobs.exp()),
        "gains": _rounded(first.gains),
        "visual": first.visual.tolist(),
        "colours": list(DIVERGING),
        "methods": [
            {
                "name": name,
                "title": METHODS[name].title,
                "unit": METHODS[name].unit,
                "shows": METHODS[name].shows,
                "hides": METHODS[name].hides,
                "seconds": round(each.seconds, 2),
                "queries": _rounded(each.queries) if each.scores.shape[1] > 1 else None,
                "patches": _rounded(each.patches.flatten(1)),
            }
            for name, each in found.items()
        ],
    }


def _rounded(values: Any) -> list:
    """Four significant digits: enough to draw, and small to send."""
    digits = [[float(f"{v:.4g}") for v in row] for row in values.reshape(-1, values.shape[-1]).tolist()]
    return digits if values.dim() > 1 else digits[0]


def forget() -> tuple[str, str]:
    """Another image, model or answer: what was explained is of no more use."""
    return "", ""


def wire(services: Services, session: gr.State, parts: dict) -> tuple:
    """Connect the tab; returns what must run after a new image and after every answer."""
    lane = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
    told = [parts["told"], parts["view"]]
    parts["run"].click(partial(told_and_view, services), [session, parts["occlude"]], told, **lane)
    return (forget, None, told)
