"""Adapters of PEFT load on their base, merged or not, and change it as PEFT itself would."""

import json
import shutil

import pytest
import torch
import transformers
from PIL import Image

import qformer_viz
from qformer_viz import METHODS
from qformer_viz.analysis.head_ablation import ablate_heads
from qformer_viz.attribution.explanation import explain, prepare
from qformer_viz.errors import CheckpointError
from qformer_viz.hooks.recording import capture
from qformer_viz.runtime.adapter_folder import CONFIG, WEIGHTS, base_of, find_adapter
from qformer_viz.runtime.checkpoints import resolve
from tests.support import checkpoint_factory as factory
from tests.support.quantized_folders import save_quantized

peft = pytest.importorskip("peft", reason="adapters need PEFT; the extra `test` brings it")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:Merging lora module:UserWarning")
IMAGE, QUESTION = Image.new("RGB", (40, 40), "red"), "what is it?"
CLASSES = {
    "blip2": transformers.Blip2ForConditionalGeneration,
    "instructblip": transformers.InstructBlipForConditionalGeneration,
}
LAYERS = {"opt": ["q_proj", "v_proj"], "vicuna": ["q_proj", "v_proj"], "flan": ["q", "v"]}
KINDS = ("blip2-opt", "instructblip-vicuna")


@pytest.fixture(scope="module", params=KINDS)
def base(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / "base"
    return factory.write(folder, request.param), request.param


def config(kind, of):
    """A configuration of PEFT: LoRA on the language model, on the Q-Former, modules trained whole, IA3, prompts."""
    layers = LAYERS[kind.split("-")[1]]
    if of == "ia3":
        return peft.IA3Config(target_modules=layers, feedforward_modules=[])
    if of == "prompt":
        return peft.PromptTuningConfig(
            num_virtual_tokens=3, task_type="CAUSAL_LM", num_layers=2, token_dim=64
        )
    targets = ["query", "value"] if of == "qformer" else layers
    whole = {"saved": ["language_projection"], "whole": ["qformer"]}.get(of)
    return peft.LoraConfig(r=4, target_modules=targets, modules_to_save=whole)


def trained(base, of, folder, name="default"):
    """(folder, what PEFT's own model answers before saving): an adapter whose weights are not nought."""
    source, kind = base
    plain = CLASSES[kind.split("-")[0]].from_pretrained(source).eval()
    worn = peft.get_peft_model(plain, config(kind, of), adapter_name=name).eval()
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        for parameter in worn.parameters():
            if parameter.requires_grad:
                parameter += 0.2 * torch.randn_like(parameter)
    worn.save_pretrained(folder)
    return folder, worn.base_model.model


def queries(pipe, hf_model):
    """What a transformers model hands its language model of the picture."""
    inputs = pipe.processor.image_processor(IMAGE, return_tensors="pt")
    extra = {}
    if pipe.family == "instructblip":
        read = pipe.processor.qformer_tokenizer(pipe._prompts.instruction(QUESTION), return_tensors="pt")
        extra = {"qformer_input_ids": read.input_ids, "qformer_attention_mask": read.attention_mask}
    with torch.no_grad():
        ids = torch.full((1, factory.QUERIES), hf_model.config.image_token_index)
        found = {}

        def keep(module, args, output):
            found["queries"] = output.detach()

        handle = hf_model.language_projection.register_forward_hook(keep)
        logits = hf_model(**inputs, **extra, input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        handle.remove()
    return found["queries"], logits


@pytest.mark.slow
@pytest.mark.parametrize("of", ["lora", "qformer", "saved", "whole", "ia3"])
def test_is_what_peft_makes_of_it(base, of, tmp_path):
    folder, worn = trained(base, of, tmp_path / "adapter")
    pipe, plain = qformer_viz.load(folder, observe=capture), qformer_viz.load(base[0])
    assert not any("lora" in name or "modules_to_save" in name for name, _ in pipe.model.named_modules())
    ours, theirs, without = (queries(pipe, each) for each in (pipe.model, worn, plain.model))
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, atol=1e-4)
    assert not torch.allclose(ours[1], without[1], atol=1e-3), "the adapter changes something"
    assert f"adapter {folder.name}" in pipe.reason and pipe.describe()["adapter"].startswith("adapter (")
    assert pipe.checkpoint.title.startswith("adapter (adapter on ")


@pytest.mark.slow
@pytest.mark.parametrize("bits", [None, "8bit", "4bit"])
def test_goes_the_whole_way(base, bits, tmp_path):
    folder, _ = trained(base, "saved", tmp_path / "adapter")
    pipe = qformer_viz.load(folder, observe=capture, quantization=bits)
    encoded = pipe.encode(IMAGE)
    answer = pipe.ask(encoded, QUESTION)
    for method in METHODS:
        assert explain(pipe, encoded, answer, method, words=[0]).scores.isfinite().all(), method
    assert ablate_heads(prepare(pipe, encoded, answer)).cross.isfinite().all()
    assert pipe.quantization == bits


@pytest.mark.slow
@pytest.mark.parametrize("of", ["qformer", "whole", "saved"])
def test_on_a_quantised_base_the_qformer_is_plain_and_in_float(base, of, tmp_path):
    folder, worn = trained(base, of, tmp_path / "adapter")
    pipe = qformer_viz.load(folder, observe=capture, quantization="8bit")
    assert "on its base" in pipe.reason
    for name, _ in pipe.model.qformer.named_modules():
        assert "lora" not in name and "modules_to_save" not in name, name
    assert type(pipe.model.language_projection) is torch.nn.Linear
    ours, theirs = queries(pipe, pipe.model)[0], queries(pipe, worn)[0]
    assert (ours - theirs).norm() / theirs.norm() < 0.1, "8 bit changes little, the adapter much"


@pytest.mark.slow
def test_a_base_that_was_saved_in_8_bit(base, tmp_path):
    folder, _ = trained(base, "lora", tmp_path / "adapter")
    quantised = save_quantized(base, "8bit", tmp_path / "quantised")
    about = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(about | {"base_model_name_or_path": str(quantised)}))
    pipe = qformer_viz.load(folder)
    assert pipe.quantization == "8bit" and pipe.ask(IMAGE, QUESTION).tokens


