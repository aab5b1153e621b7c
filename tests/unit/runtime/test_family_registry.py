"""A family of models is one file: a module of `qformer_viz.runtime.families` that defines FAMILY."""

import sys

import pytest

import qformer_viz
from qformer_viz.runtime import families
from qformer_viz.runtime.checkpoints import CHECKPOINTS
from qformer_viz.runtime.families import all_families, family_of_type, find_family
from tests.support import fake_checkpoints as fakes

SOURCE = """
from qformer_viz.runtime.families.family import Family, ModelClass

FAMILY = Family(
    "aardvark",
    {"blip-2": ModelClass("Blip2ForConditionalGeneration", "transformers:Blip2Processor")},
    question_prompt={"": "Q: {} A:"},
    caption_prompt="an aardvark sees",
)
"""


@pytest.fixture
def aardvark(tmp_path, monkeypatch):
    """A family of one's own, first among those that load a BLIP-2."""
    (tmp_path / "aardvark.py").write_text(SOURCE)
    monkeypatch.setattr(families, "__path__", [str(tmp_path), *families.__path__])
    all_families.cache_clear()
    yield
    sys.modules.pop("qformer_viz.runtime.families.aardvark", None)
    all_families.cache_clear()


def test_a_file_more_is_a_family_more(aardvark, tmp_path):
    assert find_family("aardvark").caption_prompt == "an aardvark sees"
    pipe = qformer_viz.load(fakes.save(tmp_path / "model"))
    assert pipe.family == "aardvark" and not pipe.reads_questions and not pipe.sees_video
    assert pipe.checkpoint.question_prompt == "Q: {} A:"


def test_every_listed_checkpoint_is_of_a_known_family():
    assert {entry.family for entry in CHECKPOINTS.values()} == set(all_families())
    assert find_family("instructblip").reads_questions and not find_family("retrieval").chats
    assert family_of_type("instructblipvideo").name == "instructblip"
    assert family_of_type("granite4_vision").model_classes == {}
