"""The bridge's warm start: descriptions in their places, planted prefixes with known cost."""

import numpy as np
import pytest
import torch

from model.scene_text import FILLER, description_words
from model.slot_warmup import region, regional_description, slot_loss
from qformer_viz.domains.emoji.scenes import layout_scene, random_scene


def test_regions_read_like_a_page():
    assert [region(1, 1), region(223, 1), region(1, 223), region(223, 223)] == [0, 3, 28, 31]
    assert region(-5, 500) == 28


def test_every_object_has_a_slot_of_its_own():
    for seed in range(200):
        scene = random_scene(np.random.default_rng(seed))
        slots = regional_description(scene)
        held = [words for words in slots if words != [FILLER]]
        assert sorted(held) == sorted(description_words(item) for item in scene.objects)


def test_objects_stand_in_their_regions():
    scene = layout_scene(["cat", "dog"], "row")
    slots = regional_description(scene)
    for item in scene.objects:
        assert slots[region(item.x, item.y)][0] == item.noun


@pytest.fixture
def planted():
    words = torch.eye(16)
    described = torch.full((1, 32, 4), -1)
    described[..., 0] = 0
    described[0, 3], described[0, 20] = torch.tensor([1, 2, 3, 4]), torch.tensor([5, 6, 7, 8])
    prefix = torch.where(described[..., None] >= 0, words[described.clamp_min(0)], 0.0).sum(-2)
    return prefix, described, words


def test_the_description_itself_is_the_cheapest_prefix(planted):
    prefix, described, words = planted
    best, right = slot_loss(prefix, described, words)
    assert right == 1
    for slot, wrong in ((3, words[9] - words[1]), (10, words[9])):
        other = prefix.clone()
        other[0, slot] += wrong
        assert slot_loss(other, described, words)[0] > best


def test_a_wrong_word_is_counted(planted):
    prefix, described, words = planted
    prefix[0, 3] += words[9] - words[1]
    assert slot_loss(prefix, described, words)[1] == pytest.approx(7 / 8)
