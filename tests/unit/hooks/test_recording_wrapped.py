"""Recording models that were changed after loading: PEFT adapters, torch.compile, modules of one's own."""

import copy
import threading
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from transformers import (
    Blip2QFormerConfig,
    Blip2QFormerModel,
    Granite4VisionConfig,
    Granite4VisionModel,
    GraniteSpeechConfig,
)
from transformers.models.granite_speech.modeling_granite_speech import GraniteSpeechEncoderProjector

import qformer_viz
from qformer_viz import GridMismatch, InsideCompiled, NotAQFormer, NothingCaptured
from tests.support.fakes import (
    HEADS,
    PATCH,
    QUERIES,
    TOKENS,
    VISION,
    WIDTH,
    generate_inputs,
    pixels,
    tiny_blip2,
    tiny_instructblip,
    tiny_retrieval,
)
from tests.support.recordings import hooks, oracle, record

# PEFT

# peft 0.21 asks a model of transformers 5.23 for an attribute that has another name there.
peft_asks = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def adapted(modules, *names, make=tiny_blip2, **options):
    """A PEFT model with one adapter of each name, whose copies of `modules` were trained, each to something else."""
    peft = pytest.importorskip("peft")
    model = make(**options)

    def config():
        return peft.LoraConfig(target_modules=["q_proj", "v_proj"], modules_to_save=modules)

    first, *others = names or ("default",)
    model = peft.get_peft_model(model, config(), adapter_name=first)
    for name in others:
        model.add_adapter(name, config())
    rng = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "modules_to_save" in name:
                value += 0.2 * torch.randn(value.shape, generator=rng)
    return model.eval()


def same(found, model, make, inputs):
    """As the library's own maps, of a fresh model with the weights that the adapters make."""
    plain = make()
    plain.load_state_dict(copy.deepcopy(model).merge_and_unload().state_dict())
    cross, own, states = oracle(plain, inputs)
    torch.testing.assert_close(found.cross_attention, cross, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.self_attention, own, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.query_states, states, rtol=0, atol=1e-4)


@peft_asks
@pytest.mark.parametrize(
    ("make", "modules"),
    [
        (tiny_blip2, ["qformer"]),
        (tiny_blip2, ["crossattention"]),
        (tiny_blip2, ["query"]),
        (tiny_blip2, ["encoder"]),
        (tiny_instructblip, ["vision_model", "qformer"]),
    ],
)
def test_the_trained_copy_is_recorded(make, modules):
    model = adapted(modules, make=make)
    inputs = generate_inputs(model.base_model.model)
    plain = model.generate(**inputs)
    with qformer_viz.capture(model) as recording:
        observed = model.generate(**inputs)
    assert torch.equal(plain, observed) and hooks(model) == 0
    same(recording.result, model, make, inputs)
    before = record(make())
    assert not torch.allclose(recording.cross_attention, before.cross_attention, atol=1e-3)


@peft_asks
def test_of_several_adapters_the_active_one_and_of_none_the_original():
    model = adapted(["qformer"], "one", "two")
    inputs = generate_inputs(model.base_model.model)
    found = {}
    for name in ("two", "one", None):
        if name:
            model.set_adapter(name)
        with model.disable_adapter() if name is None else nullcontext():
            found[name] = record(model)
    assert torch.equal(found[None].cross_attention, record(tiny_blip2()).cross_attention)
    for name in ("one", "two"):
        model.set_adapter(name)
        same(found[name], model, tiny_blip2, inputs)
    assert not torch.allclose(found["one"].cross_attention, found["two"].cross_attention, atol=1e-3)


@peft_asks
@pytest.mark.parametrize("modules", [["qformer"], ["crossattention"]], ids=str)
def test_adapters_switched_inside_the_block(modules):
    model = adapted(modules, "one", "two")
    expected = []
    for name in ("one", "two"):
        model.set_adapter(name)
        expected.append(record(model).cross_attention)
    with torch.no_grad(), qformer_viz.capture(model) as recording:
        for name in ("one", "two"):
            model.set_adapter(name)
            model.get_image_features(pixels())
        with model.disable_adapter():
            model.get_image_features(pixels())
    expected.append(record(tiny_blip2()).cross_attention)
    for one, other in zip(recording.captures, expected, strict=True):
        assert torch.equal(one.cross_attention, other)


@peft_asks
def test_the_grid_of_a_trained_vit_is_the_one_it_used():
    model = adapted(["vision_model", "qformer"])
    with torch.no_grad(), qformer_viz.capture(model) as recording:
        model.get_image_features(torch.randn(1, 3, 3 * PATCH, 6 * PATCH), interpolate_pos_encoding=True)
    assert recording.grid == (3, 6)


# torch.compile


@pytest.fixture(autouse=True, scope="module")
def _forget_compiled():
    yield
    torch._dynamo.reset()


def stance():
    return torch._dynamo.eval_frame._stance.stance


def compiled_whole(model, **options):
    return torch.compile(model, backend="eager", **options)


