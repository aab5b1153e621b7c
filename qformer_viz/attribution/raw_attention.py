"""Raw attention: a_t[q] · C[q, p], the language model's attention to the queries times theirs to the patches."""

from torch import Tensor

from qformer_viz.attribution.context import Case


def to_queries(case: Case) -> Tensor:
    """[t, q]: the language model's attention for every word to each query, as a share of that to all queries."""
    found = case.once("attention", case.scorer.attention)
    return found / found.sum(-1, keepdim=True)


def compute(case: Case) -> Tensor:
    return to_queries(case)[case.words, :, None] * case.looked()


def difference(case: Case) -> Tensor:
    """Less what the same words get when every query is the mean of other images: takes a sink out. Signed."""
    usual = case.once("usual attention", lambda: case.scorer.attention(case.baseline.to(case.scorer.queries)))
    return (to_queries(case) - usual / usual.sum(-1, keepdim=True))[case.words, :, None] * case.looked()
