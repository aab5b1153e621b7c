"""Stage 1: its masks, its negatives, its agreement with the library's own retrieval model."""

import numpy as np
import pytest
import torch
from transformers import Blip2ForImageTextRetrieval, Blip2Processor

from model import scene_text, stage1, training_loop
from model.checkpoint_assembly import DECODER, build_retrieval, save_retrieval, stage1_tokenizer
from model.stage2 import augmented_scene, training_scene
from model.tokenizer import train_tokenizer
from model.training_loop import Schedule, make_accelerator
from qformer_viz.domains.emoji.scenes import TEACHING_STYLES, layout_scene, random_scene


@pytest.fixture(scope="module")
def tokenizer():
    return stage1_tokenizer(train_tokenizer())


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    return build_retrieval(tokenizer).eval()


@pytest.fixture(scope="module")
def features():
    return torch.randn(4, 257, 192, generator=torch.Generator().manual_seed(1))


def scenes(count=4):
    return [random_scene(i, min_objects=2) for i in range(count)]


def test_masks_are_those_of_the_paper():
    mask = torch.tensor([[1, 1, 0]])
    apart = stage1.self_attention_mask("contrastive", 2, mask)[0, 0].int().tolist()
    assert apart == [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 0]]
    both = stage1.self_attention_mask("matching", 2, mask)[0, 0].int().tolist()
    assert both == [[1, 1, 1, 1, 0]] * 5
    causal = stage1.self_attention_mask("generation", 2, mask)[0, 0].int().tolist()
    assert causal == [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 0]]
    with pytest.raises(ValueError, match="choose from contrastive"):
        stage1.self_attention_mask("other", 2, mask)


def test_it_computes_what_the_saved_model_computes(model, tokenizer, tmp_path):
    """The exported folder, through the library's own forward, gives the training's similarities and logits."""
    pixels = torch.randn(3, 3, 224, 224, generator=torch.Generator().manual_seed(2))
    save_retrieval(model, tokenizer, tmp_path)
    model.float()
    saved = Blip2ForImageTextRetrieval.from_pretrained(tmp_path, dtype=torch.float32).eval()
    texts = ["a cat above a dog", "two cats", "an owl, a bus and three fish"]
    encoded = Blip2Processor.from_pretrained(tmp_path).tokenizer(
        texts, return_tensors="pt", padding=True, padding_side="right"
    )
    trained = stage1.Stage1Losses(saved, tokenizer.convert_tokens_to_ids(DECODER))
    with torch.no_grad():
        seen = saved.vision_model(pixel_values=pixels).last_hidden_state
        stock = saved(pixel_values=pixels, **encoded).logits_per_image
        assert torch.allclose(trained.contrast(seen, **rename(encoded)).max(-1).values, stock, atol=1e-5)
        stock = saved(pixel_values=pixels, **encoded, use_image_text_matching_head=True).logits_per_image
        assert torch.allclose(trained.match(seen, **rename(encoded)), stock, atol=1e-5)


def rename(encoded):
    return {"ids": encoded.input_ids, "mask": encoded.attention_mask}


def test_generation_does_not_look_ahead_and_queries_do_not_read_the_text(model, tokenizer, features):
    trained = stage1.Stage1Losses(model, tokenizer.convert_tokens_to_ids(DECODER))
    encoded = tokenizer(
        ["a cat above a dog", "a cat above two cows"], return_tensors="pt", padding=True, padding_side="right"
    )
    with torch.no_grad():
        queries, words = trained.read("generation", features[:1].expand(2, -1, -1), **rename(encoded))
        free, _ = trained.read("matching", features[:1].expand(2, -1, -1), **rename(encoded))
    assert torch.allclose(queries[0], queries[1], atol=1e-6)
    assert torch.allclose(words[0, :4], words[1, :4], atol=1e-6)
    assert not torch.allclose(words[0, 4], words[1, 4], atol=1e-3)
    assert not torch.allclose(free[0], free[1], atol=1e-4)


def test_captions_true_of_an_image_are_never_its_negatives(tokenizer):
    cat = layout_scene(["cat"], "row", seed=1)
    other = layout_scene(["cat"], "row", style="noto", seed=2)
    dog = layout_scene(["dog", "cat"], "column", seed=3)
    pairs = stage1.draw_pairs([cat, other, dog], tokenizer, np.random.default_rng(0))
    assert pairs.true.tolist() == [[True, True, False], [True, True, False], [False, False, True]]


def test_contrastive_loss_knows_a_perfect_match_and_the_winners():
    same = torch.eye(6).unsqueeze(-1).repeat(1, 1, 4)
    same[..., 0] += 0.01
    loss, figures = stage1.contrastive_loss(same, torch.eye(6, dtype=torch.bool), torch.tensor(0.07))
    wrong, missed = stage1.contrastive_loss(
        same.roll(1, 0), torch.eye(6, dtype=torch.bool), torch.tensor(0.07)
    )
    assert figures["found"] == 1 and missed["found"] == 0 and wrong > loss + 5
    assert figures["winners"] < 1e-5
    spread = torch.eye(4)[:, None].repeat(1, 4, 1)
    assert (
        stage1.contrastive_loss(spread, torch.eye(4, dtype=torch.bool), torch.tensor(0.07))[1]["winners"]
        > 0.999
    )


