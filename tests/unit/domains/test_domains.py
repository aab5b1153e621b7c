"""Every domain is found by its name, and nothing else in the repository knows that name."""

import itertools
from pathlib import Path

import pytest

from qformer_viz.domains.domain_registry import DOMAINS, EMOJI_SCENES, find_domain
from qformer_viz.domains.photographs import Photographs
from qformer_viz.media.image_decoder import decode
from qformer_viz.runtime.checkpoints import CHECKPOINTS

ROOT = Path(__file__).parents[3]


def pixels(picture):
    return decode(picture).sha256


def test_a_listed_name_finds_its_domain_and_any_other_photographs_of_that_name():
    assert all(find_domain(name) is domain and domain.name == name for name, domain in DOMAINS.items())
    assert find_domain("cartoons") == Photographs("cartoons") and find_domain("").name == ""


def test_every_checkpoint_has_its_domain():
    for entry in CHECKPOINTS.values():
        assert entry.domain is DOMAINS[entry.world]
        assert entry.domain.is_bundled == (entry.folder is not None)
    assert CHECKPOINTS[EMOJI_SCENES.matcher].family == "retrieval"


def test_only_the_domain_knows_its_name():
    """Elsewhere it is prose, or the name of the object."""
    paths = [
        ROOT / "app.py",
        *(path for top in ("qformer_viz", "model") for path in (ROOT / top).rglob("*.py")),
    ]
    found = [path.name for path in paths if f'"{EMOJI_SCENES.name}"' in path.read_text(encoding="utf-8")]
    assert found == ["emoji_domain.py"]


@pytest.mark.parametrize("name", [*DOMAINS, "cartoons"])
def test_reference_images_are_the_same_every_time(name):
    domain = find_domain(name)
    first, second = ([*itertools.islice(domain.reference_images(), 3)] for _ in range(2))
    assert [*map(pixels, first)] == [*map(pixels, second)] and len({*map(pixels, first)}) == 3
    assert [*map(pixels, itertools.islice(domain.sample_images(), 3))] == [*map(pixels, first)]


def test_unseen_scenes_are_no_reference_images():
    reference = {*map(pixels, EMOJI_SCENES.reference_images())}
    unseen = {*map(pixels, EMOJI_SCENES.unseen_images(20))}
    assert len(unseen) == 20 and not unseen & reference


def test_photographs_have_no_others_and_nothing_known():
    domain = find_domain("photographs")
    assert [*domain.unseen_images(2)] == [*itertools.islice(domain.reference_images(), 2)]
    assert len([*domain.unseen_images(100)]) == 12
    assert [*domain.ground_truth(3)] == [*domain.labelled_images(3)] == [] and domain.examples() == ()
    assert (
        domain.scene_maker() is domain.ood_check(ROOT) is domain.unknown_words(None) is domain.matcher is None
    )


def test_a_folder_without_a_detector_has_no_check(tmp_path):
    assert EMOJI_SCENES.ood_check(tmp_path) is None and EMOJI_SCENES.ood_check(None) is None


def test_words_that_the_tokenizer_splits_are_unknown():
    def tokenizer(text, add_special_tokens):
        assert not add_special_tokens
        return {"input_ids": [1] if text.strip() in ("is", "a", "cat") else [1, 2]}

    check = EMOJI_SCENES.unknown_words(tokenizer)
    assert check("Is a giraffe, a Zebra or giraffe a cat?") == ("giraffe", "zebra", "or")
