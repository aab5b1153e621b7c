"""The recipe at doll's-house scale: every stage runs, resumes where it stopped, and ends in a loadable folder."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Blip2ForConditionalGeneration, Blip2Processor, OPTForCausalLM

from model import scene_text, stage2, stage_language, stage_vit, training_loop
from model.checkpoint_assembly import QUERIES, build_model, save_checkpoint
from model.tokenizer import train_tokenizer
from model.training_loop import Schedule, batches, make_accelerator, optimisers
from model.training_sequences import IGNORE, Rows, SequenceBuilder, answer_loss
from qformer_viz.domains.emoji.scenes import NOUNS, random_scene, render

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer()


@pytest.fixture(scope="module")
def accelerator():
    return make_accelerator("fp32")


def test_every_word_of_the_world_is_one_token(tokenizer):
    for word in [
        *NOUNS,
        *map(scene_text.plural, NOUNS),
        *scene_text.NUMBERS,
        *scene_text.COLUMNS,
        *scene_text.ROWS,
        scene_text.FILLER,
    ]:
        assert len(tokenizer(f" {word}", add_special_tokens=False).input_ids) == 1, word
    assert tokenizer("cat").input_ids[0] == tokenizer.bos_token_id == tokenizer.eos_token_id


@settings(deadline=None, max_examples=100)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_any_text_survives_the_tokenizer(words):
    tokenizer = test_any_text_survives_the_tokenizer.tokenizer
    ids = tokenizer(words, add_special_tokens=False, split_special_tokens=True).input_ids
    assert tokenizer.decode(ids) == words
    assert tokenizer.unk_token_id not in ids


test_any_text_survives_the_tokenizer.tokenizer = train_tokenizer()


def test_labels_cover_the_answers_and_their_end_and_nothing_else(tokenizer):
    builder = SequenceBuilder(tokenizer, turns=3, caption_share=1.0, packed_share=0.0)
    ids, labels, positions, segments = zip(
        *builder.row(random_scene(3), np.random.default_rng(0)), strict=True
    )
    read = tokenizer.decode(ids, skip_special_tokens=True)
    assert read.startswith("a photo of ") and read.count("Question: ") == 3 and read.count(" Answer: ") == 3
    learned = [i for i, label in enumerate(labels) if label != IGNORE]
    ends = [i for i in learned if labels[i] == tokenizer.eos_token_id]
    assert len(ends) == 4
    assert all(tokenizer.decode(ids[i]) == "." for i in ends)
    assert all(labels[i] == ids[i] for i in learned if i not in ends)
    for i in learned:
        assert learned[0] > 3 and tokenizer.decode(ids[i]).strip() not in ("Question", "Answer", "?", ":")
    assert positions == tuple(range(QUERIES, QUERIES + len(ids))) and set(segments) == {0}


@pytest.mark.parametrize(("packed", "captions"), [(1.0, 3), (0.0, 1)])
def test_only_packed_rows_hold_several_captions_and_apart(tokenizer, packed, captions):
    builder = SequenceBuilder(tokenizer, turns=2, caption_share=1.0, packed_share=packed, captions=3)
    ids, _, positions, segments = zip(*builder.row(random_scene(3), np.random.default_rng(0)), strict=True)
    words = [tokenizer.decode(said) for said in ids]
    starts = [i - 1 for i, word in enumerate(words) if word == " photo"]
    assert len(starts) == captions
    assert {positions[i] for i in starts} == {QUERIES + 1}
    assert len({segments[i] for i in starts}) == captions


def test_a_packed_turn_costs_what_it_costs_alone(tokenizer):
    torch.manual_seed(0)
    model = OPTForCausalLM(stage_language.language_config(tokenizer)).eval()
    stage_language.initialise(model, tokenizer)
    builder = SequenceBuilder(tokenizer, packed_share=1.0)
    rows = builder.batch([random_scene(1), random_scene(2)], np.random.default_rng(0))
    prefix = torch.randn(2, QUERIES, stage_language.HIDDEN) * 0.05
    turn = rows.segments[0] == 3
    assert int(rows.positions[0][turn][0]) == QUERIES + 1
    only = Rows(
        rows.ids,
        torch.where(turn & (torch.arange(2)[:, None] == 0), rows.labels, IGNORE),
        *[rows.positions, rows.segments],
    )
    packed, _ = answer_loss(model, prefix, only)
    ids = torch.cat([rows.ids[0][:1], rows.ids[0][turn]])
    labels = torch.cat([rows.labels[0][:1], rows.labels[0][turn]])
    embedded = torch.cat([prefix[:1], model.get_input_embeddings()(ids)[None]], 1)
    logits = model(inputs_embeds=embedded).logits[0, QUERIES:-1]
    wanted = labels[1:] != IGNORE
    alone = torch.nn.functional.cross_entropy(logits[wanted], labels[1:][wanted])
    assert torch.isclose(packed, alone, atol=1e-5)


def test_scales_start_in_order(tokenizer):
    """Neighbouring columns start more alike than distant ones, and so do rows."""
    torch.manual_seed(0)
    model = OPTForCausalLM(stage_language.language_config(tokenizer))
    stage_language.initialise(model, tokenizer)
    words = model.get_input_embeddings().weight.detach()
    for scale in (scene_text.COLUMNS, scene_text.ROWS):
        line = words[[tokenizer(f" {word}", add_special_tokens=False).input_ids[0] for word in scale]]
        apart = torch.cdist(line, line)
        assert (apart.diagonal(1).mean() < 0.8 * apart.diagonal(4).mean()).item()
        assert (apart.diagonal(4).mean() < apart.diagonal(8).mean()).item()


def test_linear_layers_go_to_muon_and_everything_once(tokenizer):
    model = OPTForCausalLM(stage_language.language_config(tokenizer))
    model.lm_head.bias = None
    model.model.decoder.layers[0].requires_grad_(False)
    adamw, muon = optimisers(model, 1e-3)
    parts = {
        kind: {id(p) for group in optimizer.param_groups for p in group["params"]}
        for kind, optimizer in (("adamw", adamw), ("muon", muon))
    }
    layer = model.model.decoder.layers[1]
    assert {id(layer.fc1.weight), id(layer.self_attn.q_proj.weight)} <= parts["muon"]
    assert {id(layer.fc1.bias), id(model.get_input_embeddings().weight)} <= parts["adamw"]
    assert parts["adamw"] | parts["muon"] == {id(p) for p in model.parameters() if p.requires_grad}
    assert not parts["adamw"] & parts["muon"]


def test_without_bfloat16_arithmetic_muon_does_the_same_in_single_precision(monkeypatch):
    met = set()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            met.update({out.dtype} if isinstance(out, torch.Tensor) else ())
            return out

    def moved(native):
        monkeypatch.setattr(training_loop, "_cpu_has_bf16", lambda: native)
        layer = torch.nn.Linear(24, 16, bias=False)
        torch.nn.init.zeros_(layer.weight)
        layer.weight.grad = torch.randn(16, 24, generator=torch.Generator().manual_seed(1))
        (muon,) = training_loop.optimisers(layer, 1e-2)
        met.clear()
        with training_loop.orthogonalising(torch.device("cpu")), Watch():
            muon.step()
        assert (torch.bfloat16 in met) == native
        return layer.weight.detach()

    library, ours = moved(True), moved(False)
    assert 0 < (ours - library).norm() / library.norm() < 0.02


def test_the_language_stage_learns_and_resumes(tokenizer, accelerator, tmp_path):
    schedule = Schedule(steps=6, lr=1e-3, warmup=1, save_every=3)

    def train(out):
        return stage_language.train_language(accelerator, tokenizer, out, *[schedule] * 4, batch=2)

    once = train(tmp_path / "once")
    # Interrupted: the first three steps of the same schedule, then the rest.
    state = _stop_after(3, train, tmp_path / "two")
    assert state["step"] == 3 and state["minutes"] < 1
    (drilled,) = (tmp_path / "two").glob("*.pt")
    torch.save(state | {"minutes": 5.0}, drilled)
    twice = train(tmp_path / "two")
    sittings = torch.load(drilled, weights_only=True)
    assert 5.0 <= sittings["minutes"] < 6.0 and sittings["curve"][-1]["minutes"] >= 5.0
    for (name, a), b in zip(once.named_parameters(), twice.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6), name
    curve = json.loads((tmp_path / "two" / "lm_curve.json").read_text())
    assert curve[-1]["step"] == 6 and curve[-1]["loss"] > 0


def _stop_after(step, train, out):
    """Run until the checkpoint of `step` is written, then stop as an interrupted run would."""

    class Interrupted(Exception):
        pass

    replace = training_loop.os.replace

    def replace_and_stop(source, target):
        replace(source, target)
        raise Interrupted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_loop.os, "replace", replace_and_stop)
        with pytest.raises(Interrupted):
            train(out)
    (saved,) = out.glob("*.pt")
    return torch.load(saved, weights_only=True)


def test_the_vision_stage_runs_and_crops_see_the_right_positions(accelerator, tmp_path):
    tiny = Schedule(steps=2, lr=1e-3, warmup=1)
    vit = stage_vit.train_vision(accelerator, tmp_path, *[tiny] * 6)
    learner = stage_vit.PatchLearner().eval()
    pixels = stage_vit.to_pixels([np.asarray(render(random_scene(1)).image)])
    with torch.no_grad():
        assert torch.equal(learner.encode(pixels), learner.vit(pixel_values=pixels).last_hidden_state)
        moved = learner.encode(pixels[..., :84, :84], (3, 5)) - learner.encode(pixels[..., :84, :84], (0, 0))
    assert moved.abs().max() > 1e-3
    assert sum(p.numel() for p in vit.parameters()) < 3e6


def test_windows_are_pieces_of_true_scenes():
    for step in range(6):
        pixels, labels, geometry, offset = stage_vit.mixed_batch(step, {6: 3, 8: 3, 16: 3})
        grid = pixels.shape[-1] // 14
        assert labels.shape == (3, grid * grid) and geometry.shape == (3, grid * grid, 3)
        assert labels.max() > 0 and max(offset) <= 16 - grid
        on = labels > 0
        size = geometry[on][:, 2] * 50
        assert (size >= 40).all() and (size <= 104).all()


def test_the_bridge_stage_resumes_and_the_folder_answers(tokenizer, accelerator, tmp_path):
    model = build_model(tokenizer)
    assert 0.015 < float(model.query_tokens.detach().std()) < 0.025
    frozen = {
        k: v.clone() for k, v in model.state_dict().items() if k.startswith(("vision", "language_model"))
    }
    schedule = Schedule(steps=2, lr=1e-3, warmup=1)
    stage2.train_stage2(accelerator, model, tokenizer, tmp_path, schedule, schedule, scenes=8, batch=4)
    assert {file.name for file in tmp_path.glob("*.pt")} == {"dictation.pt", "bridge.pt"}
    for key, value in frozen.items():
        assert torch.equal(value, model.state_dict()[key].cpu()), key
    features = np.memmap(tmp_path / "features.f16", np.float16, shape=(8, 257, 192))
    assert np.abs(features[-1].astype(float)).max() > 0
    save_checkpoint(model, tokenizer, tmp_path / "saved")
    assert all(file.stat().st_size < 10_000_000 for file in (tmp_path / "saved").iterdir())
    loaded = Blip2ForConditionalGeneration.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    processor = Blip2Processor.from_pretrained(tmp_path / "saved")
    inputs = processor(
        images=render(random_scene(1)).image, text=scene_text.CAPTION_PROMPT, return_tensors="pt"
    )
    assert int((inputs.input_ids == loaded.config.image_token_index).sum()) == QUERIES
    said = loaded.generate(**inputs, max_new_tokens=5)
    assert processor.decode(said[0], skip_special_tokens=True).startswith("a photo of")


def test_two_processes_train_as_one_on_twice_the_batch(tmp_path):
    """Different draws in each, gradients averaged, one of them saves."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    for name, command, parts in (("two", launch, 1), ("one", [sys.executable], 2)):
        command = [*command, "-m", "tests.support.two_processes", str(tmp_path / name), str(parts)]
        env = os.environ | {"CUDA_VISIBLE_DEVICES": ""}  # two processes need two GPUs, or none
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT, env=env)
        assert done.returncode == 0, done.stderr
    two, one = (torch.load(tmp_path / name / "small.pt", weights_only=True) for name in ("two", "one"))
    assert two["step"] == one["step"] == 5
    for key, value in one["module"].items():
        assert torch.allclose(two["module"][key], value, atol=1e-6), key


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_for_a_gpu_batches_are_drawn_ahead_in_other_processes_and_in_order():
    def draw(number):
        rng = np.random.default_rng([5, number])
        return number, torch.from_numpy(rng.random(3)), os.getpid(), random_scene(rng)

    here, ahead = (
        list(batches(draw, range(3, 40, 2), SimpleNamespace(device=torch.device(device))))
        for device in ("cpu", "cuda")
    )
    assert [one[0] for one in ahead] == [one[0] for one in here] == list(range(3, 40, 2))
    assert all(
        torch.equal(one[1], other[1]) and one[3] == other[3] for one, other in zip(here, ahead, strict=True)
    )
    assert {one[2] for one in here} == {os.getpid()} and os.getpid() not in {one[2] for one in ahead}


def test_drawing_leaves_the_random_numbers_of_the_module_alone():
    accelerator = SimpleNamespace(device=torch.device("cpu"))
    torch.manual_seed(3)
    plain = torch.rand(2)
    torch.manual_seed(3)
    for _ in batches(lambda number: number, range(4), accelerator):
        pass
    assert torch.equal(torch.rand(2), plain)
