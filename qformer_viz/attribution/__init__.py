"""Methods that say which queries and patches a word came from, one in a file of its own.

A method is a callable `(context) -> scores [t, f·q, N]`, a row for each of `context.words`, frame by frame for a film (f is 1
for a picture): `q` is 1 where it judges patches without going through single queries; N patches without CLS. It may
return `(scores, note)`, the note for the reader.
`METHODS` is what the app, the benchmark and `explain` offer; to add one, put it there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qformer_viz.attribution import (
    gradient,
    integrated_gradients,
    knockout,
    norm_based,
    occlusion,
    raw_attention,
    rise,
    rollout,
)
from qformer_viz.attribution.context import ExplanationContext

__all__ = ["METHODS", "ExplanationContext", "Method"]


@dataclass(frozen=True)
class Method:
    """compute(case) -> [t, f·q or f, N], or that and a note; `unit` of the weights; `shows` and `hides` are one
    sentence each; `layered`: whether the weights depend on the cross-attention layer chosen; `slow`: run only when
    asked for; `single`: every word costs work of its own."""

    name: str
    title: str
    compute: Callable[[ExplanationContext], Any]
    unit: str
    shows: str
    hides: str
    layered: bool = True
    slow: bool = False
    single: bool = False


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
            "gradient",
            "Gradient × attention",
            gradient.compute,
            "nats, to first order",
            "How the word hangs on each query by its slope, and on each patch by the attention that the slope favours.",
            "A slope holds for small changes: where the word is certain it is flat, whatever the query says.",
            layered=False,
            slow=True,
            single=True,
        ),
        Method(
            "integrated",
            "Integrated gradients",
            integrated_gradients.compute,
            "nats",
            "What each patch adds on the way from the average image to this one; all shares add up to the whole.",
            "The images on that way are none that the model was made for, and noise adds up too.",
            layered=False,
            slow=True,
            single=True,
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
            "rise",
            "RISE",
            rise.compute,
            "nats",
            "How much better the word does with a patch in sight than without, over random hidings of half the image.",
            "Coarse and noisy: neighbours share one another's weight.",
            layered=False,
            slow=True,
        ),
        Method(
            "raw",
            "Raw attention",
            raw_attention.compute,
            "of the attention",
            "Where the language model looked among the queries, and where those looked in the image.",
            "Attention is not use: what was looked at need not have changed the word. The first query may be a sink.",
        ),
        Method(
            "difference",
            "Raw attention, less the usual",
            raw_attention.difference,
            "of the attention",
            "Raw attention less what the same word pays to queries that say what they say of any image.",
            "Attention is still not use; only what every image gets is taken out.",
        ),
        Method(
            "valued",
            "Value-weighted attention",
            norm_based.compute,
            "of the attention",
            "Raw attention where a patch counts by the length of what it hands over, not by being looked at alone.",
            "Long vectors may cancel one another or say nothing that matters to the word.",
        ),
        Method(
            "rollout",
            "Attention rollout",
            rollout.compute,
            "of the attention",
            "Raw attention followed back through all layers, for the queries also read one another.",
            "It blurs: after some layers the queries' maps grow alike, whatever they use.",
            layered=False,
        ),
    )
}
