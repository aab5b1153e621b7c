"""The question-reading variant: where it starts, what it trains, that the folder answers."""

import numpy as np
import pytest
import torch
from transformers import InstructBlipForConditionalGeneration, InstructBlipProcessor

from model import scene_text, stage_instruct
from model.checkpoint_assembly import (
    build_instruct,
    build_instruct_processor,
    build_model,
    build_retrieval,
    save_checkpoint,
    stage1_tokenizer,
)
from model.tokenizer import train_tokenizer
from model.training_loop import Schedule, make_accelerator
from qformer_viz.domains.emoji.scenes import random_scene, render


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer()


@pytest.fixture(scope="module")
def parts(tokenizer):
    torch.manual_seed(0)
    bridged, aligned = build_model(tokenizer).eval(), build_retrieval(stage1_tokenizer(tokenizer)).eval()
    model = build_instruct(tokenizer).eval()
    stage_instruct.start_from(model, bridged, aligned)
    return model, bridged, aligned


def test_without_a_question_it_starts_as_the_bridge(parts):
    """With every word masked, the queries come out as those of the BLIP-2 it was filled from."""
    model, bridged, _ = parts
    seen = torch.randn(2, 257, 192, generator=torch.Generator().manual_seed(1))
    words = torch.tensor([[4, 5, 6]]).expand(2, -1)
    with torch.no_grad():
        mine = stage_instruct.Instructed(model)(seen, words, torch.zeros(2, 3, dtype=torch.long))
        queries = bridged.query_tokens.expand(2, -1, -1)
        theirs = bridged.qformer(query_embeds=queries, encoder_hidden_states=seen).last_hidden_state
        assert torch.allclose(mine, bridged.language_projection(theirs), atol=1e-5)
        read = stage_instruct.Instructed(model)(seen, words, torch.ones(2, 3, dtype=torch.long))
    assert not torch.allclose(mine, read, atol=1e-4)


def test_the_text_branch_is_that_of_stage_1(parts):
    model, _, aligned = parts
    name = "encoder.layer.0.intermediate.dense.weight"
    assert torch.equal(model.qformer.state_dict()[name], aligned.qformer.state_dict()[name])
    words = model.qformer.embeddings.word_embeddings.weight
    assert torch.equal(words, aligned.embeddings.word_embeddings.weight)


def test_turns_hold_captions_and_questions():
    rng = np.random.default_rng(0)
    turns = [turn for seed in range(60) for turn in stage_instruct.draw_turns(random_scene(seed), rng)]
    assert len(turns) == 60 * stage_instruct.PROMPTS
    captions = sum(prompt == scene_text.CAPTION_PROMPT for prompt, _ in turns) / len(turns)
    assert 0.2 < captions < 0.45


def test_the_stage_trains_the_bridge_only_and_the_folder_answers(parts, tokenizer, tmp_path):
    model = parts[0]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    seen = np.random.default_rng(0).normal(size=(6, 257, 192)).astype(np.float16)
    processor = build_instruct_processor(tokenizer)
    schedule = Schedule(steps=2, lr=1e-3, warmup=1)
    stage_instruct.train_instruct(
        make_accelerator("fp32"), model, processor, seen, tmp_path, schedule, batch=3
    )
    changed = {
        key.split(".")[0]
        for key, value in model.state_dict().items()
        if not torch.equal(value.cpu(), before[key])
    }
    assert changed == {"query_tokens", "qformer", "language_projection"}
    save_checkpoint(model, tokenizer, tmp_path / "saved")
    assert all(file.stat().st_size < 10_000_000 for file in (tmp_path / "saved").iterdir() if file.is_file())
    loaded = InstructBlipForConditionalGeneration.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    ready = InstructBlipProcessor.from_pretrained(tmp_path / "saved")
    inputs = ready(
        images=render(random_scene(1)).image, text="Question: is there a cat? Answer:", return_tensors="pt"
    )
    assert int((inputs.input_ids == loaded.config.image_token_index).sum()) == 32
    said = loaded.generate(**inputs, max_new_tokens=4)
    assert ready.decode(said[0], skip_special_tokens=True).startswith("Question: is there a cat? Answer:")
