"""Raw attention: a_t[q] · C[q, p], the language model's attention to the queries times theirs to the patches."""

from torch import Tensor

from qformer_viz.attribution.context import ExplanationContext
from qformer_viz.attribution.method import Method


def to_queries(context: ExplanationContext) -> Tensor:
    """[t, q]: the language model's attention for every word to each query, as a share of that to all queries."""
    found = context.cached("attention", context.scorer.attention)
    return found / found.sum(-1, keepdim=True)


def compute(context: ExplanationContext) -> Tensor:
    return to_queries(context)[context.words, :, None] * context.query_attention()


METHOD = Method(
    "raw",
    "Raw attention",
    compute,
    "of the attention",
    shows="The language model's attention to each query, times that query's attention to each patch.",
    hides="Attention is not use: the word may not depend on what was attended to. The first query may be a sink.",
    order=6,
)
