"""Centred kernel alignment (CKA) of two sets of states."""

import torch
from torch import Tensor

from qformer_viz.analysis.query_similarity import NOISE
from qformer_viz.errors import BadShape


def cka(X: Tensor, Y: Tensor) -> Tensor:
    """Linear centred kernel alignment of what two models make of the same n things: [..., n, d], [..., n, e] -> [...].

    1 if the one is the other turned and scaled, 0 on average if they have nothing in common, whatever n, for it takes
    the unbiased estimate of HSIC (Kornblith et al. 2019 by Song et al. 2012) and may come out a little below. NaN where
    one of them hardly varies. n is 4 or more.
    """
    if X.shape[:-1] != Y.shape[:-1] or X.dim() < 2 or X.shape[-2] < 4:
        raise BadShape(
            f"vectors {list(X.shape)} and {list(Y.shape)}",
            "[..., n, d] and [..., n, e] with n at least 4",
            "pass what both models make of the same images, four or more",
        )
    K, L = (_centred_gram(Z) for Z in (X, Y))
    both, first, second = ((a * b).sum((-2, -1)) for a, b in ((K, L), (K, K), (L, L)))
    return torch.where((first > 0) & (second > 0), both / (first * second).sqrt(), torch.nan).to(X.dtype)


def _centred_gram(Z: Tensor) -> Tensor:
    """Inner products of all pairs, U-centred (Szekely and Rizzo 2014): [..., n, d] -> [..., n, n], diagonal 0. The sum
    of products of two such matrices is n (n - 3) times the unbiased HSIC. What is rounding noise only is set to 0."""
    raw = Z.double()
    vectors = raw - raw.mean(-2, keepdim=True)
    noise = vectors.norm(dim=(-2, -1)) <= NOISE * raw.norm(dim=(-2, -1))
    n = Z.shape[-2]
    gram = vectors @ vectors.transpose(-1, -2)
    own = torch.eye(n, dtype=torch.bool, device=Z.device)
    gram = gram.masked_fill(own | noise[..., None, None], 0)
    rows = gram.sum(-1, keepdim=True)
    whole = rows.sum(-2, keepdim=True)
    centred = gram - (rows + rows.transpose(-1, -2)) / (n - 2) + whole / ((n - 1) * (n - 2))
    return centred.masked_fill(own, 0)
