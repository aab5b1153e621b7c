"""Loading: complete or refused, float where it must be, with the reason said."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

import qformer_viz
from qformer_viz.errors import CheckpointError, OutOfDeviceMemory
from qformer_viz.runtime import loading
from qformer_viz.runtime.checkpoints import CHECKPOINTS, PRECISIONS, Checkpoint
from qformer_viz.runtime.pipeline import Pipeline
from qformer_viz.types import Decoding
from tests.support import fake_checkpoints as fakes

PICTURE = Image.new("RGB", (40, 30), (200, 30, 60))
SHORT = Decoding(max_new_tokens=8)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return {
        family: fakes.save(tmp_path_factory.mktemp(family), family, language)
        for family, language in [("blip2", "opt"), ("instructblip", "t5")]
    }


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved["blip2"], tmp_path / "copy")


def edit(path, **changes):
    content = json.loads(path.read_text())
    content.update(changes)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(("family", "language"), [("blip2", "opt"), ("instructblip", "t5")])
def test_a_folder_loads_and_answers_as_what_was_saved(saved, family, language, capsys):
    pipe = qformer_viz.load(saved[family])
    assert pipe.family == family and pipe.reason in capsys.readouterr().out
    assert pipe.reason.startswith("device cpu (no CUDA device found), float32 (") or torch.cuda.is_available()
    same = Pipeline(pipe.checkpoint, *fakes.parts(family, language))
    expected = same.ask(PICTURE, "what?", (), SHORT)
    assert pipe.ask(PICTURE, "what?", (), SHORT).token_ids == expected.token_ids
    assert not pipe.model.training and not any(p.requires_grad for p in pipe.model.parameters())
    assert pipe.describe()["model"] == saved[family].name


def test_load_can_be_called_more_than_once(saved):
    assert qformer_viz.load(saved["blip2"]).name == qformer_viz.load(saved["blip2"]).name
    assert callable(qformer_viz.load)


@pytest.mark.slow
def test_dtype_and_device_as_asked(saved):
    pipe = qformer_viz.load(saved["blip2"], dtype="bfloat16", device="cpu")
    assert pipe.dtype == torch.bfloat16 and pipe.model.vision_model.dtype == torch.bfloat16
    assert "as asked" in pipe.reason and pipe.describe()["precision"] == "bfloat16"
    assert pipe.caption(PICTURE, SHORT).tokens
    half = qformer_viz.load(saved["blip2"], dtype=torch.float16, device="cpu")
    # The model's own dtype would read fp32 here, that of its query tokens.
    assert half.dtype == torch.float16 and half.model.query_tokens.dtype == torch.float32
    assert half.caption(PICTURE, SHORT).tokens
    with pytest.raises(CheckpointError, match="float32, bfloat16, float16"):
        qformer_viz.load(saved["blip2"], dtype="float8")
    with pytest.raises(CheckpointError, match='"cpu", "cuda"'):
        qformer_viz.load(saved["blip2"], device="abacus")
    if not torch.cuda.is_available():
        with pytest.raises(CheckpointError, match="no CUDA device was found"):
            qformer_viz.load(saved["blip2"], device="cuda")


@pytest.mark.slow
@pytest.mark.parametrize("family", ["blip2", "instructblip"])
@pytest.mark.parametrize(("kind", "layer"), [("8bit", "Linear8bitLt"), ("4bit", "Linear4bit")])
def test_quantised_weights_leave_the_qformer_float_and_the_answer_near(saved, family, kind, layer):
    pipe, plain = qformer_viz.load(saved[family], quantization=kind), qformer_viz.load(saved[family])
    parts = {}
    for name, module in pipe.model.named_modules():
        if isinstance(module, torch.nn.Linear):
            parts.setdefault(name.split(".")[0], set()).add(type(module).__name__)
    assert parts["qformer"] == parts["language_projection"] == {"Linear"}
    assert layer in parts["language_model"] and parts["vision_model"] == {layer}
    assert pipe.model.query_tokens.dtype == torch.float32
    assert type(pipe.model.language_model.lm_head) is torch.nn.Linear
    assert kind in pipe.reason and pipe.describe()["quantization"] == kind
    near, exact = pipe.encode(PICTURE).queries, plain.encode(PICTURE).queries
    error = (near - exact).norm() / exact.norm()
    assert 0 < error < (0.05 if kind == "8bit" else 0.3)
    assert pipe.caption(PICTURE, SHORT).tokens
    if kind == "4bit":
        linear = next(module for module in pipe.model.modules() if type(module).__name__ == layer)
        assert linear.weight.quant_type == "nf4" and linear.compute_dtype == pipe.dtype


def test_unknown_quantisation_is_refused(saved):
    with pytest.raises(CheckpointError, match='"auto", None, "8bit" or "4bit"'):
        qformer_viz.load(saved["blip2"], quantization="int8")


def test_absent_weights_are_not_made_up(copy):
    weights = load_file(copy / "model.safetensors")
    gone = "qformer.encoder.layer.0.crossattention.attention.query.weight"
    save_file({name: value for name, value in weights.items() if name != gone}, copy / "model.safetensors")
    with pytest.raises(CheckpointError, match=gone):
        qformer_viz.load(copy)


def test_weights_of_another_shape_are_refused(copy):
    edit(copy / "config.json", num_query_tokens=fakes.QUERIES + 1)
    with pytest.raises(CheckpointError, match=r"query_tokens|mismatch"):
        qformer_viz.load(copy)


def test_weights_that_are_missing_or_not_safetensors(copy):
    weights = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="safetensors"):
        qformer_viz.load(copy)
    torch.save(weights, copy / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="safetensors"):
        qformer_viz.load(copy)


@pytest.mark.parametrize("damage", [b"", b"garbage" * 9])
def test_corrupt_weights(copy, damage):
    (copy / "model.safetensors").write_bytes(damage)
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        qformer_viz.load(copy)


def test_truncated_weights(copy):
    whole = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        qformer_viz.load(copy)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "processor_config.json"])
def test_a_corrupt_companion_file(copy, name):
    (copy / name).write_text("{ not json")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        qformer_viz.load(copy)


def test_a_model_without_a_qformer_is_refused(tmp_path):
    transformers.OPTConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="'opt' model; expected one with a Q-Former"):
        qformer_viz.load(tmp_path)


def test_remote_code_is_not_run(copy):
    (copy / "evil.py").write_text("raise SystemExit('ran')")
    edit(copy / "config.json", model_type="unheard-of", auto_map={"AutoConfig": "evil.Config"})
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        qformer_viz.load(copy)


def test_the_processor_must_insert_one_placeholder_per_query(copy):
    edit(copy / "processor_config.json", num_query_tokens=fakes.QUERIES - 1)
    with pytest.raises(CheckpointError, match=f"{fakes.QUERIES - 1} image placeholders"):
        qformer_viz.load(copy)
    edit(copy / "processor_config.json", num_query_tokens=None)
    pipe = qformer_viz.load(copy)
    # Unset, stock processing would leave the image out without a word.
    assert pipe.processor.num_query_tokens == fakes.QUERIES
    edit(copy / "config.json", image_token_index=2)
    with pytest.raises(CheckpointError, match="image token"):
        qformer_viz.load(copy)


def test_observe_reaches_the_pass(saved):
    import contextlib

    pipe = qformer_viz.load(
        saved["blip2"],
        observe=lambda hf_model: contextlib.nullcontext(SimpleNamespace(result=type(hf_model).__name__)),
    )
    assert pipe.encode(PICTURE).capture == "Blip2ForConditionalGeneration"


def test_no_network_names_the_ways_out(monkeypatch):
    def offline(*_, **__):
        raise OSError("We couldn't connect to 'https://huggingface.co' to load the files.\nmore")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", offline)
    with pytest.raises(CheckpointError) as caught:
        qformer_viz.load("Salesforce/blip2-opt-2.7b")
    text = str(caught.value)
    assert "hf download Salesforce/blip2-opt-2.7b" in text and "blip2-emoji" in text and "more" not in text


def test_unlisted_ids_never_reach_the_network(monkeypatch):
    monkeypatch.setattr(
        transformers.AutoConfig, "from_pretrained", lambda *_, **__: pytest.fail("asked the hub")
    )
    with pytest.raises(CheckpointError, match="allow="):
        qformer_viz.load("someone/theirs")


def test_a_hub_load_asks_for_safetensors_the_pinned_revision_and_no_remote_code(monkeypatch):
    asked = {}

    def refuse(name, **options):
        asked.update(options, name=name)
        raise OSError("stop here")

    monkeypatch.setitem(
        CHECKPOINTS, "Salesforce/blip2-opt-2.7b", Checkpoint(id="Salesforce/x", title="x", revision="abc")
    )
    fake, processor = fakes.parts()
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", lambda *_, **__: fake.config)
    monkeypatch.setattr(transformers.Blip2Processor, "from_pretrained", lambda *_, **__: processor)
    monkeypatch.setattr(transformers.Blip2ForConditionalGeneration, "from_pretrained", refuse)
    with pytest.raises(CheckpointError):
        qformer_viz.load("Salesforce/blip2-opt-2.7b")
    assert asked["use_safetensors"] is True and asked["trust_remote_code"] is False
    assert asked["revision"] == "abc" and asked["name"] == "Salesforce/x"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("planted"), MemoryError()])
def test_a_model_that_does_not_fit(saved, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(transformers.Blip2ForConditionalGeneration, "from_pretrained", fail)
    with pytest.raises(OutOfDeviceMemory, match="quantization"):
        qformer_viz.load(saved["blip2"])


@pytest.mark.slow
def test_precision_follows_size_device_and_family(monkeypatch):
    opt, t5 = (fakes.parts(language=language)[0].config for language in ("opt", "t5"))
    cpu, cuda, mps = torch.device("cpu"), torch.device("cuda"), torch.device("mps")
    hf = transformers.Blip2ForConditionalGeneration
    # Bytes of weights as if the tiny model had four billion.
    sizes = {"8bit": 4.2e9, "4bit": 2.4e9}
    monkeypatch.setattr(
        loading,
        "weight_bytes",
        lambda _c, _m, precision, kind=None: sizes.get(kind, 4e9 * precision.itemsize),
    )

    def chosen(
        place, config=opt, *, free=100e9, memory=16e9, bf16=True, quantization="auto", dtype=None, small=False
    ):
        monkeypatch.setattr(loading.device_memory, "physical", lambda: memory)
        monkeypatch.setattr(loading.device_memory, "free", lambda _: free)
        # A T4 has 7.5, and torch.cuda.is_bf16_supported() is true of it: it imitates what it has not.
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0) if bf16 else (7, 5))
        kind = {"precisions": tuple(p for p in PRECISIONS if p != "float16")} if config is t5 else {}
        size = 0.04 if small else 16.0
        checkpoint = Checkpoint(id="x", title="x", gigabytes=(size,), **kind)
        found = loading._plan(checkpoint, config, hf, place, dtype, quantization)
        assert small or ("of weights" in found.reason and "free" in found.reason)
        return found.precision, found.quantization

    assert chosen(cpu, small=True, free=0) == chosen(cuda, small=True, free=0) == (torch.float32, None)
    assert chosen(cpu) == (torch.bfloat16, None)
    assert chosen(cpu, memory=64e9) == (torch.float32, None)
    assert chosen(cpu, memory=64e9, free=10e9) == (torch.bfloat16, None)
    assert chosen(cuda) == (torch.bfloat16, None)
    assert chosen(cuda, bf16=False) == (torch.float16, None)
    # FlanT5 overflows in float16.
    assert chosen(cuda, t5, bf16=False) == (torch.float32, None)
    # Eight bits where half precision finds no room, four where they find none either; never unasked without need.
    assert chosen(cuda, free=8e9) == (torch.bfloat16, "8bit")
    assert chosen(cuda, free=4e9) == (torch.bfloat16, "4bit")
    assert chosen(cuda, free=8e9, bf16=False) == (torch.float16, "8bit")
    assert chosen(cuda, quantization="4bit") == (torch.bfloat16, "4bit")
    assert chosen(cuda, quantization=None, dtype="float32") == (torch.float32, None)
    with pytest.raises(
        OutOfDeviceMemory, match=r"x needs 8\.9 GB in bfloat16 .* cuda has 6\.0 GB free.*8bit, 4\.9 GB"
    ):
        chosen(cuda, free=6e9, quantization=None)
    with pytest.raises(OutOfDeviceMemory, match=r"fits in no precision \(the least is 3\.0 GB\)"):
        chosen(cuda, free=1e9)
    # bitsandbytes has no Apple GPU.
    with pytest.raises(OutOfDeviceMemory, match=r"the least is 8\.9 GB"):
        chosen(mps, free=6e9)
    with pytest.raises(CheckpointError, match="overflows in float16"):
        chosen(cuda, t5, dtype="float16")


def test_what_does_not_fit_is_refused_before_it_is_read(saved, monkeypatch):
    monkeypatch.setattr(loading, "_stored_parameters", lambda _: 4.0)
    monkeypatch.setattr(loading.device_memory, "free", lambda _: 1e6)
    monkeypatch.setattr(
        transformers.Blip2ForConditionalGeneration, "from_pretrained", lambda *_, **__: pytest.fail("read")
    )
    with pytest.raises(OutOfDeviceMemory, match="free memory, or choose a smaller"):
        qformer_viz.load(saved["blip2"])


def test_a_matcher_that_does_not_fit_is_advised_of_nothing_it_cannot_do(tmp_path, monkeypatch):
    fakes.save(tmp_path, "retrieval")
    monkeypatch.setattr(loading, "_stored_parameters", lambda _: 4.0)
    monkeypatch.setattr(
        loading, "weight_bytes", lambda _c, _m, precision, kind=None: 1e9 * precision.itemsize
    )
    monkeypatch.setattr(loading.device_memory, "free", lambda _: 1e9)
    with pytest.raises(OutOfDeviceMemory, match="fits in no precision") as refused:
        qformer_viz.load_matcher(tmp_path, device="cpu")
    assert "bit" not in str(refused.value).replace("bfloat16", "")