@pytest.mark.slow
def test_a_whole_model_and_an_adapter_in_one_folder(base, tmp_path, monkeypatch):
    both = tmp_path / "both"
    shutil.copytree(base[0], both)
    adapter, _ = trained(base, "lora", tmp_path / "adapter")
    for name in (CONFIG, WEIGHTS):
        shutil.copy(adapter / name, both)
    pipe, alone = qformer_viz.load(both), qformer_viz.load(adapter)
    assert torch.equal(queries(pipe, pipe.model)[1], queries(alone, alone.model)[1])
    assert "adapter both (LORA)" in pipe.reason
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        CheckpointError, match=r"whole model and an adapter.*not installed.*move adapter_config"
    ):
        qformer_viz.load(both)
    with pytest.raises(CheckpointError, match=r"is an adapter \(LORA\), which needs PEFT: pip install peft"):
        qformer_viz.load(adapter)


@pytest.mark.slow
def test_further_adapters_are_named_and_have_their_own_folder(base, tmp_path):
    source, kind = base
    worn = peft.get_peft_model(CLASSES[kind.split("-")[0]].from_pretrained(source), config(kind, "lora"))
    worn.add_adapter("second", config(kind, "lora"))
    worn.save_pretrained(tmp_path / "two")
    assert "further adapters in that folder: second" in qformer_viz.load(tmp_path / "two").reason
    assert "adapter second" in qformer_viz.load(tmp_path / "two" / "second").reason


