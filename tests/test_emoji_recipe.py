"""The whole recipe from nothing, a few steps a stage: every stage finds what the one before it left."""

import json

import pytest
import torch
from transformers import (
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
    InstructBlipForConditionalGeneration,
)

from model.emoji import __main__ as command
from model.emoji import recipe

KINDS = {
    "blip2-emoji-itm": Blip2ForImageTextRetrieval,
    "blip2-emoji": Blip2ForConditionalGeneration,
    "instructblip-emoji": InstructBlipForConditionalGeneration,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("recipe")
    arguments = command.parser().parse_args(
        ["train", "--out", str(out), "--scale", "0.0002", "--precision", "fp32"]
    )
    arguments.run(arguments)
    return out


@pytest.mark.slow
def test_three_folders_that_transformers_loads(trained):
    for name, kind in KINDS.items():
        assert all(f.stat().st_size < 10_000_000 for f in (trained / name).rglob("*") if f.is_file())
        _, found = kind.from_pretrained(trained / name, output_loading_info=True)
        assert not found["missing_keys"] and not found["unexpected_keys"], (name, found)
    for stage in ("lm", "vit_robust", "align", "dictation", "bridge", "instruct"):
        assert json.loads((trained / f"{stage}_curve.json").read_text())[-1]["loss"] > 0


@pytest.mark.slow
def test_frozen_parts_are_the_same_in_all_three(trained):
    models = {name: kind.from_pretrained(trained / name).state_dict() for name, kind in KINDS.items()}
    vision = [key for key in models["blip2-emoji"] if key.startswith("vision_model")]
    words = [key for key in models["blip2-emoji"] if key.startswith("language_model")]
    for key in vision:
        assert all(torch.equal(model[key], models["blip2-emoji"][key]) for model in models.values()), key
    for key in words:
        assert torch.equal(models["blip2-emoji"][key], models["instructblip-emoji"][key]), key


@pytest.mark.slow
def test_stage_2_starts_where_stage_1_ended(trained):
    tokenizer = recipe.the_tokenizer(trained)
    aligned = recipe._aligned(tokenizer, trained)
    saved = Blip2ForImageTextRetrieval.from_pretrained(trained / "blip2-emoji-itm", dtype=torch.float32)
    assert torch.allclose(aligned.query_tokens, saved.query_tokens, atol=1e-2)
    fresh = recipe.assemble(tokenizer, trained)
    recipe.bridge.take_queries(fresh, aligned)
    name = "encoder.layer.2.crossattention.attention.value.weight"
    assert torch.equal(fresh.qformer.state_dict()[name], aligned.qformer.state_dict()[name])


def test_a_stage_without_its_predecessors_says_which(tmp_path):
    with pytest.raises(FileNotFoundError, match="run the stages before it first"):
        recipe.train_stage("bridge", tmp_path, precision="fp32")
