"""What the doctor checks of a checkpoint's files: each fault it is there for is found in a loaded model."""

import dataclasses

import pytest
import torch
from PIL import Image

import qformer_viz
from qformer_viz.cli import dispatch as cli
from qformer_viz.cli.backend import backend
from qformer_viz.evaluation import doctor
from qformer_viz.runtime import self_check
from qformer_viz.runtime.prompts import Prompter
from qformer_viz.runtime.weight_checks import not_finite
from tests.support import checkpoint_factory as factory
from tests.support import odd_folders as odd

SIZE = "pictures have the size that the ViT takes"
FINITE = "weights are finite"
PRECISION = "the precision is safe for the language model"
ENDS = "answers can end"
TYPED = "a typed special token stays text"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {
        kind: factory.write(tmp_path_factory.mktemp(kind) / kind, kind, shard="1GB") for kind in odd.KINDS
    }


def load(folder, **options):
    return qformer_viz.load(folder, device="cpu", observe=qformer_viz.capture, **options)


def failed(pipe):
    return [finding.what for finding in pipe.self_check() if not finding.holds]


def detail(pipe, what):
    return next(finding.detail for finding in pipe.self_check() if finding.what == what)


@pytest.mark.parametrize("kind", odd.KINDS)
def test_a_sound_folder_holds_and_its_ends_and_prompt_are_told(folders, kind):
    pipe = load(folders[kind])
    assert failed(pipe) == [] and len(pipe.self_check()) == 7
    end = pipe.processor.tokenizer.eos_token
    assert f"{end!r} (id " in detail(pipe, ENDS) and "configuration, tokenizer" in detail(pipe, ENDS)
    asked = "the tokenizer's chat template" if kind == "blip2-qwen" else "that of its kind: "
    assert pipe.describe()["prompt"].startswith(asked)


def test_ends_tell_the_files_that_name_them(folders, tmp_path):
    folder, end = odd.with_end(odd.copy(folders["blip2-opt"], tmp_path / "ends"), "generation")
    told = detail(load(folder), ENDS)
    assert f"(id {end}: generation configuration)" in told and "'</s>' (id 2: tokenizer)" in told


def test_a_language_model_without_an_end_is_found(folders):
    pipe = load(folders["blip2-opt"])
    language = pipe.model.language_model
    language.generation_config.eos_token_id = language.config.eos_token_id = None
    pipe.model.generation_config.eos_token_id = None
    pipe.processor.tokenizer.eos_token = None
    assert ENDS in failed(pipe) and "set eos_token_id in generation_config.json" in detail(pipe, ENDS)


@pytest.mark.parametrize("precision", [None, "8bit", "4bit"])
def test_weights_that_became_nan_are_found(folders, precision):
    pipe = load(folders["blip2-opt"], quantization=precision)
    assert failed(pipe) == []
    with torch.no_grad():
        pipe.model.qformer.encoder.layer[0].attention.attention.query.weight[1, 2] = float("nan")
    assert failed(pipe) == [FINITE]
    assert "qformer.encoder.layer.0.attention.attention.query.weight" in detail(pipe, FINITE)


def test_scales_that_int8_has_moved_to_its_layers_are_checked_too(folders):
    pipe = load(folders["blip2-opt"], quantization="8bit")
    pipe.caption(Image.new("RGB", (40, 30)), qformer_viz.Decoding(max_new_tokens=2))
    layer = pipe.model.language_model.model.decoder.layers[0].fc1
    scales = layer.weight.SCB if layer.state.SCB is None else layer.state.SCB
    scales[3] = float("inf")
    assert failed(pipe) == [FINITE] and "layers.0.fc1.weight (scales)" in detail(pipe, FINITE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_one_number_among_many_is_found_in_every_precision(dtype):
    layers = torch.nn.ModuleList(torch.nn.Linear(300, 200) for _ in range(3)).to(dtype).requires_grad_(False)
    layers.register_buffer("whole", torch.arange(5))
    assert not_finite(layers) == []
    layers[1].weight.view(-1)[12345] = float("nan")
    assert not_finite(layers) == ["1.weight"]
    if dtype != torch.float8_e4m3fn:
        layers[2].bias[7] = float("-inf")
        assert not_finite(layers) == ["1.weight", "2.bias"]


def test_a_precision_that_overflows_is_found(folders):
    pipe = load(folders["blip2-flan-t5"])
    pipe.dtype = torch.float16
    assert failed(pipe) == [PRECISION] and "t5 in float16; safe are float32" in detail(pipe, PRECISION)


def test_a_processor_of_another_size_is_found(folders):
    pipe = load(folders["blip2-opt"])
    pipe.processor.image_processor.size = {"height": 56, "width": 56}
    assert failed(pipe) == [SIZE] and "56×56" in detail(pipe, SIZE)


def test_a_prompter_that_lets_typed_markup_through_is_found(folders, monkeypatch):
    pipe = load(folders["blip2-qwen"])
    question = Prompter.question

    def naive(self, *args):
        prompt = question(self, *args)
        return dataclasses.replace(prompt, ids=tuple(self.tokenizer(prompt.text)["input_ids"]))

    monkeypatch.setattr(Prompter, "question", naive)
    assert failed(pipe) == [TYPED] and "<|im_end|>" in detail(pipe, TYPED)


def test_the_report_holds_the_findings_and_the_prompt(folders):
    report = doctor.examine(lambda: load(folders["blip2-qwen"]), Image.new("RGB", (40, 30), (9, 200, 30)))
    checked = [what for what, _, _ in report.checks]
    assert {SIZE, FINITE, PRECISION, ENDS, TYPED} <= set(checked)
    assert "| prompt | the tokenizer's chat template |" in report.text()


FAULTS = {
    "surplus": (lambda folder: odd.fewer_layers(folder, "text_config"), "has no place for"),
    "nan": (lambda folder: odd.spoilt(folder, "language_model", float("nan")), "not numbers (NaN)"),
    "size": (odd.other_picture_size, "the model's ViT takes 28×28"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_doctors_command_tells_what_loading_refuses(folders, tmp_path, capsys, fault):
    change, told = FAULTS[fault]
    folder = odd.copy(folders["blip2-opt"], tmp_path / fault)
    change(folder)
    assert cli.main(["doctor", "--model", str(folder)], backend()) == 2
    assert told in capsys.readouterr().err


def test_the_doctor_says_what_the_system_does_not_limit(monkeypatch):
    assert "the system limits" in self_check._uploads().detail
    monkeypatch.setattr(self_check, "unset_limits", lambda: ("No limit can be set on the memory here.",))
    assert self_check._uploads().detail == "No limit can be set on the memory here."
