"""The evaluation: perfect and wrong answers get the figures they deserve, and the controls control."""

import json
import shutil

import numpy as np
import pytest
import torch

from model import (
    attention_pointing,
    card_plots,
    card_sections,
    evaluation,
    model_card,
    recipe,
    retrieval_evaluation,
    scene_text,
)
from model import inference as batch_inference
from model.checkpoint_assembly import (
    build_instruct,
    build_model,
    build_retrieval,
    save_checkpoint,
    save_retrieval,
    stage1_tokenizer,
)
from model.inference import BatchInference
from model.tokenizer import train_tokenizer
from qformer_viz.domains.emoji.scenes import random_scene, render


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Untrained checkpoints of the three kinds."""
    root, tokenizer = tmp_path_factory.mktemp("checkpoints"), train_tokenizer()
    torch.manual_seed(0)
    save_checkpoint(build_model(tokenizer), tokenizer, root / "blip2")
    save_checkpoint(build_instruct(tokenizer), tokenizer, root / "instruct")
    words = stage1_tokenizer(tokenizer)
    save_retrieval(build_retrieval(words), words, root / "itm")
    return root


@pytest.fixture(scope="module", params=["blip2", "instruct"])
def inference(request, folders):
    return BatchInference(folders / request.param)


class Oracle:
    """Says the truth about every scene, or what a wrong image would give."""

    reads_questions = False

    def __init__(self, sheet, shift=0):
        self.sheet, self.shift, self.index = sheet, shift, -1

    def generate(self, slots, prompts):
        self.index += 1
        scene, _ = self.sheet[(self.index + self.shift) % len(self.sheet)]
        asked = self.sheet[self.index][1]
        said = [scene_text.caption(scene, np.random.default_rng(0))]
        said += [q.answer if not self.shift else "nothing of it" for q in asked]
        return said, [0.9] * len(said)


def test_a_perfect_reader_scores_one_and_a_wrong_one_next_to_nothing():
    sheet = evaluation.fresh_scenes(40)
    right = evaluation.answer_scenes(Oracle(sheet), sheet, lambda i, p: None)
    figures = evaluation.summarise(right)
    assert set(figures.values()) == {1.0} and "relation_true" in figures
    # Five references do not hold every true wording.
    assert evaluation.caption_scores(right, sheet)["bleu4"] > 0.7
    wrong = evaluation.answer_scenes(Oracle(sheet, 1), sheet, lambda i, p: None)
    worse = evaluation.summarise(wrong)
    assert worse["exact"] == 0 and worse["noun_f1"] < 0.3 and worse["caption_true"] < 0.1
    assert (
        evaluation.caption_scores(wrong, sheet)["cider"]
        < 0.5 * evaluation.caption_scores(right, sheet)["cider"]
    )
    interval = evaluation.with_intervals([*right[:20], *wrong[20:]])["exact"]
    assert interval["low"] < interval["value"] < interval["high"]


def test_calibration_is_nought_when_probabilities_are_true():
    rng = np.random.default_rng(0)
    sure = rng.random(20_000)
    assert evaluation.calibration(sure, rng.random(20_000) < sure)["error"] < 0.02
    assert evaluation.calibration([0.95] * 100, [False] * 100)["error"] == pytest.approx(0.95)


def test_other_scenes_are_what_they_say():
    crowded = evaluation.fresh_scenes(20, asked=0, min_objects=5, max_objects=6)
    assert {len(scene.objects) for scene, _ in crowded} == {5, 6}
    small = evaluation.shrink(crowded[0][0], 0.5)
    assert small.objects[0].size == pytest.approx(0.5 * crowded[0][0].objects[0].size)
    picture = render(crowded[0][0]).image
    assert evaluation.with_noise(picture, 20).size == evaluation.with_blur(picture, 2).size == picture.size
    noisy = np.asarray(evaluation.with_noise(picture, 20), float) - np.asarray(picture)
    assert 10 < noisy.std() < 21


def test_only_an_instructed_reader_gives_each_prompt_its_own_slots(inference):
    features = inference.vision([render(random_scene(1)).image])
    slots = inference.slots(features, ["a photo of", "Question: is there a cat? Answer:"])
    assert slots.shape == (2, 32, 192)
    assert torch.equal(slots[0], slots[1]) != inference.reads_questions


def test_slots_and_words_are_those_of_the_library(inference):
    """Greedy text equals the library's own generate, with the same probability, in a padded batch."""
    image = render(random_scene(3)).image
    prompts = ["a photo of", "Question: how many dogs are there? Answer:"]
    said, sure = inference.generate(inference.slots(inference.vision([image]), prompts), prompts)
    for prompt, line, probability in zip(prompts, said, sure, strict=True):
        inputs = inference.processor(images=image, text=prompt, return_tensors="pt")
        out = inference.model.generate(**inputs, max_new_tokens=40)[0]
        own = out[inputs.input_ids.shape[1] :]
        assert inference.processor.tokenizer.decode(own, skip_special_tokens=True).strip() == line
        with torch.no_grad():
            inputs |= {"input_ids": out[None], "attention_mask": torch.ones_like(out)[None]}
            logits = inference.model(**inputs).logits
        chosen = logits[0, -len(own) - 1 : -1].log_softmax(-1).gather(1, own[:, None])
        assert chosen.sum().exp().item() == pytest.approx(probability, rel=1e-2)


