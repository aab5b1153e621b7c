"""Folders saved in 8 or 4 bit go the whole way, as if they had been quantised here."""

import json
import shutil

import pytest
import torch
import transformers
from PIL import Image

import qformer_viz
from qformer_viz import METHODS
from qformer_viz.attribution.explanation import explain
from qformer_viz.errors import CheckpointError
from qformer_viz.hooks.recording import capture
from qformer_viz.runtime import device_memory
from qformer_viz.view.archive import manifest
from tests.support import checkpoint_factory as factory
from tests.support.quantized_folders import CLASSES, save_quantized

KINDS = ("blip2-opt", "blip2-flan-t5", "instructblip-vicuna")
IMAGE = Image.new("RGB", (40, 40), "red")
QUESTION = "what is it?"
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.fixture(scope="module", params=KINDS)
def source(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return factory.write(folder, request.param), request.param


@pytest.fixture(scope="module", params=["8bit", "4bit"])
def bits(request):
    return request.param


@pytest.fixture(scope="module")
def folder(source, bits, tmp_path_factory):
    """With no part skipped but those that transformers skips."""
    return save_quantized(source, bits, tmp_path_factory.mktemp("saved") / "saved")


def test_goes_the_whole_way(source, bits, folder):
    pipe = qformer_viz.load(folder, observe=capture)
    assert pipe.quantization == bits and pipe.dtype.is_floating_point
    for name, part in pipe.model.named_modules():
        if isinstance(part, torch.nn.Linear) and device_memory.among(name, device_memory.FLOAT):
            assert type(part) is torch.nn.Linear and part.weight.is_floating_point(), name
    encoded = pipe.encode(IMAGE)
    assert encoded.queries.is_floating_point() and encoded.capture.cross_attention.isfinite().all()
    answer = pipe.ask(encoded, QUESTION)
    assert len(answer.tokens) > 1
    for method in METHODS:
        found = explain(pipe, encoded, answer, method, words=[0])
        assert found.scores.isfinite().all(), method
    about = manifest(encoded.capture, pipe.describe(), image_sha256=encoded.sha256)
    assert json.loads(json.dumps(about))["quantization"] == bits
    live = qformer_viz.load(source[0], quantization=bits)
    assert pipe._generator.reuse == live._generator.reuse and pipe._generator.quantised


def test_is_the_model_that_was_saved(source, bits, tmp_path):
    """With the parts skipped that this program skips, saving and loading changes no bit."""
    skip = list(device_memory.FLOAT)
    folder = save_quantized(source, bits, tmp_path / "saved", skip)
    pipe = qformer_viz.load(folder)
    settings = transformers.BitsAndBytesConfig(**{f"load_in_{bits}": True}, llm_int8_skip_modules=skip)
    options = {"quantization_config": settings, "device_map": {"": "cpu"}, "dtype": torch.float32}
    direct = CLASSES[source[1].split("-")[0]].from_pretrained(source[0], **options).eval()
    pixels = pipe.processor.image_processor(IMAGE, return_tensors="pt").pixel_values
    with torch.no_grad():
        expected = direct.vision_model(pixels).last_hidden_state
        found = pipe.model.vision_model(pixels).last_hidden_state
    assert torch.equal(found, expected)


def test_in_float_they_are_the_weights_that_the_numbers_stand_for(source, bits, folder):
    pipe, original = qformer_viz.load(folder, quantization=None), qformer_viz.load(source[0])
    assert pipe.quantization is None and "taken back to float" in pipe.reason
    assert {type(part) for part in pipe.model.modules() if isinstance(part, torch.nn.Linear)} == {
        torch.nn.Linear
    }
    worst = 0.0
    for (name, one), (_, other) in zip(
        sorted(pipe.model.named_parameters()), sorted(original.model.named_parameters()), strict=True
    ):
        assert one.dtype == torch.float32, name
        worst = max(worst, ((one - other).norm() / other.norm().clamp(min=1e-9)).item())
    assert 0 < worst < (0.02 if bits == "8bit" else 0.2)
    assert getattr(pipe.model.config, "quantization_config", None) is None


def test_another_precision_is_refused_with_what_is_possible(bits, folder):
    other = "4bit" if bits == "8bit" else "8bit"
    with pytest.raises(
        CheckpointError, match=rf"saved in {bits} and cannot become {other}.*quantization=None"
    ):
        qformer_viz.load(folder, quantization=other)
    assert other not in qformer_viz.load(folder).checkpoint.precisions


def test_weights_of_another_method_are_named(source, tmp_path):
    folder = tmp_path / "gptq"
    shutil.copytree(source[0], folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq", "bits": 4}}))
    with pytest.raises(CheckpointError, match="quantised by gptq"):
        qformer_viz.load(folder)


def test_doctor_and_fidelity(tmp_path, capsys):
    from qformer_viz.cli.backend import backend
    from qformer_viz.cli.dispatch import main

    whole = factory.write(tmp_path / "whole", "blip2-opt")
    folder = save_quantized((whole, "blip2-opt"), "8bit", tmp_path / "saved")
    main(["doctor", "--model", str(folder)], backend())
    report = capsys.readouterr().out
    assert "8bit" in report and "could not infer output dtype" not in report
    assert main(["fidelity", "--model", str(folder), "--images", "2", "--precision", "8bit"], backend()) == 0
    assert "8bit" in capsys.readouterr().out
