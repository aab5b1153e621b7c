"""Where a model's input lies on a picture, against squares painted on it: every image processor, every shape."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import qformer_viz
from qformer_viz.errors import CheckpointError
from qformer_viz.runtime.input_placement import Placement, Placer, measure
from qformer_viz.runtime.loading import load
from qformer_viz.runtime.map_placement import in_padding
from qformer_viz.view import archive
from qformer_viz.view.contact_sheets import contact_sheet
from qformer_viz.view.map_images import PAD, WIDTH, Selection, overlay_png, overlay_svg
from qformer_viz.view.palette import table
from qformer_viz.view.stage_payload import canvas_payload
from tests.support import checkpoint_factory as factory
from tests.support.planted import blobs, capture_of, picture

SIDE, GRID = 28, (2, 2)
SHAPES = {"wide": (300, 100), "tall": (90, 270), "square": (160, 160), "odd": (211, 157)}
CROPS = ("crop", "crop by BlipImageProcessor")
PADS = ("pad right and below", "pad around", "pad with a colour")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return factory.write(tmp_path_factory.mktemp("placement") / "folder", "blip2-opt")


@pytest.fixture(scope="module")
def processors(tmp_path_factory):
    """The image processors as `from_pretrained` reads them out of a folder, at 56 pixels."""
    found = {}
    for name in factory.IMAGE_PROCESSORS:
        inner, reader, _ = factory.tokenizers("blip2", "opt")
        place = tmp_path_factory.mktemp("processor")
        factory.save_processor(
            place, factory.processor(transformers.BlipImageProcessor(), inner, reader, factory.QUERIES)
        )
        factory.with_image_processor(place, name, 2 * SIDE)
        found[name] = transformers.Blip2Processor.from_pretrained(
            place, local_files_only=True
        ).image_processor
    return found


def painted(size, centre, side):
    """A black picture with one white square; centre and side in pixels."""
    made = Image.new("RGB", size)
    left, top = (round(at - side / 2) for at in centre)
    made.paste("white", (left, top, left + side, top + side))
    return made, (left + side / 2, top + side / 2)


def landed(processor, made):
    """Where the white square lies in what the processor makes of the picture: its centre in shares of the input."""
    pixels, plain = (
        np.asarray(processor([each], return_tensors="pt")["pixel_values"])[0].mean(0)
        for each in (made, Image.new("RGB", made.size))
    )
    bright = pixels - plain
    bright[bright < 0.05 * bright.max()] = 0
    rows, columns = (
        np.average(np.arange(n) + 0.5, weights=bright.sum(1 - axis)) / n
        for axis, n in enumerate(bright.shape)
    )
    return columns, rows


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", factory.IMAGE_PROCESSORS)
def test_a_painted_square_lands_where_the_placement_says(processors, name, shape):
    size = SHAPES[shape]
    left, top, right, bottom = measure(processors[name], size).box
    step = (right - left) / (2 * SIDE), (bottom - top) / (2 * SIDE)
    # Within what a crop to the middle shows of any of these pictures.
    reach = 18 if name == "crop only" else 0.26 * min(size)
    for across, down in ((0, 0), (-1, 1), (1, -0.5)):
        centre = size[0] / 2 + across * reach, size[1] / 2 + down * reach
        made, (x, y) = painted(size, centre, max(10, min(size) // 8))
        column, row = landed(processors[name], made)
        assert left + column * (right - left) == pytest.approx(x, abs=step[0])
        assert top + row * (bottom - top) == pytest.approx(y, abs=step[1])


def test_what_is_cut_off_does_not_reach_the_model(processors):
    placed = measure(processors["crop"], (300, 100))
    assert placed.box == pytest.approx((100, 0, 200, 100), abs=1)
    made, _ = painted((300, 100), (60, 50), 40)
    plain = processors["crop"]([Image.new("RGB", (300, 100))], return_tensors="pt")["pixel_values"]
    assert torch.equal(processors["crop"]([made], return_tensors="pt")["pixel_values"], plain)
    assert placed.unseen == pytest.approx(2 / 3, abs=0.01) and placed.padding == 0
    assert placed.notice.startswith("The model sees only the middle of this picture: 67% was cut off")


def test_padding_lies_outside_the_picture(processors):
    boxes = {name: measure(processors[name], (300, 100)) for name in PADS}
    assert boxes["pad right and below"].box == pytest.approx((0, 0, 300, 300), abs=12)
    assert boxes["pad with a colour"].box == pytest.approx((0, -100, 300, 200), abs=3)
    for placed in boxes.values():
        assert placed.unseen == 0 and placed.padding == pytest.approx(2 / 3, abs=0.02)
        assert "is padding" in placed.notice


@pytest.mark.parametrize("name", factory.IMAGE_PROCESSORS)
def test_only_a_processor_that_squashes_every_picture_is_not_measured(processors, name):
    place = Placer(processors[name])
    assert place.squashes == (name == "squash")
    for size in ((1, 1), (1500, 2), (300, 100)):
        if name == "squash":
            placed = place(size)
            assert placed == Placement(size, (0, 0, *size)) and placed.whole and placed.notice == ""
    assert place((64, 48)) is place((64, 48)) or name == "squash"


@pytest.mark.parametrize("name", [*CROPS, "pad around", "pad with a colour"])
def test_thin_and_tiny_pictures_are_placed(processors, name):
    for size in ((3, 2), (1, 1), (400, 20)):
        left, top, right, bottom = measure(processors[name], size).box
        assert (left + right) / 2 == pytest.approx(size[0] / 2, abs=0.05 * size[0])
        assert (top + bottom) / 2 == pytest.approx(size[1] / 2, abs=0.05 * size[0])


class Turned:
    """A processor that turns, mirrors, bends, tiles or blinds."""

    def __init__(self, kind):
        self.kind = kind

    def __call__(self, pictures, return_tensors):
        small = pictures[0].resize((SIDE, SIDE))
        if self.kind == "mirrored":
            small = small.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.kind == "turned":
            small = small.rotate(90)
        if self.kind == "slanted":
            small = small.rotate(20, fillcolor="grey")
        pixels = torch.tensor(np.asarray(small, np.float32)).permute(2, 0, 1)[None]
        if self.kind == "bent":
            pixels = pixels**3
        if self.kind == "tiled":
            pixels = pixels.repeat(4, 1, 1, 1)
        return {"pixel_values": pixels * 0 if self.kind == "blind" else pixels}


@pytest.mark.parametrize("kind", ["mirrored", "turned", "slanted", "bent", "tiled", "blind"])
def test_what_is_no_upright_rectangle_is_refused(kind):
    assert measure(Turned("upright"), (64, 48)).whole
    with pytest.raises(CheckpointError, match="not an upright rectangle"):
        measure(Turned(kind), (64, 48))


def test_such_a_folder_is_refused_at_load(folder, monkeypatch):
    monkeypatch.setattr(
        transformers.BlipImageProcessorPil,
        "__call__",
        lambda self, *args, **how: Turned("mirrored")(*args, **how),
    )
    with pytest.raises(CheckpointError, match="turns or mirrors"):
        load(folder, device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("name", factory.IMAGE_PROCESSORS)
def test_a_planted_map_is_drawn_over_what_its_patch_saw(folder, name):
    """From a folder to the canvas's payload and the saved picture."""
    pipe = load(factory.with_image_processor(folder, name), device="cpu", observe=qformer_viz.capture)
    for size in (SHAPES["wide"], SHAPES["tall"]):
        reach = 9 if name == "crop only" else min(size) / 4
        made, (x, y) = painted(size, (size[0] / 2 + reach, size[1] / 2 - reach), 8 if reach == 9 else 16)
        encoded = pipe.encode(made)
        pixels, plain = (pipe.encoder._pixels([each])[0].mean(0) for each in (made, Image.new("RGB", size)))
        patch = int((pixels - plain).unflatten(1, (2, -1)).unflatten(0, (2, -1)).sum((1, 3)).argmax())
        cross = torch.zeros(1, 1, 1, 5)
        cross[..., 1 + patch] = 1
        planted = capture_of(cross, GRID)

        image = canvas_payload(planted, encoded.image, placements=encoded.placements)["image"]
        left, top, right, bottom = image.get("box", (0, 0, 1, 1))
        row, column = divmod(patch, 2)
        assert ("box" in image) == (name != "squash")
        assert left + (right - left) * column / 2 <= x / size[0] <= left + (right - left) * (column + 1) / 2
        assert top + (bottom - top) * row / 2 <= y / size[1] <= top + (bottom - top) * (row + 1) / 2

        placed = encoded.placements[0]
        drawn = np.asarray(
            overlay_png(planted, encoded.image, Selection((0,), opacity=1.0), placement=placed)
        )
        high = round(WIDTH * size[1] / size[0])
        brightest = (drawn[PAD : PAD + high, PAD : PAD + WIDTH] == table("viridis")[-1]).all(-1)
        assert brightest[int(y / size[1] * high), int(x / size[0] * WIDTH)]
        outside = np.ones_like(brightest)
        x0, y0, x1, y1 = (
            round(min(max(share, 0), 1) * (high if i % 2 else WIDTH)) for i, share in enumerate(placed.shares)
        )
        outside[y0:y1, x0:x1] = False
        assert not brightest[outside].any()
        assert encoded.notices == tuple(filter(None, [placed.notice]))