def test_without_an_image_nothing_depends_on_the_scene(inference):
    features = evaluation.vision_features(inference, [render(random_scene(i)).image for i in range(3)])
    slots_of = evaluation.mean_slots(inference, features)
    prompts = ["a photo of", "Question: is there a cat? Answer:"]
    assert torch.equal(slots_of(0, prompts), slots_of(2, prompts))
    each = torch.stack([inference.slots(f[None], prompts) for f in features]).mean(0)
    assert torch.allclose(slots_of(0, prompts), each, atol=1e-5)


def test_pointing_finds_planted_peaks_and_misses_in_other_images():
    owners = np.full((2, 256), -1)
    owners[0, :6], owners[1, 100:106] = [0, 0, 0, 1, 1, 1], [0] * 6
    layer = np.full((2, 4, 256), 1e-4)
    layer[0, 0, 1], layer[0, 1, 4], layer[1, 2, 102] = 1, 1, 1
    layer[1, (0, 1, 3), 200] = 1
    layer[0, 2:, 250] = 1
    assert attention_pointing.pointing(layer, owners).tolist() == [1, 1, 1]
    assert attention_pointing.pointing(layer[::-1], owners).mean() == 0


def test_specialisation_and_rank_have_their_ends():
    same = np.tile(np.random.default_rng(0).dirichlet(np.ones(64)), (1, 4, 1))
    assert attention_pointing.specialisation(same)[0] == pytest.approx(0, abs=1e-9)
    apart = np.kron(np.eye(4), np.full(16, 1 / 16))[None]
    assert attention_pointing.specialisation(apart)[0] == pytest.approx(1)
    assert attention_pointing.effective_rank(np.eye(8)[None])[0] == pytest.approx(7, rel=1e-3)


def test_groups_are_found_where_planted_and_not_in_noise():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(32, 5))
    planted = noise + np.repeat(3 * rng.normal(size=(4, 5)), 8, 0)

    def test(table):
        return attention_pointing.group_test((table - table.mean(0)) / table.std(0), 500)

    assert test(planted)["p"] < 0.01 and test(noise)["p"] > 0.01
    assert test(noise)["chance"] == pytest.approx(3 / 31, abs=0.02)


def test_attention_on_objects_is_measured_for_both_families(inference):
    scenes = [random_scene(i, min_objects=2) for i in range(4)]
    features = evaluation.vision_features(inference, [render(scene).image for scene in scenes])
    found = attention_pointing.measure(inference, features, scenes)
    assert set(found["layers"]) == {"0", "2", "4"} and 0 < found["groups"]["p"] <= 1
    layer = found["layers"]["0"]
    assert len(layer["per_query"]) == 32 and 0.9 < layer["entropy"] <= 1
    # Untrained attention is flat: on objects falls what they cover.
    assert layer["all"] == pytest.approx(found["area_of_objects"], abs=0.05)


