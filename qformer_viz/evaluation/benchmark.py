"""The benchmark of truth: every method over words whose object is known, beside controls that prove the measures.

A word counts when it is certified: its log-probability falls by more than one nat when its object is re-rendered away,
and does not when another object is.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from qformer_viz.analysis.bootstrap import interval
from qformer_viz.attribution import METHODS
from qformer_viz.attribution.explanation import DEFAULT, attribute, prepare
from qformer_viz.attribution.methods.knockout import ends
from qformer_viz.attribution.methods.occlusion import shown
from qformer_viz.errors import BadSelection
from qformer_viz.evaluation.faithfulness import spearman, steps
from qformer_viz.evaluation.metric import CERTAIN, Trial, load_metrics
from qformer_viz.runtime.map_placement import box, of
from qformer_viz.types import VISUAL_GAIN

if TYPE_CHECKING:
    from PIL import Image

    from qformer_viz.attribution.scorer import Scorer
    from qformer_viz.runtime.pipeline import Pipeline

REDRAWN = 0.1
FUNCTION_WORDS = frozenset(("a", "an", "the", "and", "of", ","))
METRICS = load_metrics()
MEASURES = {name: metric.title for name, metric in METRICS.items()}


@dataclass(frozen=True, eq=False)
class Truth:
    """One scene: the image; for each noun that it shows once, its mask [gh, gw] and the image without it; and the image
    without any object."""

    image: Image.Image
    masks: dict[str, Tensor]
    without: dict[str, Image.Image]
    empty: Image.Image


@dataclass
class Result:
    """rows: {map: {measure: one figure a certified word}}; images: the scene of each word, by number; `likeness`:
    Spearman correlation of the default maps of two words of one scene; `gains`: visual gain of every function word, by
    word; `seconds` of every method a scene."""

    rows: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    images: dict[str, list[int]] = field(default_factory=dict)
    likeness: list[float] = field(default_factory=list)
    gains: dict[str, list[float]] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def add(self, number: int, title: str, figures: dict[str, float]) -> None:
        for measure, figure in figures.items():
            self.rows.setdefault(title, {}).setdefault(measure, []).append(figure)
            self.images.setdefault(measure, [])
            if title == next(iter(self.rows)):
                self.images[measure].append(number)


def run(pipe: Pipeline, truths: Iterable[Truth], methods: Sequence[str] | None = None) -> Result:
    """Rows are methods (None: all) with the layer they read, then controls."""
    result = Result()
    rng = torch.Generator().manual_seed(0)
    for number, truth in enumerate(truths):
        encoded = pipe.encode(truth.image)
        placement = of(encoded)
        if placement is not None and box(placement):
            raise BadSelection(
                f"a model that is shown another part than the whole of a scene ({placement.notice})",
                "one whose image processor squashes the picture, for the masks of objects lie on its whole",
                "choose another checkpoint",
            )
        answer = pipe.caption(encoded)
        if not answer.token_ids:
            continue
        context = prepare(pipe, encoded, answer)
        certified = dict(_certified(pipe, context.scorer, truth))
        image_gain = ends(context)[0] - ends(context)[1]
        for word, gain in zip(context.scorer.words, image_gain.tolist(), strict=True):
            if word in FUNCTION_WORDS:
                result.gains.setdefault(word, []).append(gain)
        if not certified:
            continue
        found: dict[str, Tensor] = {}
        for name in METHODS if methods is None else methods:
            method, began = METHODS[name], time.perf_counter()
            for layer in ("mean", None) if method.layered else (None,):
                each = attribute(context, name, layer, list(certified))
                title = method.title + (f", {_layer(each.layer)}" if method.layered else "")
                found[title] = each.patches
                if name == DEFAULT and layer is None:
                    result.likeness += [spearman(a, b) for a, b in combinations(each.patches, 2)]
            result.seconds.setdefault(method.title, []).append(time.perf_counter() - began)
        for row, (index, noun) in enumerate(certified.items()):
            maps = {title: patches[row] for title, patches in found.items()}
            maps |= controls(truth.masks[noun], rng)
            for title, figures in _measured(pipe, context.scorer, truth, index, noun, maps):
                result.add(number, title, figures)
    return result


def controls(mask: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
    """Maps that know nothing, and the planted truth with its inverse."""
    rows, columns = mask.shape
    y, x = torch.linspace(-1, 1, rows)[:, None], torch.linspace(-1, 1, columns)
    return {
        "control: even": torch.ones(mask.shape),
        "control: random": torch.rand(mask.shape, generator=rng),
        "control: centre": torch.exp(-(x**2 + y**2)),
        "control: the true mask": mask.float(),
        "control: the true mask and its rim": _blurred(mask.float()),
        "control: its inverse": 1 - mask.float(),
    }


def _blurred(mask: Tensor, sigma: float = 0.6) -> Tensor:
    """The mask with soft edges: it ranks the cells inside an object, and those beside it, which know of it too."""
    from scipy.ndimage import gaussian_filter  # slow to import, and needed here only

    return torch.from_numpy(gaussian_filter(mask.numpy(), sigma, mode="constant", radius=2))


def _layer(layer: Any) -> str:
    return "mean of layers" if layer == "mean" else f"layer {layer}"


def _certified(pipe: Pipeline, scorer: Scorer, truth: Truth) -> Iterator[tuple[int, str]]:
    nouns = list(truth.without)
    queries = torch.cat([scorer.queries, *(pipe.encode(truth.without[noun]).queries for noun in nouns)])
    scores = scorer.score(queries)
    for index, noun in enumerate(nouns):
        if scorer.words.count(noun) != 1:
            continue
        word = scorer.words.index(noun)
        fall = scores[0, word] - scores[1:, word]
        others = [fall[other].item() for other in range(len(nouns)) if other != index]
        if fall[index] > CERTAIN and all(other <= CERTAIN for other in others):
            yield word, noun


def _measured(
    pipe: Pipeline, scorer: Scorer, truth: Truth, word: int, noun: str, maps: dict[str, Tensor]
) -> Iterator[tuple[str, dict[str, float]]]:
    def score(keep: Tensor) -> Tensor:
        return shown(scorer, keep[:, None])[:, word]

    redrawn = [
        pipe.encode(_redraw(truth, steps(patches, (REDRAWN,))[0].view_as(patches))).queries
        for patches in maps.values()
    ]
    scores = scorer.score(torch.cat([scorer.queries, *redrawn]))[:, word]
    blank, whole = score(torch.tensor([[False], [True]]).expand(-1, truth.masks[noun].numel()))
    for (title, patches), after in zip(maps.items(), scores[1:], strict=True):
        trial = Trial(
            patches, truth.masks[noun], score, whole.item(), blank.item(), (scores[0] - after).item()
        )
        measured = {name: metric.measure(trial) for name, metric in METRICS.items()}
        figures = {name: figure for name, figure in measured.items() if figure is not None}
        yield title, figures


def _redraw(truth: Truth, cells: Tensor) -> Image.Image:
    """The image with these cells as they look without any object."""
    from PIL import Image

    size = truth.image.size
    mask = Image.fromarray(cells.numpy().astype(np.uint8) * 255).resize(size, Image.Resampling.NEAREST)
    return Image.composite(truth.empty, truth.image, mask)


def summary(result: Result) -> dict[str, dict[str, tuple[float, float, float]]]:
    """{map: {measure: (mean, low, high)}}, intervals over images."""
    return {
        title: {measure: interval(figures[measure], result.images[measure]) for measure in MEASURES}
        for title, figures in result.rows.items()
    }


def table(result: Result) -> str:
    """The rows as Markdown, every figure with its interval."""
    lines = ["| map | " + " | ".join(MEASURES.values()) + " |", "|---" * (len(MEASURES) + 1) + "|"]
    for title, figures in summary(result).items():
        cells = ["{:.3f} ({:.2f} to {:.2f})".format(*figures[measure]) for measure in MEASURES]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def facts(result: Result) -> str:
    """Negative controls and times, a line each. Function words that foretell a noun or a number hang on the image."""
    lines = []
    for word, image_gain in sorted(result.gains.items()):
        none = np.mean(np.asarray(image_gain) < VISUAL_GAIN)
        lines.append(
            f"“{word}”, {len(image_gain)} times: {none:.1%} get no map; visual gain {np.mean(image_gain):.2f} nats."
        )
    if result.likeness:
        mean, low, high = interval(result.likeness)
        lines.append(
            f"Maps of two words of one scene ({METHODS[DEFAULT].title}) correlate at {mean:.2f} ({low:.2f} to "
            f"{high:.2f}), Spearman; equal maps would give 1."
        )
    lines += [f"{title}: {np.median(each):.2f} s a scene, median." for title, each in result.seconds.items()]
    return "\n".join(lines)
