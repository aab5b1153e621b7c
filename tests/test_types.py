"""Capture refuses tensors that do not belong together, and hands out single images as copies."""

from dataclasses import FrozenInstanceError, fields, replace

import pytest
import torch

from qformer_viz import BadSelection, BadShape
from tests.fakes import tiny_capture


def test_frozen():
    with pytest.raises(FrozenInstanceError):
        tiny_capture().grid = (1, 1)


@pytest.mark.parametrize(
    "change",
    [
        {"cross_attention": torch.rand(3, 4, 8, 17)},
        {"cross_attention": torch.rand(3, 2, 4, 7, 17)},
        {"self_attention": torch.rand(6, 1, 4, 8, 8)},
        {"self_attention": torch.rand(6, 2, 4, 8, 9)},
        {"query_states": torch.rand(6, 2, 8, 16)},
        {"query_states": torch.rand(7, 1, 8, 16)},
        {"query_tokens": torch.rand(8, 15)},
        {"text_attention": torch.rand(6, 2, 4, 7, 3)},
        {"text_attention": torch.rand(6, 2, 4, 8)},
        {"cross_layers": (0, 2)},
        {"grid": (4, 5)},
    ],
)
def test_refuses_what_does_not_fit(change):
    with pytest.raises(BadShape, match=next(iter(change))):
        replace(tiny_capture(2), **change)


@pytest.mark.parametrize("index", [0, 1, 2, -1])
def test_image_is_that_image_and_a_copy(index):
    whole = replace(tiny_capture(3), text_attention=torch.rand(6, 3, 4, 8, 5))
    one = whole.image(index)
    assert torch.equal(one.text_attention[:, 0], whole.text_attention[:, index])
    assert torch.equal(one.cross_attention[:, 0], whole.cross_attention[:, index])
    assert torch.equal(one.self_attention[:, 0], whole.self_attention[:, index])
    assert torch.equal(one.query_states[:, 0], whole.query_states[:, index])
    for name in ("cross_attention", "self_attention", "query_states", "text_attention"):
        part, full = getattr(one, name), getattr(whole, name)
        assert part.shape[1] == 1 and part.is_contiguous()
        assert part.untyped_storage().data_ptr() != full.untyped_storage().data_ptr()


@pytest.mark.parametrize("index", [3, -4])
def test_image_that_does_not_exist(index):
    with pytest.raises(BadSelection, match=r"0\.\.2"):
        tiny_capture(3).image(index)


def test_html_names_every_field_and_escapes():
    html = replace(tiny_capture(), attn_implementation="<b>sdpa</b>")._repr_html_()
    names = {field.name for field in fields(tiny_capture())} - {"attn_implementation", "text_attention"}
    assert all(name in html for name in names) and "text_attention" not in html
    read = replace(tiny_capture(), text_attention=torch.rand(6, 1, 4, 8, 5))
    assert "text_attention" in read._repr_html_() and "[6, 1, 4, 8, 5]" in repr(read)
    assert "[3, 1, 4, 8, 17]" in html and "4 × 4" in html
    assert "<b>" not in html and "&lt;b&gt;sdpa&lt;/b&gt;" in html
    assert len(html) < 2000


def test_repr_prints_shapes_not_numbers():
    assert "[3, 1, 4, 8, 17]" in repr(tiny_capture()) and len(repr(tiny_capture())) < 400
