"""Is a map true? Pure measures over a map and either a mask (plausibility) or a score function (faithfulness)."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from qformer_viz.errors import BadShape

FRACTIONS = (0.0, 0.01, 0.05, 0.1, 0.2, 0.5)


def dilate(mask: Tensor) -> Tensor:
    """A bool mask [gh, gw] grown by one cell in all eight directions."""
    return torch.nn.functional.max_pool2d(mask[None, None].float(), 3, 1, 1)[0, 0] > 0


def pointing(patches: Tensor, mask: Tensor) -> float:
    """Pointing game (Zhang et al. 2016) with one cell of tolerance: whether the peak of [gh, gw] lies in the mask.

    Ties count by their share, so an even map scores the area of the grown mask, which is chance.
    """
    _same(patches, mask)
    return dilate(mask)[patches == patches.max()].float().mean().item()


def lift(patches: Tensor, mask: Tensor) -> float:
    """`mass` over the mask's share of the area; 1 is chance."""
    return mass(patches, mask) / mask.float().mean().item()


def steps(patches: Tensor, fractions: Sequence[float] = FRACTIONS) -> Tensor:
    """[n, N] bool: the patches of greatest weight, as many as each fraction asks for. Ties keep their order."""
    order = patches.flatten().argsort(descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    return torch.stack([rank < round(fraction * len(order)) for fraction in fractions])


Score = Callable[[Tensor], Tensor]
"""score(keep [n, N] bool) -> [n], the log-probability of a word with only those patches shown."""


def curves(
    maps: Sequence[Tensor], score: Score, fractions: Sequence[float] = FRACTIONS
) -> list[tuple[Tensor, Tensor]]:
    """For every map (deletion [n], insertion [n]): log-probabilities with the greatest patches of each fraction hidden,
    and with only them shown. All passes of all maps are one call."""
    tops = [steps(patches, fractions) for patches in maps]
    values = score(torch.cat([rows for top in tops for rows in (~top, top)])).double()
    return [(both[0], both[1]) for both in values.view(len(maps), 2, len(fractions))]


def area(values: Tensor, whole: float, blank: float, fractions: Sequence[float] = FRACTIONS) -> float:
    """Mean height of a curve where the whole image is 1 and no patch 0."""
    along = torch.tensor(fractions, dtype=torch.float64)
    scaled = (values - blank) / (whole - blank)
    return (torch.trapezoid(scaled, along) / (along[-1] - along[0])).item()


def deletion_insertion(
    patches: Tensor, score: Score, fractions: Sequence[float] = FRACTIONS
) -> tuple[float, float]:
    """(deletion, insertion) areas (Petsiuk et al. 2018) over `fractions`: lower and higher are better."""
    whole, blank = score(
        torch.stack([torch.ones(patches.numel()), torch.zeros(patches.numel())]).bool()
    ).tolist()
    ((deleted, inserted),) = curves([patches], score, fractions)
    return area(deleted, whole, blank, fractions), area(inserted, whole, blank, fractions)


def mass(patches: Tensor, mask: Tensor) -> float:
    """Share of the positive weight inside the mask (energy pointing); 0 without positive weight."""
    _same(patches, mask)
    positive = patches.clamp_min(0)
    total = positive.sum()
    return 0.0 if total == 0 else (positive[mask].sum() / total).item()


def spearman(a: Tensor, b: Tensor) -> float:
    """Rank correlation of two maps of one shape; 0 where one of them is even, for it orders nothing."""
    from scipy.stats import spearmanr  # slow to import, and needed here only

    x, y = (each.flatten().double().numpy() for each in (a, b))
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(spearmanr(x, y).statistic)


def _same(patches: Tensor, mask: Tensor) -> None:
    if patches.shape != mask.shape or patches.dim() != 2 or not mask.any():
        raise BadShape(
            f"a map of shape {list(patches.shape)} and a mask of {list(mask.shape)} with {int(mask.sum())} cells",
            "both [gh, gw], the mask with at least one cell",
            "use attribution.patches[word] and a mask on the same grid",
        )