def test_retrieval_by_chance_is_chance(folders, monkeypatch):
    monkeypatch.setattr(retrieval_evaluation, "POOL", 20)
    monkeypatch.setattr(retrieval_evaluation, "RERANKED", 4)
    figures = retrieval_evaluation.evaluate_retrieval(folders / "itm", scenes=40)
    assert figures["model"]["image_of_text_contrastive_1"]["value"] < 0.4
    assert 0.3 < figures["model"]["matching_hard"]["value"] < 0.7
    assert sum(figures["winners"]) == 40


def test_retrieval_with_perfect_scores_is_perfect(monkeypatch):
    class Perfect:
        def vision(self, images):
            return torch.arange(len(images))

        def contrast(self, features, captions):
            self.captions = captions
            return torch.eye(len(features))[..., None]

        def match(self, features, captions):
            known = [captions[i] == self.captions[f] for i, f in enumerate(features)]
            return torch.tensor(known).float()

    scenes = [random_scene(i, min_objects=3) for i in range(30)]
    figures = retrieval_evaluation.summarise(
        retrieval_evaluation.evaluate_pool(Perfect(), scenes, np.random.default_rng(0))
    )
    assert set(figures.values()) == {1.0}


def passed(asked):
    """Figures as `qformer_viz.analysis.bottleneck.measure` gives them."""

    def read(bits):
        found = {name: 0.0 if name == "background" else bits for name in card_sections.LABELS}
        return {
            name: {"bits": value, "low": value - 0.1, "high": value + 0.1, "entropy": 2.0}
            for name, value in found.items()
        }

    return {
        "images": 10,
        "sizes": {"patches": [257, 192], "queries": [32, 192]},
        "patches": {"linear": read(0.8), "attention": read(1.0)},
        "queries": {"linear": read(0.4), "attention": read(0.5)},
        "retention": {name: None if name == "background" else 0.5 for name in card_sections.LABELS},
        "each": {name: [q / 100 for q in range(32)] for name in card_sections.LABELS},
        "asked": {"where?": read(0.7)} if asked else {},
    }


def trained(folder):
    """What a run of the recipe leaves of its curves and gates."""
    folder.mkdir()
    for stage in recipe.SCHEDULES.values():
        for name, schedule in stage.items():
            curve = [
                {"step": s, "minutes": s / 100, "loss": 9 / s, "right": s / 9000}
                for s in (50, schedule.steps)
            ]
            (folder / f"{name}_curve.json").write_text(json.dumps(curve))
    (folder / "lm_gate.json").write_text(json.dumps({"piled": {"all": 0.9876}}))
    seen = {"noun": 0.981, "position": 0.972, "noun, noto-v1": 0.713, "noun, fxemoji": 0.824}
    (folder / "vit_gate.json").write_text(json.dumps(seen))
    return folder


TRUTH = {
    "scenes": 7,
    "cases": 11,
    "counted": {"pointing": 11, "deletion": 9},
    "measures": {"pointing": "peak in the object", "deletion": "deletion"},
    "summary": {"RISE": {"pointing": [0.912, 0.8, 1.0], "deletion": [-0.3, -0.4, -0.2]}},
}


WITHIN = {"images": 7, "asked": {"": {}, "where?": {}}, "table": "| nats lost |\n|---|\n| 12.34 |"}


