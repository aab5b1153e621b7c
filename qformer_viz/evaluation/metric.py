"""What a metric of the benchmark is, and what it is given."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module

from torch import Tensor

from qformer_viz.evaluation import metrics
from qformer_viz.evaluation.faithfulness import Score, deletion_insertion

CERTAIN = 1.0
"""Nats by which a word must depend on the image before hiding patches says anything."""


@dataclass(frozen=True, eq=False)
class Trial:
    """One map of one word whose object is known.

    patches  [gh, gw] the map
    mask     bool [gh, gw], the object
    score    (keep bool [n, N]) -> [n] log-probability of the word with only those patches shown
    whole, blank  that with all patches, and with none
    redrawn  nats that the word loses when the strongest tenth of the map is rendered without any object
    """

    patches: Tensor
    mask: Tensor
    score: Score
    whole: float
    blank: float
    redrawn: float

    @cached_property
    def areas(self) -> tuple[float, float] | None:
        """(deletion, insertion); None where the image hardly matters to the word."""
        return deletion_insertion(self.patches, self.score) if self.whole - self.blank > CERTAIN else None


@dataclass(frozen=True)
class Metric:
    """One metric; a module of `qformer_viz.evaluation.metrics` defines it as `METRIC`.

    name     its key in results
    title    in tables; an arrow says which way is better
    measure  (trial) -> figure, or None where it says nothing
    order    its place in tables
    """

    name: str
    title: str
    measure: Callable[[Trial], float | None]
    order: int = 100


def load_metrics() -> dict[str, Metric]:
    """Every metric by name, in order."""
    names = [each.name for each in pkgutil.iter_modules(metrics.__path__)]
    found = [import_module(f"{metrics.__name__}.{name}").METRIC for name in names]
    return {metric.name: metric for metric in sorted(found, key=lambda each: (each.order, each.name))}
