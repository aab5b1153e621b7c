"""Scenes recognised by their pixels, and drawn again with an object gone or moved."""

import numpy as np
from PIL import Image

import qformer_viz
from model.example_scenes import gallery
from qformer_viz.cli import app_setup
from qformer_viz.domains.domain_registry import EMOJI_SCENES
from qformer_viz.domains.emoji import scene_registry
from qformer_viz.domains.emoji.ground_truth import masks
from qformer_viz.domains.emoji.scenes import layout_scene, render
from qformer_viz.media.image_decoder import decode
from qformer_viz.ui import conversation
from qformer_viz.ui.conversation import Session
from qformer_viz.ui.inspector import what_if_view, word_evidence_view

SCENE = layout_scene(("cat", "dog", "dog"), "row", "noto", "plain", 4)


def test_a_scene_is_known_by_its_pixels_and_nothing_else():
    scenes = scene_registry.SceneRegistry()
    image = scenes.draw(SCENE)
    assert scenes.recall(image.copy()) == SCENE
    other = image.copy()
    other.putpixel((0, 0), (1, 2, 3))
    assert scenes.recall(other) is None and scenes.recall(image.resize((100, 100))) is None
    assert scene_registry.SceneRegistry().recall(image) is None


def test_only_so_many_are_kept(monkeypatch):
    monkeypatch.setattr(scene_registry, "KEPT", 2)
    scenes = scene_registry.SceneRegistry()
    images = [scenes.draw(layout_scene(("cat",), "row", "noto", "plain", seed)) for seed in range(3)]
    assert [scenes.recall(image) is not None for image in images] == [False, True, True]


def test_the_examples_are_known_from_their_files():
    maker = EMOJI_SCENES.scene_maker()
    for path, _ in EMOJI_SCENES.examples():
        found = maker.recall(decode(path).image)
        scene = gallery()[path.name]
        assert found.objects == scene_registry.names(scene)
        assert set(found.masks) == {item.noun for item in scene.objects if found.objects.count(item.noun)}
    assert maker.recall(Image.new("RGB", (224, 224))) is None


def test_a_film_is_one_object_crossing_a_scene_that_stays():
    scene = layout_scene(["cat", "dog"], "row", "noto")
    steps = scene_registry.crossing(scene, 4)
    walker = [next(item for item in step.objects if item.noun == "cat") for step in steps]
    assert [item.x for item in walker] == sorted({item.x for item in walker})
    assert {item.y for item in walker} == {scene.objects[0].y}
    assert all(step.objects[0] == scene.objects[1] for step in steps)
    frames = EMOJI_SCENES.scene_maker().video(["cat", "dog"], "row", "noto")
    assert len(frames) == 4 and len({frame.tobytes() for frame in frames}) == 4


def test_the_scene_maker_knows_what_it_drew_and_drew_again():
    maker = EMOJI_SCENES.scene_maker()
    image = maker.render(["cat", "dog"], "row", "noto")
    found = maker.recall(image)
    assert found.objects == ("cat", "dog") and set(found.masks) == {"cat", "dog"}
    assert found.masks["cat"][:, :8].any() and not found.masks["cat"][:, 8:].any()
    again = maker.recall(found.without(0))
    assert again.objects == ("dog",) and not again.masks["dog"][:, :8].any()
    moved = maker.recall(found.moved(1, 0.1, 0.1))
    assert moved.objects == ("cat", "dog") and moved.masks["dog"][:8, :8].any()


def test_names_tell_equal_nouns_apart():
    assert scene_registry.names(SCENE) == ("cat", "dog 1", "dog 2")


def test_an_object_is_taken_out_and_the_rest_stays():
    whole, less = render(SCENE), render(scene_registry.without(SCENE, 0))
    away = whole.masks[0]
    changed = (np.asarray(whole.image, int) != np.asarray(less.image, int)).any(-1)
    assert changed[away].mean() > 0.9 and not changed[:, 112:].any()
    assert len(scene_registry.without(SCENE, 0).objects) == 2


def test_a_moved_object_stays_inside_and_in_front():
    scene = scene_registry.moved(SCENE, 0, 1.0, 0.0)
    item = scene.objects[-1]
    assert item.noun == "cat" and (item.x, item.y) == (224 - item.size / 2, item.size / 2)
    assert scene_registry.moved(SCENE, 0, 0.5, 0.5).objects[-1].x == 112
    picture = render(scene)
    assert picture.masks[-1][:112, 112:].sum() > 0.95 * picture.masks[-1].sum()


def test_masks_are_those_of_nouns_shown_once():
    assert set(masks(SCENE, render(SCENE))) == {"cat"}


def test_the_page_judges_an_example_by_its_mask_and_draws_it_again():
    """The real wiring: bundled model, example file, verdict with the object, and the object taken out."""
    services = app_setup.make_context(qformer_viz.load("blip2-emoji", observe=qformer_viz.capture))
    path = services.examples[0][0]
    session = conversation.look(services, Session(), str(path), None)
    *_, session = conversation.answer(services, session, None)
    word = session.answer.text.split().index("cat")
    told, plot = word_evidence_view.judged(
        services, session, {"method": "knockout", "word": word}, lambda *_, **__: None
    )
    assert "✓ Confirmed: " in told and "<dt>Peak in the object</dt><dd>yes</dd>" in told and plot["visible"]
    told = what_if_view.run_change(
        what_if_view.redrawn, services, session, "cat", what_if_view.REMOVE, "middle"
    )
    assert "Without the cat:" in told
    after = told.split("now, greedily")[1].split("<dd>")[1].split("</dd>")[0]
    assert "dog" in after and "cat" not in after