def test_the_boundary_is_hatched_and_told_in_png_svg_and_sheet():
    capture, image = blobs(2, 3, 8, grid=(4, 4)), picture(300, 100)
    crop = Placement((300, 100), (100, 0, 200, 100))
    drawn = np.asarray(overlay_png(capture, image, placement=crop)).astype(int)
    bare = np.asarray(image.resize((WIDTH, 400), Image.Resampling.LANCZOS)).astype(int)
    outside = drawn[PAD : PAD + 400, PAD : PAD + 390]
    assert (np.abs(outside - bare[:, :390]).max(-1) > 20).mean() > 0.9
    svg = overlay_svg(capture, image, placement=crop)
    assert svg.count('class="unseen"') == 2 and "67% was cut off" in svg and 'x="432.00"' in svg
    wide, tall = contact_sheet(capture, image), contact_sheet(capture, image, placement=crop)
    assert tall.height > wide.height  # thumbnails have the shape of what the model saw


def test_attention_on_padding_is_told():
    cross = np.full((1, 1, 1, 17), 1 / 17)
    pad = Placement((300, 100), (0, -100, 300, 200))
    assert in_padding((4, 4), pad.shares).sum(1).tolist() == [4, 0, 0, 4]
    svg = overlay_svg(capture_of(cross, (4, 4)), picture(300, 100), placement=pad)
    assert "47.1 % of the attention is on patches of padding" in re.sub(
        "</text><text[^>]*>", " ", svg
    )  # 8 of 17