@pytest.mark.parametrize("losses", [*[(name,) for name in stage1.LOSSES], stage1.LOSSES])
def test_each_loss_can_be_chosen_and_the_vision_model_stays(model, tokenizer, features, losses):
    trained = stage1.Stage1Losses(model, tokenizer.convert_tokens_to_ids(DECODER), losses)
    pairs = stage1.draw_pairs(scenes(), tokenizer, np.random.default_rng(0))
    loss, figures = trained(features, pairs)
    loss.backward()
    assert all(p.grad is None for p in model.vision_model.parameters())
    assert model.query_tokens.grad.abs().sum() > 0
    named = {"contrastive": "found", "matching": "matched", "generation": "words"}
    assert {named[name] for name in losses} == set(figures) - {"winners"}
    model.zero_grad()


def test_the_stage_learns_and_resumes(tokenizer, tmp_path):
    torch.manual_seed(0)
    fresh = build_retrieval(tokenizer)
    seen = np.random.default_rng(0).normal(size=(8, 257, 192)).astype(np.float16)
    accelerator = make_accelerator("fp32")
    short, long = (Schedule(steps=n, lr=1e-3, warmup=1, save_every=2) for n in (2, 4))
    stage1.train_stage1(accelerator, fresh, tokenizer, seen, tmp_path, short, batch=4)
    once = fresh.qformer.encoder.layer[0].output.dense.weight.detach().clone()
    stage1.train_stage1(accelerator, fresh, tokenizer, seen, tmp_path, short, batch=4)
    assert torch.equal(once, fresh.qformer.encoder.layer[0].output.dense.weight)
    stage1.train_stage1(accelerator, fresh, tokenizer, seen, tmp_path, long, batch=4)
    assert not torch.equal(once, fresh.qformer.encoder.layer[0].output.dense.weight)


def test_false_captions_are_false_and_true_ones_true():
    rng = np.random.default_rng(4)
    kinds = set()
    for seed in range(150):
        scene = random_scene(seed)
        assert scene_text.true_of(scene_text.caption(scene, rng), scene)
        wrong, kind = scene_text.false_caption(scene, rng)
        kinds.add(kind)
        assert not scene_text.true_of(wrong, scene), (wrong, scene)
    assert kinds == {"noun", "count", "relation"}


def test_the_second_run_reads_strange_scenes(tokenizer, tmp_path, monkeypatch):
    fresh = build_retrieval(tokenizer)
    seen, strange = (np.random.default_rng(n).normal(size=(4, 257, 192)).astype(np.float16) for n in (0, 1))
    drawn, read = [], []
    monkeypatch.setattr(training_loop, "DRAWING", 0)  # in this process, where it is counted
    monkeypatch.setattr(stage1, "augmented_scene", lambda i: drawn.append(i) or augmented_scene(i))
    forward = stage1.Stage1Losses.forward
    monkeypatch.setattr(
        stage1.Stage1Losses, "forward", lambda self, x, *rest: read.append(x.cpu()) or forward(self, x, *rest)
    )
    short = Schedule(steps=1, lr=1e-3, warmup=1)
    more = (strange, Schedule(steps=2, lr=1e-3, warmup=1))
    stage1.train_stage1(make_accelerator("fp32"), fresh, tokenizer, seen, tmp_path, short, more, batch=4)
    assert len(drawn) == 4 and len(read) == 3
    assert torch.equal(read[1][2:], torch.from_numpy(strange[drawn[:2]]).float())
    assert not any(torch.equal(read[0][-1], torch.from_numpy(row).float()) for row in strange)


def test_strange_scenes_are_of_teaching_artwork_and_repainted():
    scenes = [augmented_scene(index) for index in range(40)]
    assert {item.style for scene in scenes for item in scene.objects} <= set(TEACHING_STYLES)
    hues = [item.hue for scene in scenes for item in scene.objects]
    assert max(hues) > 90 and min(hues) < -90
    assert augmented_scene(3) == augmented_scene(3) != training_scene(3)


def test_hidden_patches_are_not_read(model, tokenizer, features):
    trained = stage1.Stage1Losses(model, tokenizer.convert_tokens_to_ids(DECODER))
    encoded = rename(tokenizer(["a cat"] * 4, return_tensors="pt"))
    kept = torch.ones(4, 257, dtype=torch.long)
    kept[:, 40:90] = 0
    changed = features.clone()
    changed[:, 40:90] += 5
    with torch.no_grad():
        for kind in stage1.LOSSES:
            before, after = (
                trained.read(kind, seen, **encoded, kept=kept)[0] for seen in (features, changed)
            )
            assert torch.allclose(before, after, atol=1e-5), kind
            assert not torch.allclose(before, trained.read(kind, changed, **encoded)[0], atol=1e-3)
