"""Methods that say which queries and patches a word came from, one in a file of its own.

A method is a callable `(case) -> scores [t, q, N]`: `q` is 1 where it judges patches without going through single
queries; N patches without CLS. `METHODS` is what the app, the benchmark and `explain` offer; to add one, put it there.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from . import knockout, occlusion, raw
from .case import Case

__all__ = ["METHODS", "Case", "Method"]


@dataclass(frozen=True)
class Method:
    """compute(case) -> [t, q or 1, N]; `unit` of the weights; `shows` and `hides` are one sentence each; `layered`:
    whether the weights depend on the cross-attention layer chosen; `slow`: run only when asked for."""

    name: str
    title: str
    compute: Callable[[Case], Tensor]
    unit: str
    shows: str
    hides: str
    layered: bool = True
    slow: bool = False


METHODS = {
    method.name: method
    for method in (
        Method(
            "knockout",
            "Query knock-out",
            knockout.compute,
            "nats",
            "How much less probable the word becomes when a query says what it says of any image; patches are where "
            "that query looked.",
            "Queries that say the same hide one another, and a query may look at a patch without using it.",
        ),
        Method(
            "occlusion",
            "Patch occlusion",
            occlusion.compute,
            "nats",
            "How much less probable the word becomes when the queries cannot look at a patch.",
            "The ViT has already spread what a patch holds over its neighbours and CLS, and the whole of an object "
            "is never hidden at once.",
            layered=False,
            slow=True,
        ),
        Method(
            "raw",
            "Raw attention",
            raw.compute,
            "of the attention",
            "Where the language model looked among the queries, and where those looked in the image.",
            "Attention is not use: what was looked at need not have changed the word. The first query may be a sink.",
        ),
    )
}