def compiled_qformer(model, **options):
    model.qformer = torch.compile(model.qformer, backend="eager", **options)
    return model


def compiled_in_place(model, **options):
    model.qformer.compile(backend="eager", **options)
    return model


def compiled_layer(model, **options):
    layers = model.qformer.encoder.layer
    layers[2] = torch.compile(layers[2], backend="eager", **options)
    return model


WAYS = [compiled_whole, compiled_qformer, compiled_in_place, compiled_layer]


@pytest.mark.parametrize(("way", "warm"), [*((way, True) for way in WAYS), (compiled_qformer, False)])
def test_compiled_modules_are_recorded(way, warm):
    expected = record(tiny_blip2())
    model = way(tiny_blip2())
    ids = generate_inputs(tiny_blip2())
    given = {"pixel_values": ids["pixel_values"], "input_ids": ids["input_ids"]}
    with torch.no_grad():
        plain = model(**given).logits if warm else tiny_blip2()(**given).logits
        with qformer_viz.capture(model) as recording:
            observed = model(**given).logits
            assert stance() == "force_eager"
    assert torch.equal(plain, observed) and stance() == "default" and hooks(model) == 0
    assert torch.equal(recording.cross_attention, expected.cross_attention)
    assert torch.equal(recording.query_states, expected.query_states)
    # And compiled again afterwards, without a trace of the hooks.
    with torch.no_grad():
        assert torch.equal(model(**given).logits, plain)


def test_a_qformer_compiled_as_one_graph_is_recorded():
    model = compiled_qformer(tiny_blip2(), fullgraph=True)
    features = torch.randn(1, TOKENS, VISION, generator=torch.Generator().manual_seed(1))
    given = {"query_embeds": model.query_tokens, "encoder_hidden_states": features}
    with torch.no_grad():
        plain = model.qformer(**given).last_hidden_state
        with qformer_viz.capture(model) as recording:
            observed = model.qformer(**given).last_hidden_state
    assert torch.equal(plain, observed) and recording.grid == (4, 4)


def test_a_compiled_function_that_calls_the_model_is_recorded():
    model = tiny_blip2()
    look = torch.compile(lambda picture: model.get_image_features(picture).pooler_output, backend="eager")
    with torch.no_grad():
        plain = look(pixels())
        with qformer_viz.capture(model) as recording:
            assert torch.equal(look(pixels()), plain)
    assert torch.equal(recording.cross_attention, record(tiny_blip2()).cross_attention)


def test_a_recording_inside_a_compiled_function_is_refused_with_the_way_out():
    model = tiny_blip2()

    @torch.compile(backend="eager")
    def look(picture):
        with qformer_viz.capture(model):
            return model.get_image_features(picture).pooler_output

    with pytest.raises(InsideCompiled, match="outside, and call the compiled function in the block"):
        look(pixels())
    assert stance() == "default" and hooks(model) == 0
    assert record(model).grid == (4, 4)


def test_the_stance_is_restored_after_exceptions_and_refusals():
    model = tiny_blip2()
    with torch.compiler.set_stance("eager_on_recompile"):
        with pytest.raises(ZeroDivisionError), qformer_viz.capture(model):
            raise ZeroDivisionError
        assert stance() == "eager_on_recompile"
        with pytest.raises(NotAQFormer), qformer_viz.capture(nn.Linear(2, 2)):
            pass
        assert stance() == "eager_on_recompile"
    assert stance() == "default"


def test_blocks_of_threads_that_overlap_leave_the_stance_as_it_was():
    """The first to enter leaves first: the second's block stays uncompiled, and then nothing does."""
    first, second = qformer_viz.capture(tiny_blip2()), qformer_viz.capture(tiny_blip2())
    threads = [threading.Thread(target=step) for step in (first.__enter__, second.__enter__)]
    threads += [threading.Thread(target=each.__exit__, args=(None, None, None)) for each in (first, second)]
    told = []
    for thread in threads:
        thread.start()
        thread.join()
        told.append(stance())
    assert told == ["force_eager"] * 3 + ["default"]


# Modules of one's own


class Own(nn.Module):
    """Somebody's model: a patch embedding, learned queries under another name, the library's Q-Former, a head."""

    def __init__(self, cls=True):
        super().__init__()
        config = Blip2QFormerConfig(
            hidden_size=WIDTH,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=HEADS,
            encoder_hidden_size=VISION,
        )
        self.embed = nn.Conv2d(3, VISION, PATCH, PATCH)
        self.cls = nn.Parameter(torch.zeros(1, 1, VISION)) if cls else None
        self.latents = nn.Parameter(torch.randn(1, QUERIES, WIDTH))
        self.bridge = Blip2QFormerModel(config)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, picture):
        return self.read(self.embed(picture).flatten(2).mT)

    def read(self, features, queries=None):
        if self.cls is not None:
            features = torch.cat([self.cls.expand(len(features), -1, -1), features], 1)
        queries = self.latents.expand(len(features), -1, -1) if queries is None else queries
        return self.head(self.bridge(query_embeds=queries, encoder_hidden_states=features).last_hidden_state)


