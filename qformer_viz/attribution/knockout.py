"""Query knock-out: D_t[q] = y_t(Z) - y_t(Z with z_q replaced by its mean over other images); signed.

Replaced, never removed: the positions of all other tokens stay as they were.
"""

import torch
from torch import Tensor

from .case import Case


def effects(case: Case) -> Tensor:
    """[t, q]: how many nats every word loses without each query. All passes are one call of `score`, made once."""

    def compute() -> Tensor:
        queries = case.scorer.queries
        scores = case.scorer.score(torch.cat([queries, replaced(queries, case.baseline)]), case.told)
        return (scores[:1] - scores[1:]).T

    return case.once("knock-out", compute)


def replaced(queries: Tensor, baseline: Tensor, sets: Tensor | None = None) -> Tensor:
    """[n, q, d]: the queries with each set of them (bool [n, q]; None: each alone) replaced by the baseline."""
    if sets is None:
        sets = torch.eye(queries.shape[1], dtype=torch.bool)
    return torch.where(sets.to(queries.device)[..., None], baseline.to(queries), queries)


def compute(case: Case) -> Tensor:
    return effects(case)[case.words, :, None] * case.looked()