def test_a_squashed_picture_draws_and_serialises_as_before():
    capture, image = blobs(2, 3, 8, grid=(4, 6)), picture()
    whole = Placement(image.size, (0, 0, *image.size))
    for draw in (overlay_png, contact_sheet):
        assert draw(capture, image, placement=whole).tobytes() == draw(capture, image).tobytes()
    assert overlay_svg(capture, image, placement=whole) == overlay_svg(capture, image)
    assert canvas_payload(capture, image, placements=(whole,)) == canvas_payload(capture, image)
    told = {"image_sha256": "0"}
    assert archive.manifest(capture, {}, placements=(whole,), **told) == archive.manifest(capture, {}, **told)


def test_the_manifest_says_which_part_was_seen():
    crop = Placement((300, 100), (100, 0, 200, 100))
    about = archive.manifest(blobs(2, 3, 8, grid=(4, 4)), {}, image_sha256="0", placements=(crop,))
    assert json.loads(json.dumps(about))["boxes"] == [pytest.approx([1 / 3, 0, 2 / 3, 1])]


@pytest.mark.parametrize(
    ("name", "told"), [("squash", "squashed whole"), ("crop", "3:1: 67% of the picture unseen")]
)
def test_the_doctor_says_where_the_grid_lies(folder, name, told):
    pipe = load(factory.with_image_processor(folder, name), device="cpu")
    (found,) = [each for each in pipe.self_check() if each.what.startswith("the patch grid")]
    assert found.holds and told in found.detail


def test_an_encoded_image_keeps_its_placement_when_patches_are_hidden(folder):
    pipe = load(factory.with_image_processor(folder, "crop"), device="cpu")
    encoded = pipe.encode(Image.new("RGB", (300, 100)))
    assert replace(encoded, capture=None).placements == encoded.placements
    assert pipe.hidden(encoded, torch.tensor([[True, False, True, True]])).placements == encoded.placements
