"""Is a map true? Pure measures over a map and either a mask (plausibility) or a score function (faithfulness)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .errors import BadShape

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
    """Share of the positive weight inside the mask over the mask's share of the area; 1 is chance, 0 without weight."""
    _same(patches, mask)
    positive = patches.clamp_min(0)
    total = positive.sum()
    if total == 0:
        return 0.0
    return (positive[mask].sum() / total / mask.float().mean()).item()


def steps(patches: Tensor, fractions: Sequence[float] = FRACTIONS) -> Tensor:
    """[n, N] bool: the patches of greatest weight, as many as each fraction asks for. Ties keep their order."""
    order = patches.flatten().argsort(descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    return torch.stack([rank < round(fraction * len(order)) for fraction in fractions])


def deletion_insertion(
    patches: Tensor, score: Callable[[Tensor], Tensor], fractions: Sequence[float] = FRACTIONS
) -> tuple[float, float]:
    """(deletion, insertion) areas (Petsiuk et al. 2018): lower and higher are better.

    score(keep [n, N] bool) -> [n], the log-probability of the word with only those patches shown. It is scaled so that
    the whole image is 1 and no patch 0; areas are taken over `fractions` and divided by their range.
    """
    top = steps(patches, fractions)
    ends = torch.stack([torch.ones_like(top[0]), torch.zeros_like(top[0])])
    values = score(torch.cat([ends, ~top, top])).double()
    scaled = (values[2:] - values[1]) / (values[0] - values[1])
    along = torch.tensor(fractions, dtype=torch.float64)
    areas = torch.trapezoid(scaled.unflatten(0, (2, -1)), along) / (along[-1] - along[0])
    return areas[0].item(), areas[1].item()


def _same(patches: Tensor, mask: Tensor) -> None:
    if patches.shape != mask.shape or patches.dim() != 2 or not mask.any():
        raise BadShape(
            f"a map of shape {list(patches.shape)} and a mask of {list(mask.shape)} with {int(mask.sum())} cells",
            "both [gh, gw], the mask with at least one cell",
            "use attribution.patches[word] and a mask on the same grid",
        )
