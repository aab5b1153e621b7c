"""How alike queries are, and whether they have collapsed: pure functions.

Z is [q, d], one vector per query (learned tokens or the states after a layer); P is [q, N], one probability
over patches per query. Queries share a large common offset, so cosines between states say little before the
mean over queries is taken away; and a query's index carries no meaning by itself.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from qformer_viz.attention_maps import entropy, js_distance, patches
from qformer_viz.errors import BadSelection, BadShape, BadValues

# Vectors shorter than this share of what they were before centring are rounding noise without a direction.
NOISE = 1e-6


def cosine(Z: Tensor, centre: bool = False) -> Tensor:
    """Cosine between all pairs: [..., q, d] -> [..., q, q] in -1..1.

    centre: first take away the mean over queries, as every measure below that takes cosines expects.
    Vectors of no length are alike to each other (1) and to nothing else (0).
    """
    vectors, length, zero = _vectors(Z, centre)
    unit = vectors / torch.where(zero, 1.0, length)
    both = zero & zero.transpose(-1, -2)
    either = zero | zero.transpose(-1, -2)
    cosines = torch.where(either, both.double(), unit @ unit.transpose(-1, -2))
    return cosines.clamp(-1, 1).to(Z.dtype)


def attention_similarity(cross: Tensor) -> Tensor:
    """1 - Jensen-Shannon distance of the patch parts: [..., q, p] with CLS first -> [..., q, q] in 0..1."""
    return 1 - js_distance(patches(cross))


def leaf_order(similarity: Tensor) -> list[int]:
    """An order of the queries that puts like beside like: [q, q] -> q indices.

    Average-linkage clustering of 1 - similarity with optimal leaf ordering (Bar-Joseph et al. 2001).
    """
    # scipy is slow to import and needed here only.
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    size = _square(similarity)
    if size == 1:
        return [0]
    distance = (1 - similarity.double()).clamp_min(0)
    distance = ((distance + distance.T) / 2).fill_diagonal_(0)
    tree = linkage(squareform(distance.cpu().numpy()), method="average", optimal_ordering=True)
    return leaves_list(tree).tolist()


def redundancy(similarity: Tensor, threshold: float) -> float:
    """Share of the pairs i < j that are more alike than the threshold: [q, q] -> 0..1.

    For states pass cosine(Z, centre=True). The threshold is a choice: show `redundancy_reference` beside it.
    """
    if not math.isfinite(threshold):
        raise BadSelection(f"threshold {threshold}", "a finite number", "choose one in -1..1")
    return (_pairs(similarity) > threshold).double().mean().item()


def redundancy_reference(Z: Tensor, quantile: float = 0.99) -> float:
    """Quantile of the centred cosines between queries of different images: [b, q, d] -> -1..1.

    Above this value two queries of one image are more alike than queries of unrelated images.
    """
    _several(Z, "[b, q, d]")
    images, queries, _ = Z.shape
    vectors, length, zero = _vectors(Z, centre=True)
    unit = torch.where(zero, 0.0, vectors / length.clamp_min(torch.finfo(torch.float64).tiny)).flatten(0, 1)
    owner = torch.arange(images, device=Z.device).repeat_interleave(queries)
    first, second = torch.triu_indices(len(unit), len(unit), 1, device=Z.device)
    apart = owner[first] != owner[second]
    values = (unit @ unit.T)[first[apart], second[apart]].sort().values
    # torch.quantile refuses more than 16 million values.
    return values[round(quantile * (len(values) - 1))].item()


def complementarity(similarity: Tensor) -> float:
    """1 - the mean over pairs i ≠ j: [q, q] -> 0..2 for cosines. For states pass cosine(Z, centre=True)."""
    return 1 - _pairs(similarity).double().mean().item()


def effective_rank(Z: Tensor) -> float:
    """exp of the entropy of the normalised singular values of the centred Z: [q, d] -> 1..min(q - 1, d).

    Roy and Vetterli 2007. 0 if all queries are the same, so that nothing is left after centring.
    """
    vectors, _, zero = _vectors(_matrix(Z), centre=True)
    if zero.all():
        return 0.0
    values = torch.linalg.svdvals(vectors)
    return torch.special.entr(values / values.sum()).sum().exp().item()


def specialisation(P: Tensor) -> float:
    """S = [H(mean_q P_q) - mean_q H(P_q)] / log Q: [q, N] -> 0..1.

    The generalised Jensen-Shannon divergence of all maps (Lin 1991) as a share of its maximum: 0 when all
    maps agree, 1 when no two overlap.
    """
    maps = _matrix(P).double()
    gain = entropy(maps.mean(0)) - entropy(maps).mean()
    return min(max(gain.item() / math.log(len(maps)), 0.0), 1.0)


def content_dependence(P: Tensor) -> Tensor:
    """E_i KL(P_{i,q} ‖ mean_i P_{i,q}) in nats: [b, q, N] -> [q] in 0..log b.

    0 for a query that looks at the same patches in every image.
    """
    _several(P, "[b, q, N]")
    maps = P.double()
    return (entropy(maps.mean(0)) - entropy(maps).mean(0)).clamp_min(0).to(P.dtype)


def between_image_share(Z: Tensor) -> float:
    """Share of the variance of query states that is due to the image: [b, q, d] -> 0..1.

    Variance of each query around its own mean over images, over the variance around the mean of everything.
    """
    _several(Z, "[b, q, d]")
    states = Z.double()
    within = (states - states.mean(0)).square().sum()
    total = (states - states.mean((0, 1))).square().sum()
    return (within / total).item() if total > 0 else 0.0


def winner_entropy(winners: Tensor, queries: int) -> float:
    """Evenness of the queries that win the contrastive maximum, one winner per image-text pair: [n] -> 0..1.

    Entropy of the winners' frequencies over log min(n, queries): 0 when one query wins for every pair.
    """
    if winners.dim() != 1 or len(winners) < 2 or winners.min() < 0 or winners.max() >= queries:
        raise BadSelection(
            f"winners of shape {list(winners.shape)}",
            f"at least two query indices in 0..{queries - 1}",
            "pass the argmax over queries for every image-text pair",
        )
    shares = torch.bincount(winners.long(), minlength=queries).double() / len(winners)
    return torch.special.entr(shares).sum().item() / math.log(min(len(winners), queries))


@dataclass(frozen=True)
class Collapse:
    """warning: at least two signs agree. reasons: the signs, in words with their numbers.

    effective_rank and specialisation are means over images; winner_entropy and between_image_share are None
    where they were not measured.
    """

    warning: bool
    reasons: tuple[str, ...]
    effective_rank: float
    specialisation: float
    winner_entropy: float | None
    between_image_share: float | None


def collapse(
    Z: Tensor,
    P: Tensor,
    *,
    winners: Tensor | None = None,
    rank_share: float = 0.1,
    least_specialisation: float = 0.05,
    least_winner_entropy: float = 0.1,
    least_between: float = 0.05,
) -> Collapse:
    """Do the queries say one thing over and over?

    Z: [q, d] states of one image, or [b, q, d]. P: [q, N] maps of one image, or [b, q, N] of the same images.
    winners: [n] optional contrastive winners. No single number is proof (a raw cosine above 0.9 is the common
    offset, at full rank), so the warning needs two of: effective rank below rank_share of the greatest
    possible, specialisation, winner entropy, between-image share of variance near 0.
    """
    if Z.dim() != P.dim() or Z.dim() not in (2, 3) or Z.shape[:-1] != P.shape[:-1]:
        raise BadShape(
            f"states {list(Z.shape)} and maps {list(P.shape)}",
            "[q, d] and [q, N], or [b, q, d] and [b, q, N]",
            "take both from the same capture",
        )
    states, maps = (Z[None], P[None]) if Z.dim() == 2 else (Z, P)
    images, queries, width = states.shape
    rank = sum(map(effective_rank, states)) / images
    special = sum(map(specialisation, maps)) / images
    winning = None if winners is None else winner_entropy(winners, queries)
    between = between_image_share(states) if images > 1 else None
    most = min(queries - 1, width)
    reasons = []
    if rank < max(rank_share * most, 1.0 + 1e-6):
        reasons.append(f"effective rank {rank:.1f} of {most} possible")
    if special < least_specialisation:
        reasons.append(f"specialisation {special:.3f}: the queries look at the same patches")
    if winning is not None and winning < least_winner_entropy:
        reasons.append(f"winner entropy {winning:.3f}: one query wins nearly every image")
    if between is not None and between < least_between:
        reasons.append(f"between-image share of variance {between:.3f}: the image hardly matters")
    return Collapse(len(reasons) >= 2, tuple(reasons), rank, special, winning, between)


def _vectors(Z: Tensor, centre: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Rows in float64, their lengths [..., q, 1], and which of them are nothing but rounding noise."""
    if Z.dim() < 2:
        raise BadShape(f"a tensor of shape {list(Z.shape)}", "[..., q, d]", "pass one vector per query")
    if not Z.isfinite().all():
        raise BadValues("NaN or infinity among the vectors", "finite numbers", "check the model's precision")
    raw = Z.double()
    vectors = raw - raw.mean(-2, keepdim=True) if centre else raw
    length = vectors.norm(dim=-1, keepdim=True)
    return vectors, length, length <= NOISE * raw.norm(dim=-1, keepdim=True)


def _matrix(tensor: Tensor) -> Tensor:
    if tensor.dim() != 2 or tensor.shape[0] < 2:
        raise BadShape(
            f"a tensor of shape {list(tensor.shape)}", "one row per query, at least two", "pass one image"
        )
    return tensor


def _several(tensor: Tensor, letters: str) -> None:
    if tensor.dim() != 3 or tensor.shape[0] < 2:
        raise BadShape(
            f"a tensor of shape {list(tensor.shape)}", f"{letters} with b at least 2", "pass several images"
        )


def _square(similarity: Tensor) -> int:
    if similarity.dim() != 2 or similarity.shape[0] != similarity.shape[1]:
        raise BadShape(
            f"a tensor of shape {list(similarity.shape)}",
            "a similarity matrix [q, q]",
            "pass cosine(Z, centre=True) or attention_similarity(cross)",
        )
    return similarity.shape[0]


def _pairs(similarity: Tensor) -> Tensor:
    """The pairs i < j of a symmetric matrix."""
    size = _square(similarity)
    if size < 2:
        raise BadShape("a single query", "at least two", "pairs need two queries")
    first, second = torch.triu_indices(size, size, 1, device=similarity.device)
    return similarity[first, second]
