"""Hiding patches from the Q-Former during stage 1. An experiment: BLIP-2 hides none."""

import numpy as np
import torch

from model.stage_vit import GRID
from qformer_viz.domains.emoji.scenes import Scene, patch_labels, render

KINDS = ("none", "random", "block", "attention", "semantic")
SHARE = 0.3


def keep(
    kind: str, scenes: list[Scene], attended: torch.Tensor | None, rng: np.random.Generator
) -> torch.Tensor:
    """Which image tokens may be read, int `[b, 1 + patches]`; CLS always.

    random: 30 % of the patches are hidden, wherever they are; block: a rectangle of that area; attention: the 30 % most
    attended ones, `attended` `[b, patches]`; semantic: all patches of one object, by its true mask, if it has company.
    """
    hidden = np.zeros((len(scenes), GRID * GRID), bool)
    count = round(SHARE * GRID * GRID)
    for row, scene in zip(hidden, scenes, strict=True):
        if kind == "random":
            row[rng.choice(len(row), count, replace=False)] = True
        elif kind == "block":
            height = int(rng.integers(round(count / GRID), GRID + 1))
            width = min(GRID, round(count / height))
            top, left = (int(rng.integers(0, GRID - side + 1)) for side in (height, width))
            row.reshape(GRID, GRID)[top : top + height, left : left + width] = True
        elif kind == "semantic" and len(scene.objects) > 1:
            row[patch_labels(render(scene)).ravel() == rng.integers(len(scene.objects))] = True
    kept = torch.from_numpy(~hidden)
    if kind == "attention":
        assert attended is not None, "this kind needs the attention"
        kept = torch.ones(len(scenes), GRID * GRID, dtype=torch.bool)
        kept.scatter_(1, attended.cpu().topk(count, 1).indices, False)
    elif kind not in KINDS:
        raise ValueError(f"unknown masking {kind!r}; choose from {', '.join(KINDS)}")
    return torch.nn.functional.pad(kept, (1, 0), value=True).long()
