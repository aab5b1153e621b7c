"""Maps described by pure functions: closed forms, ranges, equivariance, and inputs left alone."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qformer_viz import BadSelection, BadShape, BadValues
from qformer_viz.attention_maps import (
    centre_of_mass,
    cls_share,
    effective_patches,
    entropy,
    focus,
    js_distance,
    patches,
    select,
)

seeds = st.integers(0, 2**31)
rows = st.integers(1, 6)
columns = st.integers(2, 6)
sharpness = st.sampled_from([0.0, 0.1, 1.0, 5.0, 40.0])


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def probabilities(seed, scale, *shape):
    return (scale * normal(seed, *shape)).softmax(-1)


def one_hot(index, size):
    return torch.nn.functional.one_hot(torch.tensor(index), size).float()


# select


def test_select_views():
    cross = probabilities(0, 1.0, 3, 2, 4, 5, 7)
    torch.testing.assert_close(select(cross), cross.mean((0, 2)))
    torch.testing.assert_close(select(cross, layer=2), cross[2].mean(1))
    torch.testing.assert_close(select(cross, head=1), cross[:, :, 1].mean(0))
    assert torch.equal(select(cross, 0, 3), cross[0, :, 3])
    assert select(cross).shape == (2, 5, 7)


@pytest.mark.parametrize(("layer", "head"), [(3, None), (-1, None), (None, 4), (None, -1)])
def test_select_refuses_what_does_not_exist(layer, head):
    with pytest.raises(BadSelection, match="layer" if head is None else "head"):
        select(probabilities(0, 1.0, 3, 2, 4, 5, 7), layer, head)


def test_select_refuses_single_maps():
    with pytest.raises(BadShape, match=r"capture\.cross_attention"):
        select(probabilities(0, 1.0, 5, 7))


# CLS and patches


def test_patches_are_a_probability_and_cls_is_reported_beside():
    cross = torch.tensor([[0.5, 0.25, 0.25, 0.0], [0.0, 0.2, 0.2, 0.6]])
    torch.testing.assert_close(patches(cross), torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.2, 0.6]]))
    assert cls_share(cross).tolist() == [0.5, 0.0]


def test_patches_of_a_row_on_cls_alone_are_even():
    assert patches(torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0])).tolist() == [0.25] * 4


def test_patches_of_a_row_almost_on_cls_keep_their_shape():
    torch.testing.assert_close(patches(torch.tensor([1.0, 3e-30, 1e-30])), torch.tensor([0.75, 0.25]))


def test_cls_share_is_no_view():
    cross = probabilities(0, 1.0, 2, 5)
    cls_share(cross).zero_()
    assert (cross[:, 0] > 0).all()


@given(seeds, sharpness, columns)
def test_patches_sum_to_one_and_rebuild_the_map(seed, scale, size):
    cross = probabilities(seed, scale, 4, size + 1)
    P, share = patches(cross), cls_share(cross)
    torch.testing.assert_close(P.sum(-1), torch.ones(4))
    # float32 rows of 257 sum to one within a few 1e-6.
    torch.testing.assert_close(P * (1 - share[:, None]), cross[:, 1:], rtol=1e-4, atol=1e-5)


# entropy and its relatives


@pytest.mark.parametrize("size", [2, 16, 256])
def test_entropy_closed_forms(size):
    even = torch.full((size,), 1 / size)
    assert entropy(even).item() == pytest.approx(math.log(size))
    assert effective_patches(even).item() == pytest.approx(size, rel=1e-5)
    assert focus(even).item() == pytest.approx(0, abs=1e-6)
    point = one_hot(1, size)
    assert entropy(point).item() == 0 and effective_patches(point).item() == 1 and focus(point).item() == 1


@given(st.integers(1, 9), st.integers(0, 9))
def test_even_over_k_patches_counts_k(k, more):
    P = torch.cat([torch.full((k,), 1 / k), torch.zeros(more)])
    assert effective_patches(P).item() == pytest.approx(k, rel=1e-5)


@given(seeds, sharpness, columns)
def test_entropy_range_and_blindness_to_patch_order(seed, scale, size):
    P = probabilities(seed, scale, 3, size)
    H = entropy(P)
    assert (H >= 0).all() and H.max() <= math.log(size) + 1e-6
    assert (focus(P) >= -1e-6).all() and (focus(P) <= 1).all()
    torch.testing.assert_close(entropy(P[:, normal(seed, size).argsort()]), H)


def test_focus_needs_two_patches():
    with pytest.raises(BadShape):
        focus(torch.ones(3, 1))


# centre of mass


def test_centre_of_each_patch():
    grid = (2, 4)
    assert centre_of_mass(one_hot(0, 8), grid).tolist() == [0.125, 0.25]
    assert centre_of_mass(one_hot(3, 8), grid).tolist() == [0.875, 0.25]
    assert centre_of_mass(one_hot(4, 8), grid).tolist() == [0.125, 0.75]
    assert centre_of_mass(torch.full((8,), 1 / 8), grid).tolist() == [0.5, 0.5]


@given(seeds, sharpness, rows, columns)
def test_centre_stays_inside_and_mirrors(seed, scale, gh, gw):
    P = probabilities(seed, scale, 3, gh * gw)
    centre = centre_of_mass(P, (gh, gw))
    assert centre.shape == (3, 2) and (centre > 0).all() and (centre < 1).all()
    mirrored = P.unflatten(-1, (gh, gw)).flip(-1).flatten(-2)
    torch.testing.assert_close(
        centre_of_mass(mirrored, (gh, gw)), torch.stack([1 - centre[:, 0], centre[:, 1]], -1)
    )


def test_centre_needs_the_right_grid():
    with pytest.raises(BadShape, match="3 × 3 = 9"):
        centre_of_mass(torch.full((8,), 1 / 8), (3, 3))


# Jensen-Shannon distance


def test_js_distance_closed_forms():
    maps = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    distance = js_distance(maps)
    assert distance[0, 1] == 1 and distance[0, 3] == 0 and (distance.diagonal() == 0).all()
    # H(3/4, 1/4) - H(1/2, 1/2) / 2, in bits.
    half = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25)) - 0.5
    assert distance[0, 2].item() == pytest.approx(math.sqrt(half), abs=1e-6)


def test_js_distance_equals_scipy():
    from scipy.spatial.distance import jensenshannon

    P = probabilities(3, 2.0, 5, 9).double()
    expected = torch.tensor([[jensenshannon(a, b, base=2) for b in P.numpy()] for a in P.numpy()])
    torch.testing.assert_close(js_distance(P), expected, rtol=0, atol=1e-7)


@given(seeds, sharpness, st.integers(1, 5), columns)
def test_js_distance_is_a_metric_in_zero_to_one(seed, scale, queries, size):
    P = probabilities(seed, scale, queries, size)
    D = js_distance(P)
    assert (D >= 0).all() and (D <= 1).all() and torch.equal(D, D.T) and (D.diagonal() == 0).all()
    assert (D[:, None, :] <= D[:, :, None] + D[None] + 1e-6).all()
    order = normal(seed, queries).argsort()
    assert torch.equal(js_distance(P[order]), D[order][:, order])
    torch.testing.assert_close(js_distance(P[:, normal(seed, size).argsort()]), D, rtol=0, atol=1e-6)


def test_js_distance_of_a_batch_is_that_of_each():
    P = probabilities(0, 1.0, 2, 3, 4, 5)
    assert torch.equal(js_distance(P)[1, 2], js_distance(P[1, 2]))


@pytest.mark.parametrize(
    "function", [entropy, effective_patches, focus, js_distance, lambda P: centre_of_mass(P, (1, 3))]
)
@pytest.mark.parametrize("values", [[0.2, 0.2, 0.2], [1.5, -0.5, 0.0], [float("nan"), 0.5, 0.5]])
def test_what_is_not_a_probability_is_refused(function, values):
    with pytest.raises(BadValues, match=r"patches\(cross\)"):
        function(torch.tensor([values]))


@given(seeds)
def test_inputs_are_unchanged_and_never_returned(seed):
    cross = probabilities(seed, 1.0, 2, 1, 3, 4, 7)
    P = probabilities(seed, 1.0, 4, 6)
    before = cross.clone(), P.clone()
    results = [
        select(cross),
        select(cross, 0),
        select(cross, 0, 2),
        cls_share(cross),
        patches(cross),
        entropy(P),
        effective_patches(P),
    ]
    results += [focus(P), centre_of_mass(P, (2, 3)), js_distance(P)]
    for result in results:
        result.fill_(-1)
    assert torch.equal(cross, before[0]) and torch.equal(P, before[1])
