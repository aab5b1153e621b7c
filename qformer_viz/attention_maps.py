"""Describing attention maps: pure functions from tensor to tensor.

A "cross" map has the image tokens last, CLS first: [..., p]. A "P" map is its patch part as a probability
over the N = gh gw patches: [..., N]; `patches` is the only place where one becomes the other.
"""

import math

import torch
from torch import Tensor

from qformer_viz.errors import BadSelection, BadShape, BadValues


def select(cross: Tensor, layer: int | None = None, head: int | None = None) -> Tensor:
    """One view of all maps: [l, b, h, q, p] -> [b, q, p].

    layer: index along l, or None for the mean. head: index along h, or None for the mean. Means of
    probabilities, so rows still sum to one. Never the maximum over heads, which is not a probability.
    """
    if cross.dim() != 5:
        shape = list(cross.shape)
        raise BadShape(f"maps of shape {shape}", "[l, b, h, q, p]", "pass capture.cross_attention")
    cross = cross.mean(0) if layer is None else cross[_index(layer, cross.shape[0], "layer")]
    return cross.mean(1) if head is None else cross[:, _index(head, cross.shape[1], "head")].clone()


def cls_share(cross: Tensor) -> Tensor:
    """Share of the attention that falls on CLS: [..., p] -> [...] in 0..1."""
    return _cross(cross)[..., 0].clone()


def patches(cross: Tensor) -> Tensor:
    """The patch part as a probability: [..., p] -> [..., p - 1], each row summing to one.

    Show `cls_share` beside it: the division hides how little attention the patches got. A row that lies on
    CLS entirely has no preference among patches and comes out even.
    """
    part = _cross(cross)[..., 1:]
    total = part.sum(-1, keepdim=True)
    even = torch.full_like(part, 1 / part.shape[-1])
    # Below the smallest normal number the quotient has lost its digits.
    return torch.where(total < torch.finfo(part.dtype).tiny, even, part / total)


def entropy(P: Tensor) -> Tensor:
    """Shannon entropy in nats: [..., N] -> [...] in 0..log N."""
    return torch.special.entr(_probability(P)).sum(-1).clamp(0, math.log(P.shape[-1]))


def effective_patches(P: Tensor) -> Tensor:
    """exp(entropy): [..., N] -> [...] in 1..N. A map that is even over k patches gives k (Hill number of
    order 1; Hill 1973)."""
    return entropy(P).exp()


def focus(P: Tensor) -> Tensor:
    """1 - entropy / log N: [..., N] -> [...]; 0 for an even map, 1 for a single patch."""
    if P.shape[-1] < 2:
        raise BadShape("one patch", "at least two", "focus has no meaning on a grid of one patch")
    return 1 - entropy(P) / math.log(P.shape[-1])


def centre_of_mass(P: Tensor, grid: tuple[int, int]) -> Tensor:
    """Mean patch centre: [..., N] -> [..., 2] as (x, y), fractions of the image's width and height from the
    top left corner."""
    rows, columns = grid
    if P.shape[-1] != rows * columns:
        raise BadShape(
            f"maps over {P.shape[-1]} patches", f"{rows} × {columns} = {rows * columns}", "pass capture.grid"
        )
    maps = _probability(P).unflatten(-1, (rows, columns))
    y = (torch.arange(rows, dtype=P.dtype, device=P.device) + 0.5) / rows
    x = (torch.arange(columns, dtype=P.dtype, device=P.device) + 0.5) / columns
    return torch.stack([(maps.sum(-2) * x).sum(-1), (maps.sum(-1) * y).sum(-1)], -1)


def js_distance(P: Tensor) -> Tensor:
    """Jensen-Shannon distance between all pairs of maps: [..., q, N] -> [..., q, q] in 0..1.

    Square root of the divergence to base 2, which makes it a metric (Endres and Schindelin 2003): 0 for equal
    maps, 1 for disjoint ones.
    """
    maps = _probability(P).double()
    return js_divergence(maps.unsqueeze(-2), maps.unsqueeze(-3)).sqrt().to(P.dtype)


def js_divergence(a: Tensor, b: Tensor) -> Tensor:
    """Jensen-Shannon divergence in bits (Lin 1991) of maps [..., N] with maps [..., N], one by one: [...] in 0..1,
    in double precision.

    >>> js_divergence(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])).item()
    1.0
    """
    a, b = a.double(), b.double()
    middle = ((a + b) / 2).clamp_min(torch.finfo(torch.float64).tiny)
    # Relative entropies to the middle rather than a difference of entropies: exactly zero for equal maps.
    halves = torch.xlogy(a, a / middle).sum(-1) + torch.xlogy(b, b / middle).sum(-1)
    return (halves / (2 * math.log(2))).clamp(0, 1)


def _index(value: int, size: int, name: str) -> int:
    if not 0 <= value < size:
        raise BadSelection(f"{name} {value}", f"0..{size - 1}, or None for the mean", "choose one of them")
    return value


def _cross(cross: Tensor) -> Tensor:
    if cross.shape[-1] < 2:
        raise BadShape(
            f"maps of shape {list(cross.shape)}", "CLS and at least one patch", "pass maps with CLS first"
        )
    return cross


def _probability(P: Tensor) -> Tensor:
    total = P.sum(-1)
    if not (P.isfinite().all() and (P >= 0).all() and (total - 1).abs().max() < 1e-3):
        raise BadValues(
            f"rows that sum to {total.min():.4g}..{total.max():.4g}, smallest value {P.min():.4g}",
            "probabilities over patches",
            "pass patches(cross)",
        )
    return P
