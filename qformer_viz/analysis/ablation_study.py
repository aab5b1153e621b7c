"""Inside the Q-Former over many images: what single heads, whole layers and the talk between queries are worth to the
words that came from the image, and whether the answer follows when they are another image's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from qformer_viz.analysis.bootstrap import interval
from qformer_viz.analysis.head_ablation import ablate_heads, ablate_query_messages
from qformer_viz.attribution.explanation import captured, prepare
from qformer_viz.attribution.methods.knockout import effects, ends
from qformer_viz.types import VISUAL_GAIN

if TYPE_CHECKING:
    from qformer_viz.attribution.context import ExplanationContext
    from qformer_viz.runtime.pipeline import Pipeline
    from qformer_viz.types import Answer, AnyImage, EncodedImage

MUCH = 1.0
LOUD = 3
LOSSES = {
    "head": "one head",
    "apart": "queries apart",
    "unheard": "one query unheard",
    "unread": "one query unread",
}


def measure(
    pipe: Pipeline,
    images: Iterable[AnyImage],
    questions: Sequence[str] = (),
    on_progress: Callable[[int], object] = lambda done: None,
) -> dict[str, Any]:
    """Plain numbers: {"model", "images", "cross_layers", "asked": {question, "" for the caption: what was found}}.

    Of the words that came from the image (`words`, how many) the nats they lose, as [mean, low, high] with a bootstrap
    interval of 95 % over images:

    head      without the head that costs a word most, whichever that is
    cross     without all heads of a layer of cross-attention, for each of `cross_layers`; own: of self-attention
    apart     when every query gets the mean messages of all others over other images
    unheard   when the others get the mean message of one query, the one that costs the word most
    unread    when the language model reads one query as of other images, the one that costs the word most
    needs     a share in their place: of the words that lose a nat or more by `apart`
    loudest   [query, share of the words that lose most, and a nat or more, when it is unheard], the first three

    Of pairs of successive images with different answers (`pairs`, how many) the share in which the second's answer
    becomes the likelier one about the first, when something is as it was in the pass over the second (an interchange:
    Geiger et al. 2021, arXiv 2106.02997): `follows_talk`, what the queries tell one another; `follows_cross`, what all
    heads of a layer of cross-attention hand on, for each of `cross_layers`.

    on_progress(done): after every image.
    """
    lost: dict[str, list[dict[str, Tensor]]] = {question: [] for question in ("", *questions)}
    followed: dict[str, list[Tensor]] = {question: [] for question in lost}
    before: dict[str, tuple[Any, Any]] = {}
    layers: tuple[int, ...] = ()
    count = 0
    for count, image in enumerate(images, 1):
        for question in lost:
            encoded = pipe.encode(image, question or None)
            answer = pipe.ask(encoded, question) if question else pipe.caption(encoded)
            if not answer.token_ids:
                continue
            context = prepare(pipe, encoded, answer)
            lost[question].append(_losses(context))
            earlier = before.get(question)
            if earlier is not None and earlier[1].text != answer.text:
                followed[question].append(_interchanged(pipe, *earlier, encoded, answer))
            before[question] = encoded, answer
            layers = context.capture.cross_layers
        on_progress(count)
    asked = {question: _summary(lost[question]) | _follows(followed[question]) for question in lost}
    return {"model": pipe.name, "images": count, "cross_layers": list(layers), "asked": asked}


def _losses(context: ExplanationContext) -> dict[str, Tensor]:
    """[t] or [t, L] for the words of an answer that came from the image."""
    full, blank = ends(context)
    words = full - blank >= VISUAL_GAIN
    inside, said = ablate_heads(context), ablate_query_messages(context)
    found = {
        "head": torch.cat([inside.cross.flatten(1), inside.own.flatten(1)], 1).amax(1),
        "cross": inside.cross_layers,
        "own": inside.own_layers,
        "apart": said.apart,
        "unheard": said.queries.amax(1),
        "unread": effects(context).amax(1),
        "loudest": said.queries.argmax(1),
    }
    return {name: values[words] for name, values in found.items()}


def _interchanged(
    pipe: Pipeline, encoded: EncodedImage, answer: Answer, other: EncodedImage, instead: Answer
) -> Tensor:
    """[1 + l] bool: whether `instead` is likelier than `answer` with the talk, or the heads of a layer, of `other`."""
    from qformer_viz.attribution.reference_activations import activations_for_patching
    from qformer_viz.attribution.scorer import make_scorer

    capture, said = captured(encoded), activations_for_patching(pipe, other)
    layers, _, count = capture.cross_attention.shape[:3]
    own = torch.zeros(layers, len(capture.self_attention), count, dtype=torch.bool)
    cross = torch.eye(layers, dtype=torch.bool)[..., None].expand(-1, -1, count)
    whole = []
    for words in (answer, instead):
        scorer = make_scorer(pipe, encoded, words)
        whole.append(torch.cat([scorer.isolate_queries(said), scorer.ablate_heads(own, cross, said)]).sum(1))
    return whole[1] > whole[0]


def _summary(lost: Sequence[Mapping[str, Tensor]]) -> dict[str, Any]:
    images = [number for number, one in enumerate(lost) for _ in one["head"]]
    if not images:
        return {"words": 0}
    every = {name: torch.cat([one[name] for one in lost]) for name in lost[0]}

    def rounded(values: Tensor) -> list[float]:
        return [round(figure, 4) for figure in interval(values.tolist(), images)]

    found: dict[str, Any] = {"words": len(images)} | {name: rounded(every[name]) for name in LOSSES}
    found |= {name: [rounded(values) for values in every[name].T] for name in ("cross", "own")}
    found["needs"] = round((every["apart"] >= MUCH).float().mean().item(), 4)
    return found | {"loudest": _loudest(every["loudest"], every["unheard"])}


def _loudest(queries: Tensor, lost: Tensor) -> list[list[float]]:
    """[query, share of all words], for those that most words would miss by a nat or more."""
    counts = torch.bincount(queries[lost >= MUCH])
    order = counts.argsort(descending=True, stable=True)[:LOUD].tolist()
    return [[query, round(int(counts[query]) / len(queries), 4)] for query in order if counts[query]]


def _follows(followed: Sequence[Tensor]) -> dict[str, Any]:
    if not followed:
        return {"pairs": 0}
    talk, *cross = [round(share, 4) for share in torch.stack(list(followed)).float().mean(0).tolist()]
    return {"pairs": len(followed), "follows_talk": talk, "follows_cross": cross}


def table(found: Mapping[str, Any]) -> str:
    """What `measure` found, as two tables in Markdown: nats lost, and answers that follow."""
    lost = ["nats lost", "words", *LOSSES.values(), "strongest layer", "need the talk", "heard most"]
    layers = [f"cross-attention {layer}" for layer in found["cross_layers"]]
    follow = ["follows the other picture's", "pairs", "talk", *layers]
    asked = {f"“{question}”" if question else "the caption": one for question, one in found["asked"].items()}
    rows = [[name, *_lost_row(one, found["cross_layers"])] for name, one in asked.items() if one["words"]]
    pairs = [
        [name, str(one["pairs"]), *(f"{share:.0%}" for share in (one["follows_talk"], *one["follows_cross"]))]
        for name, one in asked.items()
        if one["pairs"]
    ]
    return f"{_markdown(lost, rows)}\n\n{_markdown(follow, pairs)}"


def _lost_row(one: Mapping[str, Any], cross_layers: Sequence[int]) -> list[str]:
    blocks = [(f"cross-attention {n}", each) for n, each in zip(cross_layers, one["cross"], strict=True)]
    blocks += [(f"self-attention {n}", each) for n, each in enumerate(one["own"])]
    name, most = max(blocks, key=lambda block: block[1][0])
    heard = ", ".join(f"{query:02d} ({share:.0%})" for query, share in one["loudest"])
    shown = [
        f"{mean:.2f} ({low:.2f} to {high:.2f})" for mean, low, high in (*(one[key] for key in LOSSES), most)
    ]
    return [str(one["words"]), *shown[:-1], f"{shown[-1]}, {name}", f"{one['needs']:.0%}", heard or "none"]


def _markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])