def test_the_base_is_found_beside_it_or_asked_for(base, tmp_path):
    folder, _ = trained(base, "lora", tmp_path / "adapter")

    def on(name):
        about = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps(about | {"base_model_name_or_path": name}))
        return find_adapter(folder)

    moved = tmp_path / base[0].name
    shutil.copytree(base[0], moved)
    assert base_of(on("/gone/" + moved.name)) == str(moved.resolve())
    with pytest.raises(CheckpointError, match="not there any more"):
        base_of(on("/gone/elsewhere"))
    on("blip2-emoji")
    assert resolve(folder).title == "adapter (adapter on BLIP-2 emoji (bundled))"
    on("somebody/blip2-of-mine")
    with pytest.raises(CheckpointError, match="--allow somebody/blip2-of-mine"):
        resolve(folder)
    assert resolve(folder, ["somebody/blip2-of-mine"]).location == "somebody/blip2-of-mine"


@pytest.mark.slow
def test_what_does_not_fit_is_refused(base, tmp_path):
    folder, _ = trained(base, "lora", tmp_path / "adapter")
    about = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(about | {"target_modules": ["no_such_layer"]}))
    with pytest.raises(CheckpointError, match="does not fit its base model"):
        qformer_viz.load(folder)
    (folder / CONFIG).write_text(json.dumps(about | {"r": 8}))
    with pytest.raises(CheckpointError, match="does not fit its base model"):
        qformer_viz.load(folder)


def test_prompt_tuning_is_refused_by_name(base, tmp_path):
    source, _ = base
    folder = tmp_path / "prompts"
    folder.mkdir()
    about = {"peft_type": "PROMPT_TUNING", "base_model_name_or_path": str(source), "num_virtual_tokens": 3}
    (folder / CONFIG).write_text(json.dumps(about))
    (folder / WEIGHTS).write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"PROMPT_TUNING\) changes the prompt"):
        qformer_viz.load(folder)


@pytest.mark.parametrize(
    ("about", "weights", "part"),
    [
        ("{", True, "cannot be read"),
        ('{"peft_type": "LORA"}', True, "names no base model"),
        ('{"peft_type": "LORA", "base_model_name_or_path": "blip2-emoji"}', False, "nothing but safetensors"),
    ],
)
def test_broken_adapters_are_told(tmp_path, about, weights, part):
    (tmp_path / CONFIG).write_text(about)
    (tmp_path / "adapter_model.bin").write_bytes(b"pickle")
    if weights:
        (tmp_path / WEIGHTS).write_bytes(b"")
    with pytest.raises(CheckpointError, match=part):
        resolve(tmp_path)


def test_pickles_are_named_for_what_they_are(tmp_path):
    path = tmp_path / "blip2_pretrained_opt2.7b.pth"
    path.write_bytes(b"anything")
    for given in (path, tmp_path):
        with pytest.raises(CheckpointError, match=r"LAVIS.*convert_blip_2_original_to_pytorch"):
            resolve(given)
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    with pytest.raises(CheckpointError, match="Give its folder"):
        resolve(text)


@pytest.mark.slow
def test_an_adapter_is_compared_with_its_base(tmp_path, capsys):
    from qformer_viz.cli.backend import backend
    from qformer_viz.cli.dispatch import main

    source = factory.write(tmp_path / "base", "blip2-opt")
    folder, _ = trained((source, "blip2-opt"), "qformer", tmp_path / "adapter")
    pictures = [tmp_path / f"{name}.png" for name in ("one", "two")]
    for path, colour in zip(pictures, ("red", "blue"), strict=True):
        Image.new("RGB", (40, 40), colour).save(path)
    command = ["compare", "--model", str(folder), "--against", str(source), "--pictures", *map(str, pictures)]
    assert main(command, backend()) == 0
    assert "adapter" in capsys.readouterr().out


@pytest.mark.slow
def test_an_adapter_can_be_offered_on_the_page(tmp_path):
    from qformer_viz.cli import app_setup
    from qformer_viz.cli.commands import app_command

    source = factory.write(tmp_path / "base", "blip2-opt")
    folder, _ = trained((source, "blip2-opt"), "qformer", tmp_path / "adapter")
    args = app_command.app_parser().parse_args(["--model", str(source), "--offer", str(folder)])
    ((entry, load),) = app_setup.offered(args).items()
    assert entry.title == "adapter (adapter on base)"
    assert load().ask(IMAGE, QUESTION).tokens
