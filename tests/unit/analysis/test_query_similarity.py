"""Likeness of queries: closed forms, ranges, equivariance, and what collapse is and is not."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qformer_viz import BadSelection, BadShape, BadValues
from qformer_viz.analysis.query_similarity import (
    attention_similarity,
    between_image_share,
    collapse,
    complementarity,
    content_dependence,
    cosine,
    effective_rank,
    leaf_order,
    redundancy,
    redundancy_reference,
    specialisation,
    winner_entropy,
)

seeds = st.integers(0, 2**31)
queries = st.integers(2, 7)
widths = st.integers(1, 9)
sharpness = st.sampled_from([0.0, 1.0, 5.0, 40.0])


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def probabilities(seed, scale, *shape):
    return (scale * normal(seed, *shape)).softmax(-1)


# cosine


def test_cosine_closed_forms():
    Z = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [4.0, 0.0]])
    expected = [[1, 0, -1, 1], [0, 1, 0, 0], [-1, 0, 1, -1], [1, 0, -1, 1]]
    assert torch.equal(cosine(Z), torch.tensor(expected).float())


def test_centring_kills_a_common_offset():
    Z = normal(0, 32, 64)
    shifted = Z + 10 * normal(1, 64)
    pairs = torch.ones(32, 32).triu(1).bool()
    assert cosine(shifted)[pairs].min() > 0.9
    assert cosine(shifted, centre=True)[pairs].abs().max() < 0.7
    torch.testing.assert_close(cosine(shifted, centre=True), cosine(Z, centre=True), rtol=0, atol=1e-5)


@given(seeds, queries, widths, st.booleans())
def test_cosine_range_symmetry_scale_and_order(seed, q, d, centre):
    Z = normal(seed, q, d)
    C = cosine(Z, centre)
    assert C.abs().max() <= 1 and C.dtype == torch.float32
    torch.testing.assert_close(C.diagonal(), torch.ones(q))
    torch.testing.assert_close(C, C.T)
    torch.testing.assert_close(cosine(3 * Z, centre), C, rtol=0, atol=1e-5)
    order = normal(seed, q).argsort()
    torch.testing.assert_close(cosine(Z[order], centre), C[order][:, order], rtol=0, atol=1e-5)


def test_cosine_of_nothing():
    """Equal queries leave rounding noise after centring: they are alike, not random."""
    assert torch.equal(cosine((normal(0, 64) * 1e3 + 1e-3).expand(8, 64), centre=True), torch.ones(8, 8))
    noise = normal(0, 64).double() + 1e-9 * normal(1, 8, 64)
    assert torch.equal(cosine(noise, centre=True), torch.ones(8, 8).double())
    assert effective_rank(noise) == 0
    Z = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    assert cosine(Z).tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]


def test_cosine_of_a_batch_is_that_of_each():
    Z = normal(0, 3, 5, 4)
    assert torch.equal(cosine(Z, centre=True)[1], cosine(Z[1], centre=True))


# attention maps


def test_attention_similarity_looks_at_patches_only():
    cross = torch.tensor([[0.9, 0.1, 0.0], [0.0, 1.0, 0.0], [0.5, 0.0, 0.5]])
    assert attention_similarity(cross).tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]


# order


def test_leaf_order_puts_like_beside_like():
    group = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    sim = (group[:, None] == group).float() * 0.9 + torch.eye(8) * 0.1
    found = group[leaf_order(sim)].tolist()
    assert sum(a != b for a, b in pairwise(found)) == 2


def test_leaf_order_recovers_a_line():
    for seed in range(5):
        line = normal(seed, 9)
        found = line[leaf_order(1 - (line[:, None] - line).abs())]
        assert found.tolist() in (line.sort().values.tolist(), line.sort(descending=True).values.tolist())


@given(seeds, st.integers(1, 7))
def test_leaf_order_is_a_permutation(seed, q):
    assert sorted(leaf_order(cosine(normal(seed, q, 4)))) == list(range(q))


# redundancy, complementarity


def test_redundancy_counts_pairs_once_and_not_the_diagonal():
    sim = torch.eye(4)
    assert redundancy(sim, 0.8) == 0
    sim[0, 1] = sim[1, 0] = 0.9
    assert redundancy(sim, 0.8) == pytest.approx(1 / 6)
    assert redundancy(sim, 0.95) == 0
    assert redundancy(torch.ones(4, 4), 0.8) == 1


def test_complementarity_leaves_out_the_diagonal():
    assert complementarity(torch.eye(5)) == 1
    assert complementarity(torch.ones(5, 5)) == 0
    assert complementarity(torch.tensor([[1.0, -1.0], [-1.0, 1.0]])) == 2


@given(seeds, queries, st.floats(-1, 1), st.floats(-1, 1))
def test_redundancy_falls_with_the_threshold_and_ignores_order(seed, q, a, b):
    C = cosine(normal(seed, q, 5), centre=True)
    order = normal(seed, q).argsort()
    assert 0 <= redundancy(C, max(a, b)) <= redundancy(C, min(a, b)) <= 1
    assert redundancy(C[order][:, order], a) == redundancy(C, a)
    assert complementarity(C[order][:, order]) == pytest.approx(complementarity(C), abs=1e-6)


def test_redundancy_reference_compares_different_images_only():
    """Within an image all queries but one agree; across images nothing does better than chance."""
    a, b = torch.eye(8)[:2]
    Z = torch.stack([torch.stack([a, a, a, -a]), torch.stack([b, b, b, -b])])
    assert redundancy(cosine(Z[0], centre=True), 0.8) == 0.5
    assert redundancy_reference(Z) == pytest.approx(0, abs=1e-9)
    assert redundancy_reference(torch.stack([Z[0], Z[0]])) == pytest.approx(1)


def test_redundancy_reference_is_the_quantile():
    Z = normal(0, 3, 4, 6)
    centred = Z - Z.mean(1, keepdim=True)
    values = [
        torch.nn.functional.cosine_similarity(centred[i, q], centred[j, r], dim=0).item()
        for i in range(3)
        for j in range(i)
        for q in range(4)
        for r in range(4)
    ]
    assert redundancy_reference(Z, 1.0) == pytest.approx(max(values), abs=1e-6)
    assert redundancy_reference(Z, 0.5) == pytest.approx(sorted(values)[round(0.5 * 47)], abs=1e-6)


# rank


def test_effective_rank_closed_forms():
    line = torch.arange(6.0)[:, None] * normal(0, 9)
    assert effective_rank(line) == pytest.approx(1, abs=1e-5)
    assert effective_rank(line + 100) == pytest.approx(1, abs=1e-4)
    assert effective_rank(torch.ones(6, 9)) == 0
    # A centred regular simplex of 6 points has 5 equal singular values.
    assert effective_rank(torch.eye(6)) == pytest.approx(5, abs=1e-5)


@given(seeds, queries, widths)
def test_effective_rank_range_and_invariances(seed, q, d):
    Z = normal(seed, q, d)
    rank = effective_rank(Z)
    assert 1 - 1e-6 <= rank <= min(q - 1, d) + 1e-4
    rotation = torch.linalg.qr(normal(seed + 1, d, d).double())[0]
    moved = 5 * (Z[normal(seed, q).argsort()].double() @ rotation) + normal(seed + 2, d)
    assert effective_rank(moved) == pytest.approx(rank, rel=1e-4)


# specialisation, dependence on the image


def test_specialisation_closed_forms():
    assert specialisation(torch.eye(4)) == pytest.approx(1)
    assert specialisation(probabilities(0, 1.0, 9).expand(4, 9)) == pytest.approx(0, abs=1e-6)
    # Two groups of two: half of what is possible.
    assert specialisation(torch.eye(2).repeat(2, 1)) == pytest.approx(0.5)


@given(seeds, sharpness, queries, widths)
def test_specialisation_range_and_order(seed, scale, q, n):
    P = probabilities(seed, scale, q, n)
    S = specialisation(P)
    assert 0 <= S <= 1
    assert specialisation(P[normal(seed, q).argsort()]) == pytest.approx(S, abs=1e-6)
    assert specialisation(P[:, normal(seed, n).argsort()]) == pytest.approx(S, abs=1e-6)


def test_content_dependence_closed_forms():
    same = probabilities(0, 1.0, 5).expand(3, 5)
    P = torch.stack([same[:, None].expand(3, 2, 5)[i] for i in range(3)])
    assert content_dependence(P).tolist() == pytest.approx([0, 0], abs=1e-6)
    moving = torch.eye(3)[:, None]
    assert content_dependence(moving).tolist() == pytest.approx([math.log(3)])


def test_content_dependence_is_the_mean_divergence():
    P = probabilities(1, 2.0, 4, 3, 6).double()
    middle = P.mean(0)
    expected = torch.stack([(p * (p / middle).log()).sum(-1) for p in P]).mean(0)
    torch.testing.assert_close(content_dependence(P), expected)


def test_between_image_share_closed_forms():
    fixed = normal(0, 4, 6)
    assert between_image_share(fixed.expand(5, 4, 6)) == 0
    assert between_image_share(normal(0, 5, 1, 6).expand(5, 4, 6)) == pytest.approx(1)
    assert between_image_share(torch.ones(5, 4, 6)) == 0
    # Query offset of variance 1, image offset of variance 1, nothing else.
    sign = torch.tensor([1.0, -1.0])
    assert between_image_share((sign[:, None] + sign[None])[..., None]) == pytest.approx(0.5)


def test_winner_entropy_closed_forms():
    assert winner_entropy(torch.zeros(50, dtype=torch.long), 8) == 0
    assert winner_entropy(torch.arange(8).repeat(3), 8) == pytest.approx(1)
    assert winner_entropy(torch.arange(4), 32) == pytest.approx(1)
    assert winner_entropy(torch.tensor([0, 0, 1, 1]), 4) == pytest.approx(0.5)
    with pytest.raises(BadSelection):
        winner_entropy(torch.tensor([0, 8]), 8)


# collapse


def test_a_common_offset_at_full_rank_is_no_collapse():
    Z = normal(0, 32, 64) + 10 * normal(1, 64)
    assert cosine(Z)[0, 1:].min() > 0.9
    found = collapse(Z, probabilities(0, 3.0, 32, 256))
    assert not found.warning and found.reasons == () and found.effective_rank > 20


def test_collapse_of_everything():
    Z = normal(1, 64).expand(3, 32, 64) + 1e-3 * normal(2, 32, 1) * normal(3, 64)
    P = probabilities(0, 3.0, 256).expand(3, 32, 256)
    found = collapse(Z, P, winners=torch.full((40,), 5))
    assert found.warning and len(found.reasons) == 4
    assert found.effective_rank == pytest.approx(1, abs=0.1) and found.specialisation < 1e-6
    assert found.winner_entropy == 0 and found.between_image_share == pytest.approx(0, abs=1e-6)


def test_one_sign_alone_is_named_but_no_warning():
    found = collapse(normal(0, 32, 64), torch.full((32, 256), 1 / 256))
    assert not found.warning and len(found.reasons) == 1 and "same patches" in found.reasons[0]
    assert found.winner_entropy is None and found.between_image_share is None


def test_collapse_of_a_batch_is_the_mean_of_its_images():
    Z, P = normal(0, 3, 8, 16), probabilities(1, 3.0, 3, 8, 25)
    found = collapse(Z, P)
    assert found.effective_rank == pytest.approx(sum(map(effective_rank, Z)) / 3)
    assert found.specialisation == pytest.approx(sum(map(specialisation, P)) / 3)
    assert found.between_image_share == pytest.approx(between_image_share(Z))


# What is refused


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda: cosine(torch.ones(3)), BadShape),
        (lambda: cosine(torch.tensor([[float("nan"), 1.0]])), BadValues),
        (lambda: leaf_order(torch.ones(3, 4)), BadShape),
        (lambda: redundancy(normal(0, 32, 64), 0.8), BadShape),
        (lambda: redundancy(torch.eye(3), float("nan")), BadSelection),
        (lambda: redundancy(torch.eye(1), 0.8), BadShape),
        (lambda: complementarity(torch.eye(1)), BadShape),
        (lambda: redundancy_reference(normal(0, 1, 4, 5)), BadShape),
        (lambda: effective_rank(normal(0, 2, 4, 5)), BadShape),
        (lambda: specialisation(torch.ones(1, 1)), BadShape),
        (lambda: specialisation(torch.ones(2, 3)), BadValues),
        (lambda: content_dependence(probabilities(0, 1.0, 3, 4)), BadShape),
        (lambda: between_image_share(normal(0, 3, 4)), BadShape),
        (lambda: winner_entropy(torch.tensor([1]), 4), BadSelection),
        (lambda: collapse(normal(0, 4, 5), probabilities(0, 1.0, 3, 9)), BadShape),
    ],
)
def test_refusals(call, kind):
    with pytest.raises(kind, match="expected"):
        call()


def test_inputs_are_unchanged_and_never_returned():
    Z, P, cross, sim = (
        normal(0, 3, 4, 5),
        probabilities(0, 1.0, 3, 4, 6),
        probabilities(1, 1.0, 4, 7),
        torch.eye(4),
    )
    winners = torch.tensor([0, 1, 1])
    inputs = [Z, P, cross, sim, winners]
    before = [tensor.clone() for tensor in inputs]
    for result in (cosine(Z), cosine(Z, True), attention_similarity(cross), content_dependence(P)):
        result.fill_(-1)
    leaf_order(sim)
    redundancy(sim, 0.5)
    redundancy_reference(Z)
    complementarity(sim)
    effective_rank(Z[0])
    specialisation(P[0])
    between_image_share(Z)
    collapse(Z, P, winners=winners)
    assert all(map(torch.equal, inputs, before))
