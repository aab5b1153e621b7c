"""Query knock-out: D_t[q] = y_t(Z) - y_t(Z with z_q replaced by its mean over other images); signed.

Replaced, never removed: the positions of all other tokens stay as they were.
"""

import torch
from torch import Tensor

from qformer_viz.attribution.context import ExplanationContext
from qformer_viz.attribution.method import Method


def ends(context: ExplanationContext) -> Tensor:
    """[2, t]: log-probability of every word as it was, and with no query saying anything of this image."""
    return context.cached("ends", lambda: context.scorer.score(_both(context)))


def effects(context: ExplanationContext) -> Tensor:
    """[t, q]: how many nats every word loses without each query. All passes, those of `ends` too, are one call of
    `score`, made once."""

    def compute() -> Tensor:
        rows = torch.cat([_both(context), replaced(context.scorer.queries, context.baseline)])
        scores = context.scorer.score(rows, on_progress=context.on_progress)
        context.cached("ends", lambda: scores[:2])
        return (scores[:1] - scores[2:]).T

    return context.cached("knock-out", compute)


def _both(context: ExplanationContext) -> Tensor:
    queries = context.scorer.queries
    return torch.cat([queries, context.baseline.to(queries)])


def replaced(queries: Tensor, baseline: Tensor, sets: Tensor | None = None) -> Tensor:
    """[n, q, d]: the queries with each set of them (bool [n, q]; None: each alone) replaced by the baseline."""
    if sets is None:
        sets = torch.eye(queries.shape[1], dtype=torch.bool)
    return torch.where(sets.to(queries.device)[..., None], baseline.to(queries), queries)


def compute(context: ExplanationContext) -> Tensor:
    return effects(context)[context.words, :, None] * context.query_attention()


METHOD = Method(
    "knockout",
    "Query knock-out",
    compute,
    "nats",
    shows="Each query is replaced by its average over other images. The bar shows how much less likely the word "
    "becomes; the map shows where that query attends.",
    hides="If two queries carry the same information, removing one changes nothing. A query may attend to a patch "
    "without using it.",
    order=1,
)
