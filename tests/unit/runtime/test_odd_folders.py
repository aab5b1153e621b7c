"""Every family, in every odd folder that people have: it loads and answers as the whole one, or is refused with the
name of what is wrong."""

import re

import pytest
import torch
import transformers
from PIL import Image

import qformer_viz
from qformer_viz.errors import CheckpointError
from qformer_viz.runtime.checkpoints import family_settings, is_t5, resolve
from qformer_viz.runtime.end_tokens import end_tokens
from qformer_viz.types import Decoding
from tests.support import checkpoint_factory as factory
from tests.support import odd_folders as odd

PICTURE = Image.linear_gradient("L").resize((40, 30)).convert("RGB")
SHORT = Decoding(max_new_tokens=8)
KINDS = pytest.mark.parametrize("kind", odd.KINDS)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """kind -> (folder, its answer to one question)."""
    found = {}
    for kind in odd.KINDS:
        folder = factory.write(tmp_path_factory.mktemp(kind) / kind, kind, shard="1GB")
        found[kind] = folder, qformer_viz.load(folder, device="cpu").ask(PICTURE, "what is it?", (), SHORT)
    return found


@pytest.fixture
def copied(whole, tmp_path):
    """kind -> a folder to change."""
    return lambda kind: odd.copy(whole[kind][0], tmp_path / kind)


@pytest.fixture
def unread(monkeypatch):
    """Fails where weights are read."""
    for family in ("Blip2", "InstructBlip"):
        monkeypatch.setattr(
            getattr(transformers, f"{family}ForConditionalGeneration"),
            "from_pretrained",
            lambda *_, **__: pytest.fail("weights were read"),
        )


@KINDS
def test_a_folder_of_2023_answers_as_the_same_folder_of_today(whole, copied, kind):
    pipe = qformer_viz.load(odd.from_2023(copied(kind)), device="cpu")
    answer = pipe.ask(PICTURE, "what is it?", (), SHORT)
    expected = whole[kind][1]
    assert (answer.token_ids, answer.prompt_ids) == (expected.token_ids, expected.prompt_ids)
    placeholder = pipe.processor.tokenizer.convert_tokens_to_ids(factory.IMAGE_TOKEN)
    assert pipe.model.config.image_token_index == placeholder
    assert pipe.processor.num_query_tokens == factory.QUERIES


@KINDS
def test_a_folder_of_2023_without_room_for_a_placeholder_names_the_lines_to_add(copied, kind, unread):
    with pytest.raises(CheckpointError) as refused:
        qformer_viz.load(odd.without_room(copied(kind)), device="cpu")
    text = str(refused.value)
    assert "before transformers 4.46" in text and "<image>" in text
    assert "resize_token_embeddings(" in text and "model.config.image_token_index = " in text


@KINDS
def test_the_lines_to_add_make_it_load(whole, copied, kind):
    """What the refusal says, done to the letter."""
    folder, answer = odd.from_2023(copied(kind)), whole[kind][1]
    kinds = {"blip2": "Blip2", "instructblip": "InstructBlip"}
    family = kinds[factory.KINDS[kind][0]]
    own = getattr(transformers, f"{family}ForConditionalGeneration").from_pretrained(folder)
    rows = len(odd.factory_tokenizer(folder))
    own.resize_token_embeddings(rows)
    own.config.text_config.vocab_size = rows
    own.save_pretrained(folder)
    with pytest.raises(CheckpointError) as refused:
        qformer_viz.load(folder, device="cpu")
    lines = re.search(r"save the folder again: (.*); and with the processor: (.*)\.$", str(refused.value))
    processor = getattr(transformers, f"{family}Processor").from_pretrained(folder)
    for line in "; ".join(lines.groups()).split("; "):
        exec(line, {"model": own, "processor": processor, "folder": folder})
    repaired = qformer_viz.load(folder, device="cpu").ask(PICTURE, "what is it?", (), SHORT)
    assert repaired.prompt_ids == answer.prompt_ids


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("source", ["config", "generation", "tokenizer"])
@KINDS
def test_an_answer_ends_at_the_end_that_any_file_names(copied, kind, source, beams):
    folder, end = odd.with_end(copied(kind), source)
    pipe = qformer_viz.load(folder, device="cpu")
    word = end + 5
    planted = iter([word, word, end, *[word] * 9])

    def say(_module, _args, output):
        """The language model says two words, its end, and nine words more."""
        output.logits[:] -= 1e3
        output.logits[..., next(planted)] += 2e3

    pipe.model.language_model.register_forward_hook(say)
    answer = pipe.ask(PICTURE, "what is it?", (), Decoding(max_new_tokens=8, num_beams=beams))
    assert (answer.token_ids, answer.finish) == ((word, word), "eos")
    # One beam stops there, instead of being cut there: one more pass at most.
    assert beams > 1 or len(list(planted)) >= 12 - 3 - 1


