"""Query knock-out: D_t[q] = y_t(Z) - y_t(Z with z_q replaced by its mean over other images); signed.

Replaced, never removed: the positions of all other tokens stay as they were.
"""

import torch
from torch import Tensor

from qformer_viz.attribution.context import ExplanationContext


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
