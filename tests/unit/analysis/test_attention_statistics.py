"""Per-query figures agree with what they are made of, layer by layer, and for the averaged map."""

from dataclasses import replace

import pytest
import torch

from qformer_viz import BadSelection
from qformer_viz import attention_maps as A
from qformer_viz.analysis.attention_statistics import query_statistics
from tests.support.fakes import tiny_capture


def test_rows_are_layers_and_then_their_mean():
    capture = tiny_capture(2)
    found = query_statistics(capture, image=1)
    assert found.rows == ("0", "2", "4", "mean")
    maps = capture.cross_attention[:, 1].mean(1)
    for row, view in enumerate([*maps, maps.mean(0)]):
        P = A.patches(view)
        torch.testing.assert_close(found.entropy[row], A.entropy(P))
        torch.testing.assert_close(found.effective_patches[row], A.effective_patches(P))
        torch.testing.assert_close(found.focus[row], A.focus(P))
        torch.testing.assert_close(found.cls_share[row], view[:, 0])
        torch.testing.assert_close(found.centre[row], A.centre_of_mass(P, capture.grid))
    assert found.centre.shape == (4, 8, 2)


def test_one_head():
    capture = tiny_capture()
    found = query_statistics(capture, head=2)
    torch.testing.assert_close(found.cls_share[:-1], capture.cross_attention[:, 0, 2, :, 0])


def test_the_mean_row_describes_the_averaged_map():
    """Two layers looking at one patch each: the average looks at two."""
    capture = tiny_capture(layers=2)
    cross = torch.zeros_like(capture.cross_attention)
    cross[0, ..., 1] = cross[1, ..., 16] = 1
    found = query_statistics(replace(capture, cross_attention=cross))
    assert found.rows == ("0", "2", "mean")
    torch.testing.assert_close(found.effective_patches, torch.tensor([1.0, 1.0, 2.0])[:, None].expand(3, 8))
    torch.testing.assert_close(found.centre[:, 0], torch.tensor([[0.125, 0.125], [0.875, 0.875], [0.5, 0.5]]))
    assert (found.cls_share == 0).all()


def test_permuting_queries_permutes_the_figures():
    capture = tiny_capture()
    order = torch.tensor([3, 1, 0, 2, 7, 6, 5, 4])
    moved = replace(capture, cross_attention=capture.cross_attention[..., order, :])
    plain, found = query_statistics(capture), query_statistics(moved)
    for name in ("entropy", "effective_patches", "focus", "cls_share", "centre"):
        torch.testing.assert_close(getattr(found, name), getattr(plain, name)[:, order])


def test_what_does_not_exist_is_refused_and_inputs_stay():
    capture = tiny_capture(2)
    before = capture.cross_attention.clone()
    query_statistics(capture).cls_share.fill_(-1)
    assert torch.equal(capture.cross_attention, before)
    with pytest.raises(BadSelection):
        query_statistics(capture, image=2)
    with pytest.raises(BadSelection):
        query_statistics(capture, head=4)