@KINDS
def test_an_end_that_is_only_the_librarys_default_is_no_end(copied, kind):
    folder = copied(kind)
    pipe = qformer_viz.load(folder, device="cpu")
    language = pipe.model.language_model
    default = getattr(type(language.config), "eos_token_id", None)
    tokenizer = pipe.processor.tokenizer
    ordinary = next(i for i in range(len(tokenizer)) if i not in tokenizer.all_special_ids and i > 8)
    language.generation_config.eos_token_id = language.config.eos_token_id = ordinary
    assert end_tokens(pipe.model, tokenizer) >= {ordinary, tokenizer.eos_token_id}
    language.generation_config.eos_token_id = None
    assert ordinary in end_tokens(pipe.model, tokenizer)
    if default is not None:
        made = type("Config", (type(language.config),), {"eos_token_id": ordinary})
        language.config.__class__ = made
        assert ordinary not in end_tokens(pipe.model, tokenizer)
    # Vicuna's configuration says -1, and a number may be too great for the embeddings.
    language.config.eos_token_id, language.generation_config.eos_token_id = -1, [10**6, 10**7]
    assert end_tokens(pipe.model, tokenizer) == {tokenizer.eos_token_id}


def test_vicunas_figures_of_2023_end_and_pad_as_its_tokenizer_says(copied):
    """config.json: 0, 1, -1; generation_config.json: 1, 2, 0; the tokenizer: <s> 1, </s> 2 (LAVIS #509)."""
    folder = copied("instructblip-vicuna")
    old, newer = (
        dict(zip(("bos_token_id", "eos_token_id", "pad_token_id"), ids, strict=True))
        for ids in ((0, 1, -1), (1, 2, 0))
    )
    odd.edit(folder / "config.json", lambda config: config["text_config"].update(old))
    odd.edit(folder / "generation_config.json", lambda config: config.update(newer))
    generator = qformer_viz.load(folder, device="cpu")._generator
    assert generator.ends == {1, 2}
    assert generator._settings(SHORT)["pad_token_id"] in generator.ends


@KINDS
def test_a_processor_of_another_size_is_refused_with_both_sizes(copied, kind, unread):
    with pytest.raises(CheckpointError, match="64×48 into one of 56×56, but the model's ViT takes 28×28"):
        qformer_viz.load(odd.other_picture_size(copied(kind)), device="cpu")


SURPLUS = {
    "vision_config": "vision_model.encoder.layers.1",
    "qformer_config": "qformer.encoder.layer.3",
    "text_config": "language_model",
}


@pytest.mark.parametrize("part", SURPLUS)
@KINDS
def test_surplus_weights_are_refused_by_name(copied, kind, part):
    with pytest.raises(CheckpointError, match="has no place for") as refused:
        qformer_viz.load(odd.fewer_layers(copied(kind), part), device="cpu")
    text = str(refused.value)
    assert SURPLUS[part] in text and (".1.*" in text or "layer.3.*" in text)


