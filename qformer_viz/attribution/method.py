"""What a method of attribution is."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from qformer_viz.attribution.context import ExplanationContext

Scores = Tensor | tuple[Tensor, str]


@dataclass(frozen=True)
class Method:
    """One method; a module of `qformer_viz.attribution.methods` defines it as `METHOD`.

    name     its key in `qformer_viz.METHODS`
    title    on the page
    compute  (context) -> scores [t, f·q, N] for `context.words`, or [t, f, N] where it judges patches without going
             through single queries; or (scores, a note for the reader). f frames (1 for a picture), N patches
             without CLS
    unit     of the scores
    shows    what the map shows, in one or two sentences
    hides    what it cannot show
    order    its place in lists
    layered  whether the scores depend on the cross-attention layer that is chosen
    slow     whether it runs only when asked for
    single   whether every word costs work of its own
    """

    name: str
    title: str
    compute: Callable[[ExplanationContext], Scores]
    unit: str
    shows: str
    hides: str
    order: int = 100
    layered: bool = True
    slow: bool = False
    single: bool = False
