"""Patch occlusion: what a word loses when the Q-Former cannot attend to a patch. The ViT does not run again."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .case import Case


def shown(scorer: Any, keep: Tensor, told: Callable[[int, int], Any] | None = None) -> Tensor:
    """[n, t]: log-probabilities with only the patches in `keep` [n, N] as keys; CLS stays."""
    return scorer.shown(torch.cat([torch.ones(len(keep), 1, dtype=torch.bool), keep], 1), told)


def compute(case: Case) -> Tensor:
    """[t, 1, N]."""
    count = case.capture.cross_attention.shape[-1] - 1
    keep = torch.cat([torch.ones(1, count, dtype=torch.bool), ~torch.eye(count, dtype=torch.bool)])
    scores = case.once("occlusion", lambda: shown(case.scorer, keep, case.told))
    return (scores[:1] - scores[1:]).T[case.words, None]