def own(**options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Own(**options).eval()


def test_a_module_of_ones_own_is_recorded():
    model = own()
    with torch.no_grad():
        plain = model(pixels(2))
        with qformer_viz.capture(model) as recording:
            assert torch.equal(model(pixels(2)), plain)
    assert recording.cross_attention.shape == (1, 2, HEADS, QUERIES, TOKENS)
    assert recording.grid == (4, 4) and torch.equal(recording.query_tokens, model.latents[0])


@pytest.mark.parametrize(("rows", "columns"), [(3, 6), (2, 2)])
def test_its_grid_is_what_its_convolution_cut(rows, columns):
    model = own()
    with torch.no_grad(), qformer_viz.capture(model) as recording:
        model(torch.randn(1, 3, rows * PATCH, columns * PATCH))
    assert recording.grid == (rows, columns)


def test_its_grid_is_a_square_where_features_come_from_elsewhere():
    model = own()
    with torch.no_grad(), qformer_viz.capture(model) as recording:
        model.read(torch.randn(1, 25, VISION))
    assert recording.grid == (5, 5)


@pytest.mark.parametrize(("keys", "cls"), [(16, False), (17, True), (8, True)])
def test_keys_that_are_no_square_and_cls_are_told_as_such(keys, cls):
    model = own(cls=cls)
    found = f"Found {keys + cls} keys in cross-attention.*1 \\+ 16 × 16.*without CLS are not supported"
    with pytest.raises(GridMismatch, match=found), torch.no_grad(), qformer_viz.capture(model):
        model.read(torch.randn(1, keys, VISION))
    assert hooks(model) == 0


def test_queries_made_of_the_image_are_told_as_such():
    model = own()
    told = "queries that differ.*learned queries, the same for every image"
    with pytest.raises(NotAQFormer, match=told), torch.no_grad(), qformer_viz.capture(model):
        model.read(torch.randn(2, 16, VISION), torch.randn(2, QUERIES, WIDTH))


def qformer_config():
    return {
        "model_type": "blip_2_qformer",
        "hidden_size": 32,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "intermediate_size": 32,
        "encoder_hidden_size": 32,
        "cross_attention_frequency": 1,
    }


def test_granite_speech_is_told_that_sound_has_no_grid():
    config = GraniteSpeechConfig(
        projector_config=qformer_config(), text_config={"model_type": "llama", "hidden_size": 32}
    )
    model = nn.ModuleDict({"projector": GraniteSpeechEncoderProjector(config)}).eval()
    with (
        pytest.raises(GridMismatch, match=r"15 keys.*sound.*not supported") as told,
        torch.no_grad(),
        qformer_viz.capture(model),
    ):
        model["projector"](torch.randn(1, 40, 32))
    assert "pass the whole model" not in str(told.value)


def test_granite_vision_is_told_its_qformers_and_how_to_choose_one():
    config = Granite4VisionConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 64,
            "intermediate_size": 32,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 4,
        },
        text_config={
            "vocab_size": 50,
            "hidden_size": 64,
            "intermediate_size": 32,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
        },
        qformer_config=qformer_config(),
        downsample_rate="2/4",
        deepstack_layer_map=[[0, 1], [1, 2]],
    )
    model = Granite4VisionModel(config).eval()
    with pytest.raises(NotAQFormer, match=r"6 Q-Formers in Granite.*layerwise_projectors\.0") as told:
        qformer_viz.capture(model).__enter__()
    assert "pass the whole model" not in str(told.value)
    holder = str(told.value).rpartition("get_submodule('")[2].partition("'")[0]
    part = model.get_submodule(holder)
    with (
        pytest.raises((NotAQFormer, GridMismatch), match="window"),
        torch.no_grad(),
        qformer_viz.capture(part),
    ):
        part(torch.randn(1, 64, 64))


def test_a_class_of_that_name_and_another_structure_is_named():
    class MyQFormer(nn.Module):
        pass

    model = nn.ModuleDict({"projector": MyQFormer()})
    with pytest.raises(NotAQFormer, match="no Q-Formers in ModuleDict; projector has that name"):
        qformer_viz.capture(model).__enter__()


# What is told of an empty block


def test_text_alone_is_told_as_such():
    model = tiny_retrieval()
    with torch.no_grad(), qformer_viz.capture(model) as recording:
        text = model.embeddings(torch.arange(6, 11)[None])
        model.qformer(query_embeds=text, query_length=0, attention_mask=torch.ones(1, 5))
    with pytest.raises(NothingCaptured, match="on text alone"):
        _ = recording.result


def test_threads_are_blamed_only_where_there_were_some():
    with qformer_viz.capture(tiny_blip2()) as recording:
        pass
    with pytest.raises(NothingCaptured) as told:
        _ = recording.result
    assert "thread" not in str(told.value)