@pytest.mark.parametrize("kind", ["blip2", "instruct", "itm"])
def test_a_card_states_what_was_measured(folders, kind, tmp_path, monkeypatch):
    """The whole command on an untrained checkpoint with few scenes: every figure of the tables is in metrics.json."""
    monkeypatch.setattr(retrieval_evaluation, "POOL", 10)
    monkeypatch.setattr(retrieval_evaluation, "RERANKED", 4)
    monkeypatch.setattr(evaluation, "RESAMPLES", 20)
    monkeypatch.setattr(attention_pointing, "PERMUTATIONS", 50)
    for name in ("OBJECTS", "SIZES", "NOISES", "BLURS"):
        monkeypatch.setattr(evaluation, name, getattr(evaluation, name)[:1])
    monkeypatch.setattr(evaluation, "AVERAGED", 2)
    monkeypatch.setattr(batch_inference, "MAX_NEW_TOKENS", 3)
    ceiling = dict.fromkeys((*scene_text.QUESTION_TYPES, "all"), 0.123)
    monkeypatch.setattr(evaluation, "description_accuracy", lambda *_, **__: ceiling)
    measured = {"false_alarms": 0.012, "detected": {"photographs": 0.987}}
    monkeypatch.setattr(model_card.ood_detector, "measure", lambda _: (None, measured))
    monkeypatch.setattr(model_card.ood_detector, "save_ood_detector", lambda *_: None)
    folder = tmp_path / {"instruct": "instructblip-emoji"}.get(kind, "blip2-emoji")
    shutil.copytree(folders / kind, folder)
    (folder / "ablation.md").write_text("| variant |\n|---|\n| full |")
    speaks = kind != "itm"
    if speaks:
        (folder / "bottleneck.json").write_text(json.dumps(passed(kind == "instruct")))
    whole = kind == "blip2"
    if whole:
        (folder / "inside.json").write_text(json.dumps(WITHIN))
        (folder / "faithfulness.json").write_text(json.dumps(TRUTH))
        (folder / "faithfulness.md").write_text("Believe it.")
    written = model_card.write_card(folder, scenes=10, curves=trained(tmp_path / "run") if whole else None)
    told, metrics = written.read_text(), json.loads((folder / "metrics.json").read_text())
    assert "What each part contributes" in told and told == model_card.card_of(folder)
    for name in (model_card.COMPARING if kind == "itm" else model_card.ANSWERING).items():
        if name[0] in metrics["model"]:
            assert f"| {name[1]} | **{metrics['model'][name[0]]['value']:.3f}" in told
    drawn = {path: path.read_bytes() for path in (folder / "figures").iterdir()}
    assert {path.name for path in drawn} == {
        "calibration.svg",
        *(("curves.svg", "attention.svg", "bottleneck.svg") if speaks else ("winners.svg",)),
        *(("training.svg", "faithfulness.svg") if whole else ()),
    }
    assert all(f"figures/{path.name}" in told for path in drawn)
    monkeypatch.setattr(model_card, "evaluate", lambda *_: pytest.fail("measured again"))
    monkeypatch.setattr(model_card, "evaluate_retrieval", lambda *_: pytest.fail("measured again"))
    model_card.write_card(folder, again=True)
    assert all(path.read_bytes() == drawn[path] for path in drawn)
    if whole:
        assert (
            "| vit_robust | 6000 | 60 | 0.002 | right 0.667 |" in told and "0.988 of questions about" in told
        )
        assert "(unseen artwork 0.713 and 0.824) of cases and the position in 0.972" in told
        assert (
            "--scenes 7 --out assets/blip2-emoji/faithfulness.json`: 11 certified" in told
            and "; 9 of the words" in told
        )
        assert '--images 7 --questions "where?" --out assets/blip2-emoji/inside.json`' in told
        assert "it was with the second.\n\n| nats lost |\n|---|\n| 12.34 |" in told
        assert "| RISE | 0.912 (0.80 to 1.00) | -0.300 (-0.40 to -0.20) |\n\nBelieve it." in told
    if kind != "itm":
        assert "0.987" in told and "0.123" in told and "1.2% of further" in told
        # Half of what there was passes; of the background nothing is read, and nothing divided by.
        assert "| its size | 2.00 | 0.80 (0.70 to 0.90) | 1.00 (0.90 to 1.10) | 0.40 (0.30 to 0.50) " in told
        assert "| 0.50 (0.40 to 0.60) | **0.50** |" in told and "| 0.00 (-0.10 to 0.10) | – |" in told
        assert "its size 0.31 (query 31)" in told and ("“where?”" in told) == (kind == "instruct")
        assert ('--scenes 10 --questions "where?"`' in told) == (kind == "instruct")


def test_curves_of_a_training_are_plotted(tmp_path):
    curve = [
        {"step": 50, "minutes": 1.0, "loss": 2.0, "right": 0.1},
        {"step": 100, "minutes": 2.0, "loss": 1.0, "right": 0.4, "late": 1.0},
    ]
    (tmp_path / "lm_curve.json").write_text(json.dumps(curve))
    (tmp_path / "empty_curve.json").write_text("[]")
    (drawn,) = card_plots.training(tmp_path)
    assert drawn.name == "lm_curve.svg" and "late" in drawn.read_text()
    assert "minutes" not in drawn.read_text()
