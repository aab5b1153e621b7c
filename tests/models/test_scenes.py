"""The rendered world: what it says about a picture is what the picture shows."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from qformer_viz.domains.emoji import scenes
from qformer_viz.domains.emoji.backgrounds import BACKGROUNDS
from qformer_viz.domains.emoji.scenes import (
    IMAGE_SIZE,
    LAYOUTS,
    NOUNS,
    STYLES,
    TEACHING_STYLES,
    UNSEEN_STYLES,
    Scene,
    has_drawing,
    layout_scene,
    patch_labels,
    random_scene,
    render,
    size_level,
)

seeds = st.integers(0, 10**6)


def test_nouns_are_64_with_a_drawing_in_every_sheet():
    assert len(NOUNS) == 64
    for style in STYLES:
        sheet = Image.open(scenes.SHEETS / f"{style}.png")
        assert sheet.mode == "RGBA" and sheet.size == (768, 768)
        cells = np.asarray(sheet)[..., 3].reshape(8, 96, 8, 96).mean((1, 3)).ravel()
        assert (cells > 15).all(), [NOUNS[i] for i in np.flatnonzero(cells <= 15)]


def test_further_artwork_holds_every_noun_somewhere_and_is_drawn_where_it_does():
    assert not set(TEACHING_STYLES) & ({*STYLES} | {*UNSEEN_STYLES})
    for noun in NOUNS:
        assert sum(has_drawing(style, noun) for style in TEACHING_STYLES) >= 3, noun
    assert not has_drawing("emojione-v1", "drum") and has_drawing("openmoji", "drum")
    for style in TEACHING_STYLES:
        with (scenes.SHEETS / f"{style}.png").open("rb") as file, Image.open(file) as sheet:
            assert sheet.size == (768, 768)
    drawn = [o for seed in range(150) for o in random_scene(seed, styles=TEACHING_STYLES).objects]
    assert {o.style for o in drawn} == set(TEACHING_STYLES)
    assert all(has_drawing(o.style, o.noun) for o in drawn)


@settings(deadline=None, max_examples=40)
@given(seeds)
def test_a_mask_is_where_the_picture_changes_when_the_object_goes(seed):
    scene = random_scene(seed)
    whole = render(scene)
    front = len(scene.objects) - 1
    without = render(dataclasses.replace(scene, objects=scene.objects[:front]))
    changed = (np.asarray(whole.image) != np.asarray(without.image)).any(2)
    mask = whole.masks[front]
    # A drawn pixel may happen to have the background's colour; an undrawn one never changes beyond its soft edge.
    assert changed[mask].mean() > 0.9
    grown = np.pad(mask, 3)
    near = np.max(
        [grown[dy : dy + IMAGE_SIZE, dx : dx + IMAGE_SIZE] for dy in range(7) for dx in range(7)], axis=0
    )
    assert (changed & ~near).sum() < 0.15 * mask.sum()


@settings(deadline=None, max_examples=40)
@given(seeds)
def test_masks_do_not_overlap_and_boxes_enclose_them(seed):
    drawn = render(random_scene(seed))
    assert drawn.masks.sum(0).max() <= 1
    assert drawn.image.mode == "RGB" and drawn.image.size == (IMAGE_SIZE, IMAGE_SIZE)
    for mask, (left, top, right, bottom) in zip(drawn.masks, drawn.boxes, strict=True):
        assert mask.sum() == mask[top:bottom, left:right].sum() > 200
        assert mask[top].any() and mask[bottom - 1].any() and mask[:, left].any() and mask[:, right - 1].any()


@settings(deadline=None, max_examples=40)
@given(seeds)
def test_patch_labels_name_the_object_that_covers_most(seed):
    drawn = render(random_scene(seed))
    labels = patch_labels(drawn)
    assert labels.shape == (16, 16)
    for row, column in np.ndindex(16, 16):
        cover = drawn.masks[:, row * 14 : row * 14 + 14, column * 14 : column * 14 + 14].mean((1, 2))
        expected = int(cover.argmax()) if cover.max() >= 0.25 else -1
        assert labels[row, column] == expected


@settings(deadline=None, max_examples=60)
@given(seeds)
def test_centres_keep_off_zone_boundaries_and_sizes_have_a_clear_name(seed):
    scene = random_scene(seed)
    for item in scene.objects:
        for value in (item.x, item.y):
            assert 0 < value < IMAGE_SIZE
            assert min(abs(value - IMAGE_SIZE / 3), abs(value - 2 * IMAGE_SIZE / 3)) >= 7.9
        low, high = scenes.SIZE_LEVELS[size_level(item.size)]
        assert low <= item.size <= high


@settings(deadline=None, max_examples=20)
@given(seeds)
def test_same_seed_same_picture_and_json_round_trip(seed):
    scene = random_scene(seed)
    assert scene == random_scene(seed)
    assert scene != random_scene(seed + 1)
    back = Scene.from_dict(json.loads(json.dumps(scene.to_dict())))
    assert back == scene
    assert np.array_equal(np.asarray(render(back).image), np.asarray(render(scene).image))


def test_object_is_drawn_at_its_place_and_size():
    scene = layout_scene(["star"], "row", "noto")
    item = scene.objects[0]
    left, top, right, bottom = render(scene).boxes[0]
    assert abs((left + right) / 2 - item.x) <= 1.5 and abs((top + bottom) / 2 - item.y) <= 1.5
    assert abs(max(right - left, bottom - top) - item.size) <= 3


def test_flip_mirrors_the_object():
    scene = layout_scene(["duck"], "row", "noto")
    flipped = dataclasses.replace(scene, objects=(dataclasses.replace(scene.objects[0], flip=True),))
    mask, mirrored = render(scene).masks[0], render(flipped).masks[0]
    agree = (mask[:, ::-1] & mirrored).sum() / (mask[:, ::-1] | mirrored).sum()
    assert agree > 0.93 and agree > (mask & mirrored).sum() / (mask | mirrored).sum()


def test_repeated_nouns_are_frequent_and_styles_and_backgrounds_all_occur():
    drawn = [random_scene(seed) for seed in range(300)]
    several = [scene for scene in drawn if len(scene.objects) > 1]
    repeats = np.mean([len({o.noun for o in s.objects}) < len(s.objects) for s in several])
    assert 0.3 < repeats < 0.7
    assert {o.style for s in drawn for o in s.objects} == set(STYLES)
    assert {s.background.kind for s in drawn} == set(BACKGROUNDS)
    assert {len(s.objects) for s in drawn} == {1, 2, 3, 4}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_layouts_place_every_chosen_noun_clear_of_the_boundaries(layout, count):
    nouns = ["cat", "dog", "cat", "bus"][:count]
    scene = layout_scene(nouns, layout, seed=5)
    assert [item.noun for item in scene.objects] == nouns
    for item in scene.objects:
        for value in (item.x, item.y):
            assert min(abs(value - IMAGE_SIZE / 3), abs(value - 2 * IMAGE_SIZE / 3)) >= 7.9
    assert all(mask.sum() > 200 for mask in render(scene).masks)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], "row"), "one to 4"),
        ((["cat"] * 5, "row"), "one to 4"),
        ((["unicorn"], "row"), "unknown noun 'unicorn'"),
        ((["cat"], "spiral"), "unknown layout 'spiral'"),
        ((["cat"], "row", "crayon"), "unknown style 'crayon'"),
        ((["cat"], "row", "noto", "lava"), "unknown background 'lava'"),
    ],
)
def test_the_scene_maker_says_what_was_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        layout_scene(*arguments)


def test_the_gallery_on_disk_is_what_its_scenes_draw():
    from model.example_scenes import EXAMPLES

    index = json.loads((EXAMPLES / "scenes.json").read_text())
    assert len(index) >= 8
    for name, data in index.items():
        shown = np.asarray(Image.open(EXAMPLES / name)).astype(int)
        drawn = np.asarray(render(Scene.from_dict(data)).image).astype(int)
        assert np.abs(shown - drawn).max() <= 2, name


def test_scenes_and_text_load_neither_transformers_nor_scipy():
    code = (
        "import sys, model, model.scene_text, qformer_viz.domains.emoji.scenes;"
        "sys.exit(bool({'transformers', 'scipy', 'gradio'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_bent_drawing_is_another_picture_of_the_same_thing_in_the_same_place():
    scene = layout_scene(["cat"], "row", style="noto")
    (item,) = scene.objects

    def mask(warp):
        bent = dataclasses.replace(item, warp=warp)
        return render(dataclasses.replace(scene, objects=(bent,))).masks[0]

    straight = mask(0)
    for warp in range(1, 6):
        bent = mask(warp)
        assert (bent == mask(warp)).all() and (bent != straight).any()
        assert (bent & straight).sum() / (bent | straight).sum() > 0.5
        assert 0.5 < bent.sum() / straight.sum() < 1.6
