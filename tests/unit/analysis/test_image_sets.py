"""Queries over several images, as figures."""

import math
from dataclasses import replace

import pytest
import torch

import qformer_viz
from qformer_viz import BadShape, content_dependence, patches, redundancy_reference, select
from tests.support.fakes_ui import CROSS, GRID, QUERIES, fake_capture, joined
from tests.support.planted import looking_at

N = GRID[0] * GRID[1]


def test_a_query_that_stays_and_one_that_never_looks_twice_at_a_place():
    places = torch.zeros(4, QUERIES, dtype=torch.long)
    places[:, 1] = torch.arange(4)
    places[:, 2] = torch.tensor([5, 5, 6, 6])
    found = qformer_viz.image_set_statistics([looking_at(row) for row in places.tolist()])
    assert found.rows == (*map(str, CROSS), "mean") and found.images == 4
    expected = torch.tensor([0.0, 1.0, 0.5] + [0.0] * (QUERIES - 3))
    assert torch.allclose(found.content_dependence, expected.expand_as(found.content_dependence), atol=1e-6)


def test_its_figures_are_those_of_the_single_measures():
    captures = [fake_capture(number) for number in range(5)]
    found = qformer_viz.image_set_statistics(captures)
    cross = torch.cat([c.cross_attention for c in captures], 1)
    for row, layer in zip(found.content_dependence, (*range(len(CROSS)), None), strict=True):
        dependence = content_dependence(patches(select(cross, layer)))
        assert torch.allclose(row, dependence / math.log(5), atol=1e-6)
    states = torch.cat([c.query_states[-1] for c in captures])
    assert found.reference == redundancy_reference(states)
    assert found.collapse == qformer_viz.collapse(states, patches(select(cross)))
    again = qformer_viz.image_set_statistics([joined(captures)])
    assert torch.equal(again.content_dependence, found.content_dependence) and again.images == 5


def test_one_image_or_two_models_cannot_be_compared():
    capture = fake_capture(1)
    other = replace(capture, cross_attention=capture.cross_attention[:1], cross_layers=CROSS[:1])
    for captures in ([], [capture], [capture, other]):
        with pytest.raises(BadShape, match="two images or more of one model"):
            qformer_viz.image_set_statistics(captures)
