"""What a precision changes: two pipelines of one model on the same images, maps and words compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qformer_viz.attention_maps import js_divergence, patches
from qformer_viz.attribution.explanation import captured
from qformer_viz.errors import BadShape

if TYPE_CHECKING:
    from qformer_viz.runtime.pipeline import Pipeline
    from qformer_viz.types import Answer, AnyImage, EncodedImage


@dataclass(frozen=True, eq=False)
class PrecisionComparison:
    """Over `images`: divergence [l, h], mean Jensen-Shannon divergence in bits (0 equal, 1 disjoint) of the patch maps
    of every query; `peaks` [l, h], share of queries whose strongest patch is the same; `captions` and `answers`, share
    of texts that are the same; `nats` [n], change in log-probability of every word that the first one said, when the
    second has to say it; cross_layers, the layer numbers of l."""

    images: int
    divergence: Tensor
    peaks: Tensor
    captions: float
    answers: float | None
    nats: Tensor
    cross_layers: tuple[int, ...]


def map_divergence(a: Tensor, b: Tensor) -> Tensor:
    """Jensen-Shannon divergence in bits of maps [..., N], one by one: [...]."""
    if a.shape != b.shape:
        raise BadShape(
            f"maps of shape {list(b.shape)}", f"{list(a.shape)}", "compare precisions of one model"
        )
    return js_divergence(a, b)


def compare_precisions(
    first: Pipeline,
    second: Pipeline,
    images: Iterable[AnyImage],
    question: str = "",
    on_progress: Callable[[int], object] = lambda done: None,
) -> PrecisionComparison:
    """Two pipelines (`qformer_viz.load(..., observe=qformer_viz.capture)`) on the same images; the first is the
    reference.

    question: asked of every image besides the caption; "" for none. on_progress(done): after every image.
    """
    from qformer_viz.attribution.scorer import make_scorer

    divergence: list[Tensor] = []
    peaks: list[Tensor] = []
    nats: list[Tensor] = []
    captions: list[bool] = []
    answers: list[bool] = []
    layers: tuple[int, ...] = ()
    for done, image in enumerate(images, 1):
        seen = [pipe.encode(image) for pipe in (first, second)]
        captures = [captured(each) for each in seen]
        maps = [patches(each.cross_attention[:, 0]) for each in captures]
        layers = captures[0].cross_layers
        divergence.append(map_divergence(*maps).mean(-1))
        peaks.append((maps[0].argmax(-1) == maps[1].argmax(-1)).double().mean(-1))
        for asked, texts in (("", captions), (question, answers)):
            if texts is answers and not question:
                continue
            said = [_say(pipe, each, image, asked) for pipe, each in zip((first, second), seen, strict=True)]
            texts.append(said[0][1].text == said[1][1].text)
            if said[0][1].token_ids:
                scores = [
                    make_scorer(pipe, encoded, said[0][1]).score(encoded.queries)[0]
                    for pipe, (encoded, _) in zip((first, second), said, strict=True)
                ]
                nats.append(scores[1] - scores[0])
        on_progress(done)
    return PrecisionComparison(
        images=len(captions),
        divergence=torch.stack(divergence).mean(0),
        peaks=torch.stack(peaks).mean(0),
        captions=sum(captions) / len(captions),
        answers=sum(answers) / len(answers) if answers else None,
        nats=torch.cat(nats) if nats else torch.zeros(0),
        cross_layers=layers,
    )


def _say(
    pipe: Pipeline, encoded: EncodedImage, image: AnyImage, question: str
) -> tuple[EncodedImage, Answer]:
    """(the image as this question's Q-Former pass sees it, the answer)."""
    if not question:
        return encoded, pipe.caption(encoded)
    encoded = pipe.encode(image, question)
    return encoded, pipe.ask(encoded, question)


def rows(found: PrecisionComparison) -> list[tuple[str, str, str]]:
    """(name, value, what it means) for a table."""
    worst = divmod(int(found.divergence.argmax()), found.divergence.shape[1])
    rows = [
        (
            "Maps",
            f"{found.divergence.mean():.2g}",
            "bits of Jensen-Shannon divergence, mean over queries, heads, layers (0 equal, 1 disjoint)",
        ),
        (
            "Worst head",
            f"{found.divergence.max():.2g}",
            f"bits, layer {found.cross_layers[worst[0]]}, head {worst[1]}",
        ),
        ("Strongest patches", f"{found.peaks.mean():.1%}", "of queries and heads have the same one"),
        ("Captions", f"{found.captions:.0%}", f"of {found.images} are the same, word for word"),
    ]
    if found.answers is not None:
        rows.append(("Answers", f"{found.answers:.0%}", f"of {found.images} are the same"))
    if len(found.nats):
        rows.append(
            (
                "Words",
                f"{found.nats.abs().mean():.2g}",
                f"nats of change in log-probability, mean over {len(found.nats)} words of the first; mean with sign "
                f"{found.nats.mean():+.2g}, greatest {found.nats.abs().max():.2g}",
            )
        )
    return rows


def table(found: PrecisionComparison) -> str:
    """The rows, and divergence by layer, as Markdown."""
    lines = ["| | | |", "|---|---|---|"]
    lines += [f"| {name} | {value} | {meaning} |" for name, value, meaning in rows(found)]
    lines += ["", "| layer | divergence, bits | same strongest patch |", "|---|---|---|"]
    for layer, bits, share in zip(
        found.cross_layers, found.divergence.mean(1), found.peaks.mean(1), strict=True
    ):
        lines.append(f"| {layer} | {bits:.2g} | {share:.1%} |")
    return "\n".join(lines)
