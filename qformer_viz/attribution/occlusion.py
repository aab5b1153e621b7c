"""Patch occlusion: what a word loses when the Q-Former cannot attend to a patch. The ViT does not run again."""

import torch
from torch import Tensor

from .case import Case

BLOCK = 64


def shown(case: Case, keep: Tensor) -> Tensor:
    """[n, t]: log-probabilities with only the patches in `keep` [n, N] as keys; CLS stays. Told in blocks."""
    keep = torch.cat([torch.ones(len(keep), 1, dtype=torch.bool), keep], 1)
    found = []
    for part in keep.split(BLOCK):
        found.append(case.scorer.score(case.scorer.requery(part)))
        case.told(sum(map(len, found)), len(keep))
    return torch.cat(found)


def compute(case: Case) -> Tensor:
    """[t, 1, N]."""
    count = case.capture.cross_attention.shape[-1] - 1
    keep = torch.cat([torch.ones(1, count, dtype=torch.bool), ~torch.eye(count, dtype=torch.bool)])
    scores = case.once("occlusion", lambda: shown(case, keep))
    return (scores[:1] - scores[1:]).T[case.words, None]
