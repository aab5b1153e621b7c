import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from qformer_viz.errors import BadShape
from qformer_viz.view import palette
from qformer_viz.view.stage_payload import MAX_BYTES, canvas_payload, embed, error_bound, pack, unpack
from tests.support.planted import blobs, capture_of, picture


def spread(kind, shape=(6, 12, 32, 257), seed=0):
    """Maps that are hard to pack; "bytes" makes every step equally frequent, which is the worst there is."""
    draw = np.random.default_rng(seed).random(shape)
    if kind == "bytes":
        draw = draw**2
    return draw / draw.sum(-1, keepdims=True)


@pytest.mark.parametrize("kind", ["uniform", "bytes"])
def test_published_geometry_fits_even_at_the_highest_entropy(kind):
    payload = canvas_payload(capture_of(spread(kind), (16, 16)), picture(), meta={"model": "m"})
    without_image = json.dumps({**payload, "image": None})
    assert len(without_image) <= MAX_BYTES == 700_000
    assert payload["levels"] >= 95


def test_peaked_maps_keep_all_levels():
    payload = canvas_payload(blobs(), picture())
    assert payload["levels"] == 255
    assert payload["shape"] == [3, 4, 32, 256] and payload["cross_layers"] == [0, 2, 4]


@pytest.mark.parametrize(
    "cross", [spread("bytes", (2, 3, 8, 65)), blobs(2, 2, 8).cross_attention[:, 0].numpy()]
)
def test_values_come_back_within_the_stated_error(cross):
    payload = {**pack(cross), "shape": [*cross.shape[:3], cross.shape[3] - 1]}
    patches, cls = unpack(payload)
    peaks = cross[..., 1:].max(-1, keepdims=True)
    error = np.abs(patches - cross[..., 1:]) / peaks
    # The peak itself travels as 16 bits, hence the small addition.
    assert error.max() <= error_bound(payload["levels"]) + 1e-3
    assert np.abs(cls - cross[..., 0]).max() <= 2e-5


def test_the_stated_error_is_nearly_reached():
    """A bound that nothing comes near says nothing."""
    cross = spread("bytes", (2, 3, 8, 65))
    patches, _ = unpack({**pack(cross), "shape": [2, 3, 8, 64]})
    worst = (np.abs(patches - cross[..., 1:]) / cross[..., 1:].max(-1, keepdims=True)).max()
    assert worst > 0.7 * error_bound(255)


def test_all_attention_on_cls_and_all_on_one_patch_are_exact():
    cross = np.zeros((1, 1, 2, 5))
    cross[..., 0, 0] = cross[..., 1, 3] = 1
    patches, cls = unpack({**pack(cross), "shape": [1, 1, 2, 4]})
    assert (patches[0, 0] == cross[0, 0, :, 1:]).all() and (cls[0, 0] == [1, 0]).all()


def test_the_capture_is_left_alone():
    capture = blobs(2, 2, 8)
    before = capture.cross_attention.clone()
    canvas_payload(capture, picture())
    assert (capture.cross_attention == before).all()


@pytest.mark.parametrize("bad", [np.nan, -0.1, 1.5])
def test_what_is_not_a_probability_is_refused(bad):
    cross = np.full((1, 1, 2, 5), 0.2)
    cross[0, 0, 0, 2] = bad
    with pytest.raises(BadShape, match="probabilities"):
        pack(cross)


def test_maps_that_cannot_fit_are_refused_with_the_way_out():
    with pytest.raises(BadShape, match="NPZ"):
        pack(spread("bytes", (12, 12, 64, 257)))


@pytest.mark.parametrize(
    ("size", "shown"),
    [((3000, 1500), (768, 384)), ((800, 1600), (384, 768)), ((40, 30), (40, 30)), ((5000, 1), (768, 1))],
)
def test_the_image_is_embedded_small_at_its_own_shape(size, shown):
    image = canvas_payload(blobs(1, 1, 4), picture(*size))["image"]
    head, data = image["src"].split(",")
    assert head == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == shown
    assert (image["width"], image["height"]) == size


def test_colours_travel_with_the_payload():
    payload = canvas_payload(blobs(1, 1, 4), picture())
    assert {k: tuple(v) for k, v in payload["palettes"].items()} == palette.STOPS
    assert tuple(payload["outlines"]) == palette.OUTLINES


def test_meta_must_be_json():
    with pytest.raises(ValueError, match="JSON"):
        canvas_payload(blobs(1, 1, 4), picture(), meta={"loss": float("nan")})


def test_noise_is_embedded():
    """It compresses to more bytes than it has pixels."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert embed(Image.fromarray(noise))["src"].startswith("data:image/jpeg")
