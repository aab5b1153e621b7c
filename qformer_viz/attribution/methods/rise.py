"""RISE (Petsiuk et al. 2018): hide random parts of the image and see with which patches shown a word does better.

Masks are random grids of coarse cells, shifted at random, as keys of the Q-Former. A patch's weight is the mean
log-probability with the patch shown less that with it hidden, so its unit is nats.
"""

import torch
from torch import Tensor

from qformer_viz.attribution.context import ExplanationContext
from qformer_viz.attribution.method import Method
from qformer_viz.attribution.methods.occlusion import shown

MASKS, CELLS, SEED = 512, 6, 0


def masks(count: int, grid: tuple[int, int], rng: torch.Generator, cells: int = CELLS) -> Tensor:
    """bool [count, N]: each coarse cell is shown with probability one half."""
    rows, columns = grid
    height, width = -(-rows // cells), -(-columns // cells)
    coarse = torch.rand(count, cells + 1, cells + 1, generator=rng) < 0.5
    fine = coarse.repeat_interleave(height, 1).repeat_interleave(width, 2)
    down = torch.randint(height, (count,), generator=rng)
    right = torch.randint(width, (count,), generator=rng)
    shifted = [
        fine[i, d : d + rows, r : r + columns] for i, (d, r) in enumerate(zip(down, right, strict=True))
    ]
    return torch.stack(shifted).flatten(1)


def weigh(keep: Tensor, scores: Tensor) -> Tensor:
    """[t, ...] of masks [n, ...] and scores [n, t]: mean score with the patch shown less mean score with it hidden."""
    on, off = keep.flatten(1).float(), (~keep).flatten(1).float()
    mean_on, mean_off = ((scores.T @ each) / each.sum(0).clamp_min(1) for each in (on, off))
    return (mean_on - mean_off).unflatten(1, keep.shape[1:])


def compute(context: ExplanationContext) -> Tensor:
    """[t, f, N]; every frame of a film is hidden by masks of its own."""

    def run() -> Tensor:
        rng = torch.Generator().manual_seed(SEED)
        keep = torch.stack([masks(MASKS, context.capture.grid, rng) for _ in range(context.frames)], 1)
        return weigh(keep, shown(context.scorer, keep, context.on_progress))

    return context.cached("rise", run)[context.words]


METHOD = Method(
    "rise",
    "RISE",
    compute,
    "nats",
    shows="How much likelier the word is with a patch shown than hidden, over random halves of the image.",
    hides="Coarse and noisy: neighbouring patches share their weight.",
    order=5,
    layered=False,
    slow=True,
)
