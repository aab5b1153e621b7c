"""Raw attention: a_t[q] · C[q, p], the language model's attention to the queries times theirs to the patches."""

from torch import Tensor

from qformer_viz.attribution.context import ExplanationContext


def to_queries(context: ExplanationContext) -> Tensor:
    """[t, q]: the language model's attention for every word to each query, as a share of that to all queries."""
    found = context.cached("attention", context.scorer.attention)
    return found / found.sum(-1, keepdim=True)


def compute(context: ExplanationContext) -> Tensor:
    return to_queries(context)[context.words, :, None] * context.query_attention()


def difference(context: ExplanationContext) -> Tensor:
    """Less what the same words get when every query is the mean of other images: takes a sink out. Signed."""
    reference = context.cached(
        "usual attention", lambda: context.scorer.attention(context.baseline.to(context.scorer.queries))
    )
    return (to_queries(context) - reference / reference.sum(-1, keepdim=True))[
        context.words, :, None
    ] * context.query_attention()
