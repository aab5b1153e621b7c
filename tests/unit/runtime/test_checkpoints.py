"""Which names are accepted, which are refused and with what advice."""

import dataclasses
import json

import pytest

from qformer_viz.domains.domain_registry import EMOJI_SCENES
from qformer_viz.errors import CheckpointError
from qformer_viz.runtime.checkpoints import CARD, CHECKPOINTS, resolve


def folder(tmp_path, **card):
    (tmp_path / "config.json").write_text("{}")
    if card:
        (tmp_path / CARD).write_text(json.dumps(card))
    return tmp_path


def test_every_entry_can_be_spoken_to():
    for name, entry in CHECKPOINTS.items():
        assert name == entry.id and entry.family in {"blip2", "instructblip", "retrieval"}
        assert entry.question_prompt.count("{}") == 1 and entry.caption_prompt
        assert entry.licence != "unknown" and entry.parameters
    with pytest.raises(dataclasses.FrozenInstanceError):
        CHECKPOINTS["blip2-emoji"].title = "other"


def test_only_what_was_run_is_called_verified():
    bundled = {
        "blip2-emoji": "blip2",
        "instructblip-emoji": "instructblip",
        "blip2-emoji-itm": "retrieval",
    }
    assert {name: entry.family for name, entry in CHECKPOINTS.items() if entry.verified} == bundled
    for name, entry in CHECKPOINTS.items():
        assert entry.world == (EMOJI_SCENES.name if name in bundled else "photographs")
        assert (entry.folder is not None) == (name in bundled)


def test_prompts_follow_the_language_model():
    assert CHECKPOINTS["Salesforce/blip2-opt-2.7b"].question_prompt == "Question: {} Answer:"
    assert CHECKPOINTS["Salesforce/blip2-flan-t5-xl"].question_prompt == "Question: {} Short answer:"


def test_the_bundled_prompts_are_those_it_was_trained_with():
    from model import scene_text

    entry = CHECKPOINTS["blip2-emoji"]
    assert (entry.question_prompt, entry.caption_prompt) == (
        scene_text.QUESTION_PROMPT,
        scene_text.CAPTION_PROMPT,
    )


def test_t5_is_not_offered_in_float16_nor_retrieval_in_fewer_bits():
    for name, entry in CHECKPOINTS.items():
        assert ("float16" in entry.precisions) == ("t5" not in name)
        assert ("8bit" in entry.precisions) == ("4bit" in entry.precisions) == ("itm" not in name)
    assert CHECKPOINTS["Salesforce/blip2-flan-t5-xl"].memory("float16") is None


def test_a_listed_name_and_a_folder_resolve(tmp_path):
    assert resolve("Salesforce/blip2-opt-2.7b") is CHECKPOINTS["Salesforce/blip2-opt-2.7b"]
    entry = resolve(folder(tmp_path))
    assert entry.folder == tmp_path and entry.world == "unknown" and entry.location == str(tmp_path)
    assert resolve(str(tmp_path)) == entry


def test_a_folder_may_say_how_it_is_spoken_to(tmp_path):
    entry = resolve(folder(tmp_path, question_prompt="Q: {} A:", world="cartoons"))
    assert (entry.question_prompt, entry.world, entry.caption_prompt) == (
        "Q: {} A:",
        "cartoons",
        "a photo of",
    )


@pytest.mark.parametrize(
    "card", [{"question_prompt": "no place"}, {"verified": True}, {"title": 3}, {"folder": "/"}, ["title"]]
)
def test_a_wrong_card_is_refused(tmp_path, card):
    folder(tmp_path)
    (tmp_path / CARD).write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match=CARD):
        resolve(tmp_path)
    (tmp_path / CARD).write_text("{")
    with pytest.raises(CheckpointError, match=CARD):
        resolve(tmp_path)


def test_an_unlisted_hub_id_needs_the_operators_word():
    with pytest.raises(CheckpointError, match=r"allow=\('someone/theirs',\).*--allow someone/theirs"):
        resolve("someone/theirs")
    assert resolve("someone/theirs", allow=("someone/theirs",)).world == "unknown"
    with pytest.raises(CheckpointError):
        resolve("someone/theirs", allow=("someone/other",))


@pytest.mark.parametrize(
    "name", ["", "blip3", "/no/such/folder", "../no-such-neighbour", "a/b/c", "https://hub/x"]
)
def test_what_is_neither_is_refused(name):
    with pytest.raises(CheckpointError, match="blip2-emoji"):
        resolve(name, allow=("someone/theirs",))


def test_a_folder_without_a_model_and_an_absent_bundle(tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        resolve(tmp_path)
    absent = dataclasses.replace(CHECKPOINTS["blip2-emoji"], folder=tmp_path / "blip2-emoji")
    monkeypatch.setitem(CHECKPOINTS, "blip2-emoji", absent)
    with pytest.raises(CheckpointError, match="repository complete"):
        resolve("blip2-emoji")


def test_an_unknown_name_of_the_package_is_refused():
    import qformer_viz

    with pytest.raises(AttributeError, match="it offers"):
        _ = qformer_viz.lod


@pytest.mark.parametrize(
    ("config", "family", "asked", "caption"),
    [
        (("blip-2", "opt"), "blip2", "Question: {} Answer:", "a photo of"),
        (("blip-2", "t5"), "blip2", "Question: {} Short answer:", "a photo of"),
        (("instructblip", "t5"), "instructblip", "{}", "A short image description:"),
        (("instructblipvideo", "llama"), "instructblip", "{}", "A short image description:"),
    ],
)
def test_a_folder_is_spoken_to_as_its_kind_was_trained_and_its_card_has_the_last_word(
    tmp_path, config, family, asked, caption
):
    kinds = {"model_type": config[0], "text_config": {"model_type": config[1]}}
    (tmp_path / "config.json").write_text(json.dumps(kinds))
    entry = resolve(tmp_path)
    assert (entry.family, entry.question_prompt, entry.caption_prompt) == (family, asked, caption)
    (tmp_path / "explorer.json").write_text(json.dumps({"question_prompt": "Q: {}"}))
    assert resolve(tmp_path).question_prompt == "Q: {}" and resolve(tmp_path).caption_prompt == caption


@pytest.mark.parametrize("text", ["", "[]", "{", '{"text_config": 3}'])
def test_a_configuration_that_cannot_be_read_is_left_to_the_loader(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    assert resolve(tmp_path).question_prompt == "Question: {} Answer:"


def test_a_bundled_checkpoint_given_as_a_folder_is_spoken_to_alike():
    for entry in CHECKPOINTS.values():
        if entry.folder and entry.family != "retrieval":
            found = resolve(entry.folder)
            for name in ("question_prompt", "caption_prompt", "world", "family"):
                assert getattr(found, name) == getattr(entry, name), entry.id
