"""Raw attention: a_t[q] · C[q, p], the language model's attention to the queries times theirs to the patches."""

from torch import Tensor

from .case import Case


def compute(case: Case) -> Tensor:
    to_queries = case.scorer.attention()
    return (to_queries / to_queries.sum(-1, keepdim=True))[..., None] * case.looked()
