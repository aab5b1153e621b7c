"""Tab: which queries and patches every word of the last answer came from."""

import re
from dataclasses import replace
from functools import partial
from html import escape
from typing import Any

import gradio as gr
import torch

from ..attribution import METHODS
from ..attribution.knockout import replaced
from ..explain import DEFAULT, explain
from ..view.palette import DIVERGING
from ..view.payload import embed
from .components import alert, live_view
from .conversation import NO_IMAGE, Session
from .payload import as_json
from .services import Services

NO_ANSWER = "There is no finished answer yet. Caption the image or ask a question; then come back."
AWAY, KEEP = "Take them away", "Keep only them"


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
    view = live_view("why", "why-view")
    with gr.Row(elem_classes="qfv-controls"):
        numbers = gr.Textbox(
            label="Queries, by number", placeholder="12, 17", elem_id="why-queries", min_width=180, scale=2
        )
        how = gr.Radio(
            [AWAY, KEEP], value=AWAY, label="What to do with them", elem_id="why-how", min_width=220, scale=2
        )
        again = gr.Button("Answer again", size="md", elem_id="why-again", min_width=140, scale=0)
    outcome = gr.HTML(elem_id="why-outcome", apply_default_css=False)
    return {
        "run": run,
        "occlude": occlude,
        "told": told,
        "view": view,
        "numbers": numbers,
        "how": how,
        "again": again,
        "outcome": outcome,
    }


def told_and_view(services: Services, session: Session, occlude: bool) -> tuple[str, str]:
    """(message, view): every method for every word as JSON; trouble is told instead."""
    try:
        return "", as_json(words(services, session, occlude))
    except (ValueError, *services.user_errors) as error:
        return alert(str(error)), ""


def words(services: Services, session: Session, occlude: bool) -> dict[str, Any]:
    """What the view draws. Everything the visitor can choose is in it. ValueError says what to do instead."""
    _check(session)
    pipe = services.of(session).pipe
    found = {
        name: explain(pipe, session.encoded, session.answer, name)
        for name in METHODS
        if occlude or not METHODS[name].slow
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


def _check(session: Session) -> None:
    if session.encoded is None:
        raise ValueError(NO_IMAGE)
    if session.answer is None or not session.answer.text:
        raise ValueError(NO_ANSWER)


def _rounded(values: Any) -> list:
    """Four significant digits: enough to draw, and small to send."""
    digits = [[float(f"{v:.4g}") for v in row] for row in values.reshape(-1, values.shape[-1]).tolist()]
    return digits if values.dim() > 1 else digits[0]


def outcome(services: Services, session: Session, numbers: str, how: str) -> str:
    """The new answer beside the old one, and what every word of the old one loses; trouble is told instead."""
    try:
        return intervene(services, session, numbers, how)
    except (ValueError, *services.user_errors) as error:
        return alert(str(error))


def intervene(services: Services, session: Session, numbers: str, how: str) -> str:
    """The same question with some queries saying what they say of any image. ValueError says what to do instead."""
    _check(session)
    pipe, encoded, old = services.of(session).pipe, session.encoded, session.answer
    chosen = parsed(numbers, encoded.queries.shape[1])
    away = torch.zeros(1, encoded.queries.shape[1], dtype=torch.bool)
    away[0, chosen] = True
    away = ~away if how == KEEP else away
    queries = replaced(encoded.queries, pipe.mean_queries(encoded.question), away)
    changed = replace(encoded, queries=queries)
    *before, (question, _) = session.turns()
    new = pipe.ask(changed, question, before) if question else pipe.caption(changed)
    scorer = pipe.scorer(encoded, old)
    was, now = scorer.score(torch.cat([scorer.queries, queries]))
    rows = "".join(
        f"<tr><td>{escape(word)}</td><td>{a.exp():.1%}</td><td>{b.exp():.1%}</td><td>{b - a:+.2f}</td></tr>"
        for word, a, b in zip(scorer.words, was, now, strict=True)
    )
    count = int(away.sum())
    return (
        f"<p>With {count} of {away.numel()} queries saying what they say of any image:</p>"
        f"<dl class='qfv-facts'><div><dt>before</dt><dd>{escape(old.text)}</dd></div>"
        f"<div><dt>now, greedily</dt><dd>{escape(new.text) or '(no word)'}</dd></div></dl>"
        "<table class='qfv-table'><thead><tr><th scope='col'>word of the old answer</th><th scope='col'>before</th>"
        f"<th scope='col'>now</th><th scope='col'>nats</th></tr></thead><tbody>{rows}</tbody></table>"
    )


def parsed(numbers: str, count: int) -> list[int]:
    """The queries named in a text such as "3, 12"; ValueError for none, or for one that does not exist."""
    found = [part for part in re.split(r"[\s,;]+", (numbers or "").strip()) if part]
    if not found or not all(
        part.isascii() and part.isdigit() and len(part) < 6 and int(part) < count for part in found
    ):
        raise ValueError(f"Name queries by their numbers, 0 to {count - 1}, for example: 3, 12")
    return sorted({int(part) for part in found})


def forget() -> tuple[str, str, str]:
    """Another image, model or answer: what was explained is of no more use."""
    return "", "", ""


def wire(services: Services, session: gr.State, parts: dict) -> tuple:
    """Connect the tab; returns what must run after a new image and after every answer."""
    lane = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
    told = [parts["told"], parts["view"]]
    parts["run"].click(partial(told_and_view, services), [session, parts["occlude"]], told, **lane)
    numbers, how, again, result = (parts[name] for name in ("numbers", "how", "again", "outcome"))
    gr.on([again.click, numbers.submit], partial(outcome, services), [session, numbers, how], result, **lane)
    return (forget, None, [*told, result])
