"""Inside the Q-Former over many images: whether single heads, whole layers, and what queries tell one another matter to
the words that came from the image."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .attribution.knockout import effects, ends
from .benchmark import interval
from .explain import prepare
from .heads import heads, talk
from .types import VISUAL_GAIN

MUCH = 1.0
LOUD = 3


def measure(
    pipe: Any,
    images: Iterable[Any],
    questions: Sequence[str] = (),
    told: Callable[[int], Any] = lambda done: None,
) -> dict[str, Any]:
    """Plain numbers about the caption (question "") and every answer, over the words that came from the image.

    {"model", "images", "cross_layers", "asked": {question: {"words": how many, and nats lost as [mean, low, high],
    bootstrap intervals of 95 % over images:

    head      without the head that costs a word most, whichever that is
    cross     without all heads of a layer of cross-attention, for each of `cross_layers`; `own`: of self-attention
    apart     when every query hears of the others only what they tell of any image
    unheard   when the others hear only that of one query, the one that costs the word most; `unread`: when the
              language model does not read one

    "needs": share of the words that lose a nat or more by `apart`; "loudest": [query, share of the words that lose
    most, and a nat or more, when it is unheard], the first three}}}.

    told(done): after every image.
    """
    found: dict[str, dict[str, list[Any]]] = {question: {} for question in ("", *questions)}
    count = 0
    for count, image in enumerate(images, 1):
        for question, rows in found.items():
            encoded = pipe.encode(image, question or None)
            answer = pipe.ask(encoded, question) if question else pipe.caption(encoded)
            if answer.token_ids:
                for name, value in _of_answer(prepare(pipe, encoded, answer)).items():
                    rows.setdefault(name, []).extend(value)
                    rows.setdefault(f"{name} images", []).extend([count] * len(value))
        told(count)
    layers = list(encoded.record.result.cross_layers) if count else []
    return {
        "model": pipe.name,
        "images": count,
        "cross_layers": layers,
        "asked": {question: _told(rows) for question, rows in found.items()},
    }


def _of_answer(case: Any) -> dict[str, list[Any]]:
    """For every word that came from the image, what it loses."""
    full, blank = ends(case)
    words = (full - blank >= VISUAL_GAIN).nonzero()[:, 0]
    inside, said = heads(case), talk(case)
    every = torch.cat([inside.cross.flatten(1), inside.own.flatten(1)], 1)
    figures = {
        "head": every.amax(1),
        "cross": inside.cross_layers,
        "own": inside.own_layers,
        "apart": said.apart,
        "unheard": said.queries.amax(1),
        "unread": effects(case).amax(1),
        "loudest": said.queries.argmax(1),
    }
    return {name: values[words].tolist() for name, values in figures.items()}


def _told(rows: Mapping[str, list[Any]]) -> dict[str, Any]:
    if not rows or not rows["head"]:
        return {"words": 0}
    told: dict[str, Any] = {"words": len(rows["head"])}
    for name in ("head", "apart", "unheard", "unread"):
        told[name] = _interval(rows[name], rows[f"{name} images"])
    for name in ("cross", "own"):
        by_layer = torch.tensor(rows[name]).T.tolist()
        told[name] = [_interval(values, rows[f"{name} images"]) for values in by_layer]
    lost = torch.tensor(rows["apart"])
    told["needs"] = round((lost >= MUCH).float().mean().item(), 4)
    told["loudest"] = _loudest(torch.tensor(rows["loudest"]), torch.tensor(rows["unheard"]))
    return told


def _interval(values: Sequence[float], images: Sequence[int]) -> list[float]:
    return [round(figure, 4) for figure in interval(values, images)]


def _loudest(queries: Tensor, lost: Tensor) -> list[tuple[int, float]]:
    """The queries that most words would miss, of the words that lose a nat or more, with their shares of all words."""
    counts = torch.bincount(queries[lost >= MUCH])
    order = counts.argsort(descending=True, stable=True)[:LOUD].tolist()
    return [(query, round(int(counts[query]) / len(queries), 4)) for query in order if counts[query]]


def table(found: Mapping[str, Any]) -> str:
    """What `measure` found, in Markdown."""
    heads = [
        "",
        "words",
        "one head",
        "all heads of the strongest layer",
        "queries apart",
        "words that need it",
    ]
    heads += ["one query unheard", "one query unread", "heard most"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows(found)])


def rows(found: Mapping[str, Any]) -> list[list[str]]:
    """The rows of `table`, a row for the caption and one for every question."""
    told = []
    for question, one in found["asked"].items():
        name = f"“{question}”" if question else "the caption"
        if not one["words"]:
            told.append([name, "0", *["–"] * 7])
            continue
        kinds = [
            ("cross", "cross-attention", found["cross_layers"]),
            ("own", "self-attention", range(len(one["own"]))),
        ]
        layers = [(one[key][at], f"{kind} {layer}") for key, kind, of in kinds for at, layer in enumerate(of)]
        most, layer = max(layers, key=lambda each: each[0][0])
        heard = ", ".join(f"{query:02d} ({share:.0%})" for query, share in one["loudest"])
        told.append(
            [
                name,
                str(one["words"]),
                _shown(one["head"]),
                f"{_shown(most)}, {layer}",
                _shown(one["apart"]),
                f"{one['needs']:.0%}",
                _shown(one["unheard"]),
                _shown(one["unread"]),
                heard or "–",
            ]
        )
    return told


def _shown(figures: Sequence[float]) -> str:
    mean, low, high = figures
    return f"{mean:.2f} ({low:.2f} to {high:.2f})"
