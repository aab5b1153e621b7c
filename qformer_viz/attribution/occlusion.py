"""Patch occlusion: what a word loses when the Q-Former cannot attend to a patch. The ViT does not run again."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from qformer_viz.attribution.context import Case


def shown(scorer: Any, keep: Tensor, told: Callable[[int, int], Any] | None = None) -> Tensor:
    """[n, t]: log-probabilities with only the patches in `keep` [n, f, N] as keys; CLS stays."""
    return scorer.shown(torch.cat([torch.ones(*keep.shape[:2], 1, dtype=torch.bool), keep], 2), told)


def compute(case: Case) -> Tensor:
    """[t, f, N]: the patches of every frame hidden one by one."""
    count = case.frames * (case.capture.cross_attention.shape[-1] - 1)
    keep = torch.cat([torch.ones(1, count, dtype=torch.bool), ~torch.eye(count, dtype=torch.bool)])
    keep = keep.unflatten(1, (case.frames, -1))
    scores = case.once("occlusion", lambda: shown(case.scorer, keep, case.told))
    return (scores[:1] - scores[1:]).T[case.words].unflatten(1, (case.frames, -1))
