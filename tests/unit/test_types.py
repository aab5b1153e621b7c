"""Capture refuses tensors that do not belong together, and hands out single images as copies."""

import copy
import io
import pickle
from dataclasses import FrozenInstanceError, fields, replace
from unittest.mock import Mock

import pytest
import torch

import qformer_viz
from qformer_viz import Attribution, BadSelection, BadShape, Capture
from tests.support.fakes import pixels, tiny_blip2, tiny_capture


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


def through_torch(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file)


def through_pickle(value):
    return pickle.loads(pickle.dumps(value))


def equal(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other) and one.dtype == other.dtype
    return one == other


WAYS = [through_torch, through_pickle, copy.copy, copy.deepcopy]


@pytest.mark.parametrize("way", WAYS)
def test_a_capture_comes_back_whole(way):
    capture = replace(tiny_capture(images=2), text_attention=torch.rand(6, 2, 4, 8, 3))
    again = way(capture)
    assert isinstance(again, Capture) and again is not capture
    assert all(equal(getattr(capture, each.name), getattr(again, each.name)) for each in fields(Capture))
    if way is copy.deepcopy:
        again.cross_attention.zero_()
        assert capture.cross_attention.any()


@pytest.mark.parametrize("way", WAYS)
def test_a_recording_comes_back_whole(way):
    model = tiny_blip2()
    with torch.no_grad(), qformer_viz.capture(model) as recording:
        model.get_image_features(pixels())
    with qformer_viz.capture(model) as empty:
        pass
    assert way(empty).captures == ()
    assert torch.equal(way(recording).cross_attention, recording.cross_attention)


@pytest.mark.parametrize("way", WAYS)
def test_results_come_back_whole(way):
    captures = [tiny_capture(seed=seed) for seed in range(3)]
    attribution = Attribution(
        words=("a", "cat"),
        scores=torch.rand(2, 8, 16),
        logprobs=torch.rand(2),
        image_gain=torch.rand(2),
        method="knockout",
        layer=4,
        cls=torch.rand(8),
        grid=(4, 4),
        seconds=1.0,
    )
    several = [
        attribution,
        qformer_viz.query_statistics(captures[0]),
        qformer_viz.image_set_statistics(captures),
        qformer_viz.compare_models(captures, captures[::-1]),
    ]
    for result in several:
        again = way(result)
        assert type(again) is type(result) and vars(again).keys() == vars(result).keys()
        assert repr(again) == repr(result)


def test_a_capture_that_was_tampered_with_is_refused():
    state = tiny_capture().__dict__ | {"grid": (5, 5)}
    forged = object.__new__(Capture)
    forged.__dict__.update(state)
    for way in WAYS:
        with pytest.raises(BadShape, match="grid"):
            way(forged)


def test_a_case_without_means_tells_what_is_missing():
    case = qformer_viz.ExplanationContext(Mock(), tiny_capture(), None)
    with pytest.raises(qformer_viz.IncompleteContext, match=r"`reference`.*qformer_viz\.prepare"):
        qformer_viz.analysis.head_ablation.ablate_heads(case)
    with pytest.raises(qformer_viz.IncompleteContext, match=r"`features`.*qformer_viz\.prepare"):
        case.features()
    with pytest.raises(qformer_viz.IncompleteContext, match="`reference`"):
        qformer_viz.analysis.head_ablation.ablate_query_messages(case)
    assert replace(case, reference=lambda: 7).reference() == 7