@KINDS
def test_what_older_versions_saved_beside_the_weights_is_no_surplus(whole, copied, kind):
    folder = copied(kind)

    def add(weights):
        weights["qformer.embeddings.position_ids"] = torch.arange(512)[None]
        weights["language_model.model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(16)
        weights["vision_model.embeddings.position_ids"] = torch.arange(5)[None]
        embeddings = next(name for name in weights if name.endswith(("embed_tokens.weight", "shared.weight")))
        if is_t5(kind.removeprefix("blip2-flan-").removeprefix("instructblip-flan-")):
            weights["language_model.encoder.embed_tokens.weight"] = weights[embeddings].clone()
            weights["language_model.decoder.embed_tokens.weight"] = weights[embeddings].clone()
        if kind == "blip2-qwen":
            weights["language_model.lm_head.weight"] = weights[embeddings].clone()

    odd.edit_weights(folder, add)
    answer = qformer_viz.load(folder, device="cpu").ask(PICTURE, "what is it?", (), SHORT)
    assert answer.token_ids == whole[kind][1].token_ids


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("part", ["vision_model", "qformer", "language_model"])
@KINDS
def test_a_tensor_that_is_not_finite_is_told_by_name(copied, kind, part, value):
    if (part == "qformer") != (value == float("-inf")) and (part == "vision_model") != (
        value == float("inf")
    ):
        value = float("nan")
    folder = copied(kind)
    name = odd.spoilt(folder, part, value)
    with pytest.raises(CheckpointError, match="not numbers") as refused:
        qformer_viz.load(folder, device="cpu")
    assert name in str(refused.value)


@pytest.mark.parametrize("precision", ["8bit", "4bit"])
@pytest.mark.parametrize("kind", ["blip2-opt", "instructblip-flan-t5"])
def test_a_tensor_that_is_not_finite_is_told_in_fewer_bits_too(copied, kind, precision):
    folder = copied(kind)
    weights = "language_model.decoder.block.0.layer.0.SelfAttention.q"
    name = odd.spoilt(
        folder, "language_model.model.decoder.layers.0.fc1" if kind == "blip2-opt" else weights, float("nan")
    )
    with pytest.raises(CheckpointError, match="not numbers") as refused:
        qformer_viz.load(folder, device="cpu", quantization=precision)
    assert name in str(refused.value)


@KINDS
def test_missing_weights_are_refused_by_name(copied, kind):
    folder, gone = copied(kind), "vision_model.encoder.layers.1.mlp.fc1.weight"
    odd.edit_weights(folder, lambda weights: weights.pop(gone))
    with pytest.raises(CheckpointError, match=gone):
        qformer_viz.load(folder, device="cpu")


@KINDS
def test_the_output_of_a_trainer_points_to_its_latest_checkpoint(whole, tmp_path, kind):
    (tmp_path / "out").mkdir()
    folder = odd.trainer_output(whole[kind][0], tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"holds 2 inside: give out/checkpoint-20, out/checkpoint-10\."):
        qformer_viz.load(folder)
    assert resolve(folder / "checkpoint-10").id == "checkpoint-10"


@KINDS
def test_a_cache_of_the_hub_points_to_its_current_snapshot(whole, tmp_path, kind):
    cache, current = odd.hub_cache(whole[kind][0], tmp_path)
    for folder, inner in ((cache, current.relative_to(cache)), (current.parent.parent, "snapshots/1111")):
        with pytest.raises(CheckpointError, match=rf"give {folder.name}/{inner}, "):
            qformer_viz.load(folder)
    with pytest.raises(CheckpointError, match=r"snapshots/1111, snapshots/0000"):
        qformer_viz.load(current.parent)


def test_a_folder_with_nothing_inside_says_what_to_give(tmp_path):
    (tmp_path / "notes").mkdir()
    with pytest.raises(CheckpointError, match="Give the folder that save_pretrained wrote"):
        qformer_viz.load(tmp_path)


@pytest.mark.parametrize("kind", ["t5", "mt5", "umt5", "longt5", "switch_transformers", "t5gemma"])
def test_no_kind_of_t5_is_safe_in_float16(kind):
    assert is_t5(kind) and "float16" not in family_settings("blip-2", kind)["precisions"]


@pytest.mark.parametrize("kind", ["opt", "llama", "qwen3", "bart", None])
def test_other_kinds_are(kind):
    assert not is_t5(kind) and "float16" in family_settings("blip-2", kind)["precisions"]


def test_an_mt5_is_refused_in_float16_before_its_weights_are_read(copied, unread):
    folder = copied("blip2-flan-t5")
    odd.edit(folder / "config.json", lambda config: config["text_config"].update(model_type="mt5"))
    with pytest.raises(CheckpointError, match=r"T5 kind \(mt5\)"):
        qformer_viz.load(folder, device="cpu", dtype="float16")


def test_an_mt5_answers_as_the_t5_of_the_same_weights(whole, copied):
    folder = copied("blip2-flan-t5")
    odd.edit(folder / "config.json", lambda config: config["text_config"].update(model_type="mt5"))
    pipe = qformer_viz.load(folder, device="cpu")
    answer, expected = pipe.ask(PICTURE, "what is it?", (), SHORT), whole["blip2-flan-t5"][1]
    assert (answer.token_ids, answer.prompt) == (expected.token_ids, expected.prompt)
    assert type(pipe.model.language_model).__name__ == "MT5ForConditionalGeneration"
