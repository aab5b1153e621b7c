"""Patch occlusion: what a word loses when the Q-Former cannot attend to a patch. The ViT does not run again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qformer_viz.attribution.context import ExplanationContext
from qformer_viz.attribution.method import Method

if TYPE_CHECKING:
    from qformer_viz.attribution.scorer import Scorer


def shown(scorer: Scorer, keep: Tensor, on_progress: Callable[[int, int], object] | None = None) -> Tensor:
    """[n, t]: log-probabilities with only the patches in `keep` [n, f, N] as keys; CLS stays."""
    return scorer.shown(
        torch.cat([torch.ones(*keep.shape[:2], 1, dtype=torch.bool), keep], 2), on_progress=on_progress
    )


def compute(context: ExplanationContext) -> Tensor:
    """[t, f, N]: the patches of every frame hidden one by one."""
    count = context.frames * (context.capture.cross_attention.shape[-1] - 1)
    keep = torch.cat([torch.ones(1, count, dtype=torch.bool), ~torch.eye(count, dtype=torch.bool)])
    keep = keep.unflatten(1, (context.frames, -1))
    scores = context.cached("occlusion", lambda: shown(context.scorer, keep, context.on_progress))
    return (scores[:1] - scores[1:]).T[context.words].unflatten(1, (context.frames, -1))


METHOD = Method(
    "occlusion",
    "Patch occlusion",
    compute,
    "nats",
    shows="How much less likely the word becomes when the queries cannot attend to a patch.",
    hides="The ViT has already spread a patch over its neighbours and CLS, and an object is never hidden as a whole.",
    order=4,
    layered=False,
    slow=True,
)
