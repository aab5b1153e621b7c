"""The whole recipe from nothing, a few steps a stage: every stage finds what the one before it left."""

import json
import shutil

import numpy as np
import pytest
import torch
from transformers import (
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
    InstructBlipForConditionalGeneration,
)

from model import __main__ as command
from model import patch_masking, recipe, recipe_ablation, stage2
from model.recipe_options import Options, from_arguments
from model.training_loop import Schedule, make_accelerator
from qformer_viz.domains.emoji.scenes import patch_labels, random_scene, render

KINDS = {
    "blip2-emoji-itm": Blip2ForImageTextRetrieval,
    "blip2-emoji": Blip2ForConditionalGeneration,
    "instructblip-emoji": InstructBlipForConditionalGeneration,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("recipe")
    arguments = command.parser().parse_args(
        ["train", "--out", str(out), "--scale", "0.0002", "--precision", "fp32", "--threads", "2"]
    )
    arguments.run(arguments)
    return out


@pytest.mark.slow
def test_three_folders_that_transformers_loads(trained):
    for name, kind in KINDS.items():
        assert all(f.stat().st_size < 10_000_000 for f in (trained / name).rglob("*") if f.is_file())
        _, found = kind.from_pretrained(trained / name, output_loading_info=True)
        assert not found["missing_keys"] and not found["unexpected_keys"], (name, found)
    for stage in ("lm", "vit_artwork", "align", "dictation", "bridge", "instruct"):
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
    tokenizer = recipe.load_tokenizer(trained)
    stage1_model = recipe.load_stage1(trained)
    saved = Blip2ForImageTextRetrieval.from_pretrained(trained / "blip2-emoji-itm", dtype=torch.float32)
    assert torch.allclose(stage1_model.query_tokens, saved.query_tokens, atol=1e-2)
    fresh = recipe.assemble(tokenizer, trained)
    recipe.stage2.copy_queries(fresh, stage1_model)
    name = "encoder.layer.2.crossattention.attention.value.weight"
    assert torch.equal(fresh.qformer.state_dict()[name], stage1_model.qformer.state_dict()[name])


def test_stage_2_starts_at_regions_and_an_empty_prefix_unless_told_otherwise(trained, tmp_path, monkeypatch):
    started = {}

    def remember(name, accelerator, module, *rest):
        started[name] = {key: value.clone() for key, value in module.state_dict().items()}

    monkeypatch.setattr(stage2, "run", remember)
    shutil.copytree(trained, tmp_path / "from", ignore=shutil.ignore_patterns("dictation*", "bridge*"))
    stage1_model = recipe.load_stage1(trained).query_tokens
    for options in (Options(), Options(start="stage-1")):
        recipe.train_stage("stage2", tmp_path / "from", 0.0002, "fp32", options)
        first = started["dictation"]
        assert not first["projection.weight"].any()
        assert torch.equal(first["query_tokens"], stage1_model) == (options.start == "stage-1")
        assert first["query_tokens"][0].std(-1).min() > 0.1


def test_a_short_run_has_as_many_steps_as_asked_for(tmp_path, monkeypatch):
    schedule = stage2.SCHEDULE
    assert recipe.scaled(schedule, 0.1, least=30).steps == round(0.1 * schedule.steps)
    short = recipe.scaled(schedule, 0.0005, least=30)
    assert short.steps == 30 and short.warmup <= 3 and recipe.scaled(schedule, 0.0005).steps == 2

    def steps(accelerator, tokenizer, out, schedules, scale, options):
        return {"steps": [each.steps for each in schedules]}

    monkeypatch.setitem(recipe._RUN_STAGE, "lm", steps)
    assert recipe.train_stage("lm", tmp_path, 0.0005, "fp32", least=30)["steps"] == [30] * 4


def test_former_names_of_stages_and_flags_are_still_taken():
    for former, name in recipe.ALIASES.items():
        arguments = command.parser().parse_args(["train", "--stage", former])
        assert arguments.stage == name and name in recipe.STAGES
    for flag in ("--no-dictation", "--no-slot-warmup"):
        arguments = command.parser().parse_args(["train", flag])
        assert not from_arguments(arguments).slot_warmup and from_arguments(arguments).losses


def test_a_stage_without_its_predecessors_says_which(tmp_path):
    with pytest.raises(FileNotFoundError, match="run the stages before it first"):
        recipe.train_stage("bridge", tmp_path, precision="fp32")


@pytest.mark.slow
def test_every_variant_of_the_ablation_trains_and_is_measured(trained, tmp_path):
    names = [
        *(
            "recipe",
            "stage 2 from stage 1",
            "8 queries",
            "64 queries",
            "… masking: attention",
            "… diversity 0.1",
        ),
        *("control: frozen random Q-Former", "control: wrong images"),
        *("control: one patch a region, linear map", "control: average pooling, linear map"),
    ]
    made = recipe_ablation.ablate(trained, tmp_path, names, 0.0002, "fp32")
    assert made.count("\n") == len(names) + 1 and "| – |" in made
    # Of these, the recipe and the variant that starts from its stage 1 share one; three controls have none.
    assert len(list(tmp_path.glob("stage-1-*"))) == len(names) - 4
    assert recipe_ablation.ablate(trained, tmp_path, names[:1], 0.0002) == made
    with pytest.raises(ValueError, match="choose from recipe"):
        recipe_ablation.ablate(trained, tmp_path, ["nothing"])


def test_frozen_parts_stay_and_the_rest_moves(trained, tmp_path):
    tokenizer = recipe.load_tokenizer(trained)
    for freeze, moves in (
        ("queries", {"qformer", "language_projection"}),
        ("qformer", {"language_projection"}),
    ):
        options = Options(losses=(), freeze=freeze)
        model = recipe.assemble(tokenizer, trained, options)
        features = np.random.default_rng(0).normal(size=(8, 257, 192)).astype(np.float16)
        before = {}
        tiny = Schedule(steps=1, lr=1e-3, warmup=1)
        started = stage2.initialise

        def remember(*arguments, started=started, before=before, model=model):
            started(*arguments)
            before.update({key: value.clone() for key, value in model.state_dict().items()})

        stage2.initialise = remember
        try:
            stage2.train_stage2(make_accelerator("fp32"), model, tokenizer, tmp_path / freeze, tiny, tiny, 8, 4,
                                options=options, features=features)  # fmt: skip
        finally:
            stage2.initialise = started
        now = model.state_dict()
        changed = {key.split(".")[0] for key in now if not torch.equal(now[key], before[key])}
        assert changed == moves


def test_hidden_patches_are_of_the_kind_asked_for():
    scenes = [random_scene(i, min_objects=2) for i in range(20)]
    rng = np.random.default_rng(0)
    attended = torch.rand(20, 256)
    hidden = {kind: 1 - patch_masking.keep(kind, scenes, attended, rng) for kind in patch_masking.KINDS}
    assert all(part[:, 0].sum() == 0 for part in hidden.values()) and hidden["none"].sum() == 0
    share = round(patch_masking.SHARE * 256)
    assert (hidden["random"].sum(1) == share).all() and (hidden["attention"].sum(1) == share).all()
    most = hidden["attention"][0, 1:].bool()
    assert attended[0][most].min() >= attended[0][~most].max()
    for scene, row, block in zip(scenes, hidden["semantic"][:, 1:], hidden["block"][:, 1:], strict=True):
        owners = patch_labels(render(scene)).ravel()
        assert len(set(owners[row.numpy() > 0])) <= 1 and -1 not in owners[row.numpy() > 0]
        place = np.argwhere(block.reshape(16, 16).numpy())
        assert len(place) == np.prod(place.max(0) - place.min(0) + 1)
        assert abs(len(place) - share) <= 16


def test_likeness_is_one_for_twins_and_small_for_orthogonal_queries():
    twins = torch.tensor([[[1.0, 0], [1, 0], [-1, 0], [-1, 0]]])
    assert stage2.similarity_penalty(twins).item() == pytest.approx(1)
    assert stage2.similarity_penalty(torch.eye(16)[None]).item() < 0.01
