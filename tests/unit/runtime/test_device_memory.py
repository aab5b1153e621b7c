"""Memory: counted without allocating, against what loaded models really take and what the list of checkpoints says."""

import json

import pytest
import torch
import transformers

import qformer_viz
from qformer_viz.cli import dispatch as cli
from qformer_viz.cli.backend import backend
from qformer_viz.errors import CheckpointError
from qformer_viz.runtime import device_memory
from qformer_viz.runtime.checkpoints import CHECKPOINTS
from tests.support import fake_checkpoints as fakes
from tests.support import published

PRECISIONS = {
    "float32": {"dtype": torch.float32, "quantization": None},
    "bfloat16": {"dtype": torch.bfloat16, "quantization": None},
    "float16": {"dtype": torch.float16, "quantization": None},
    "8bit": {"dtype": torch.bfloat16, "quantization": "8bit"},
    "4bit": {"dtype": torch.bfloat16, "quantization": "4bit"},
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return {
        kind: fakes.save(tmp_path_factory.mktemp("-".join(kind)), *kind)
        for kind in (("blip2", "opt"), ("instructblip", "t5"))
    }


def taken(hf_model):
    """Bytes of the weights of a loaded model, with the state of quantised ones."""
    total = 0
    for weight in hf_model.parameters():
        total += weight.nbytes
        if getattr(weight, "SCB", None) is not None:
            total += weight.SCB.nbytes
        state = getattr(weight, "quant_state", None)
        if state is not None:
            total += state.absmax.nbytes + (state.state2.absmax.nbytes if state.nested else 0)
    return total


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", [("blip2", "opt"), ("instructblip", "t5")], ids="-".join)
def test_bytes_are_those_of_the_loaded_model(saved, kind, precision):
    options = PRECISIONS[precision]
    if (kind[1], precision) == ("t5", "float16"):
        with pytest.raises(CheckpointError, match="overflows"):
            qformer_viz.load(saved[kind], device="cpu", **options)
        return
    pipe = qformer_viz.load(saved[kind], device="cpu", **options)
    counted = device_memory.weight_bytes(
        type(pipe.model), pipe.model.config, options["dtype"], options["quantization"]
    )
    # The scales of blocks are rounded up in matrices as small as these.
    assert counted == pytest.approx(taken(pipe.model), rel=0.03 if precision == "4bit" else 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_the_list_says_how_large_each_is_in_every_precision(name):
    entry = CHECKPOINTS[name]
    if entry.folder is None:
        model_class, config = published.config(name)
    else:
        config = transformers.AutoConfig.from_pretrained(entry.folder)
        model_class = getattr(transformers, config.architectures[0])
    for precision in entry.precisions:
        counted = device_memory.weight_bytes(model_class, config, *PRECISIONS[precision].values()) / 1e9
        assert entry.memory(precision) == pytest.approx(counted, abs=0.0051), precision


@pytest.mark.slow
def test_int8_of_the_published_opt_takes_little_more_than_half():
    model_class, config = published.config("Salesforce/blip2-opt-2.7b")
    half = device_memory.weight_bytes(model_class, config, torch.float16)
    assert device_memory.weight_bytes(model_class, config, torch.float16, "8bit") < 0.6 * half
    assert device_memory.weight_bytes(model_class, config, torch.float16, "4bit") < 0.4 * half


def test_free_memory_is_that_of_machine_and_container(tmp_path, monkeypatch):
    free = device_memory.free(torch.device("cpu"))
    assert 1e8 < free <= device_memory.physical()
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 100\ninactive_file 150\nactive_file 50\n")
    assert device_memory._container(tmp_path) == 500
    (tmp_path / "memory.max").write_text("max\n")
    assert device_memory._container(tmp_path) == float("inf")
    (tmp_path / "memory.max").write_text("nonsense")
    assert (
        device_memory._container(tmp_path) == float("inf") == device_memory._container(tmp_path / "nowhere")
    )
    monkeypatch.setattr(device_memory, "_container", lambda: 12.0)
    assert device_memory.free(torch.device("cpu")) == 12


def test_the_listing_says_what_fits():
    def fits(free):
        return {row["id"]: row["fits"] for row in device_memory.listing(free)}

    assert set(fits(10e9)) == set(CHECKPOINTS)
    assert fits(10e9)["Salesforce/blip2-opt-2.7b"] == "bfloat16" and fits(10e9)["blip2-emoji"] == "float32"
    assert fits(5e9)["Salesforce/blip2-opt-2.7b"] == "8bit"
    assert fits(7.6e9)["Salesforce/blip2-opt-2.7b"] == "8bit"  # 7.49 GB of weights leave no room to work in
    assert fits(3e9)["Salesforce/blip2-opt-2.7b"] == "4bit" and fits(2e9)["Salesforce/blip2-opt-2.7b"] is None
    assert fits(2e9)["Salesforce/blip2-itm-vit-g"] is None
    assert fits(9e9)["Salesforce/blip2-flan-t5-xl"] == "bfloat16"  # never float16


def test_the_list_is_printed_and_its_figures_are_json(capsys):
    assert cli.main(["checkpoints", "--json"], backend()) == 0
    said = json.loads(capsys.readouterr().out)
    rows = {row["id"]: row for row in said["checkpoints"]}
    assert rows["Salesforce/blip2-opt-2.7b"]["gigabytes"]["8bit"] == 3.99 and rows["blip2-emoji"]["verified"]
    assert "| Salesforce/blip2-itm-vit-g | retrieval | 4.69 | 2.34 | – | – |" in said["text"]
