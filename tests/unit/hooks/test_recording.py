"""The hooks: they see the truth, change nothing, and leave nothing behind."""

import contextvars
import gc
import threading
import warnings
import weakref

import pytest
import torch
from torch import nn
from transformers import (
    BitsAndBytesConfig,
    Blip2ForConditionalGeneration,
    InstructBlipForConditionalGeneration,
)

import qformer_viz
from qformer_viz import GridMismatch, ManyCaptured, NotAQFormer, NothingCaptured, StillRecording
from tests.support.fakes import (
    HEADS,
    LAYERS,
    PATCH,
    QUERIES,
    TOKENS,
    VISION,
    WIDTH,
    generate_inputs,
    pixels,
    tiny_blip2,
    tiny_instructblip,
    tiny_instructblip_video,
    tiny_retrieval,
)
from tests.support.recordings import hooks, oracle, record

KINDS = {
    "opt": tiny_blip2,
    "t5": lambda **options: tiny_blip2("t5", **options),
    "instructblip": tiny_instructblip,
}


@pytest.fixture(params=list(KINDS))
def kind(request):
    return request.param


@pytest.fixture(params=["sdpa", "eager"])
def attention(request):
    return request.param


# What is captured


def test_shapes_and_types(kind, attention):
    found = record(KINDS[kind](attention=attention), images=2)
    assert found.cross_attention.shape == (2, 2, HEADS, QUERIES, TOKENS)
    assert found.self_attention.shape == (LAYERS, 2, HEADS, QUERIES, QUERIES)
    assert found.query_states.shape == (LAYERS + 1, 2, QUERIES, WIDTH)
    assert found.query_tokens.shape == (QUERIES, WIDTH)
    assert (found.cross_layers, found.grid, found.attn_implementation) == ((0, 2), (4, 4), attention)
    for name in ("cross_attention", "self_attention", "query_states", "query_tokens"):
        tensor = getattr(found, name)
        assert tensor.dtype == torch.float32 and tensor.device.type == "cpu" and tensor.is_contiguous()
        assert not tensor.requires_grad and not tensor.is_inference()


def test_equals_the_librarys_own_eager_maps(kind, attention):
    model = KINDS[kind](attention=attention)
    found = record(model, images=2)
    cross, own, states = oracle(model, generate_inputs(model, 2))
    torch.testing.assert_close(found.cross_attention, cross, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.self_attention, own, rtol=0, atol=1e-6)
    # SDPA rounds differently from eager; its states drift apart layer by layer.
    torch.testing.assert_close(
        found.query_states, states, rtol=0, atol=1e-6 if attention == "eager" else 1e-5
    )
    assert torch.equal(found.query_tokens, model.query_tokens[0])


def test_rows_sum_to_one_and_text_takes_its_part(kind):
    found = record(KINDS[kind](), images=2)
    torch.testing.assert_close(found.cross_attention.sum(-1), torch.ones(2, 2, HEADS, QUERIES))
    total = found.self_attention.sum(-1)
    if kind == "instructblip":
        assert (total < 0.999).all() and (total > 0).all()
        assert found.text_attention.shape == (LAYERS, 2, HEADS, QUERIES, 5)
        torch.testing.assert_close(total + found.text_attention.sum(-1), torch.ones_like(total))
        # The last two tokens are padding; the third is read.
        assert not found.text_attention[..., 3:].any() and (found.text_attention[..., :3] > 0).all()
    else:
        assert found.text_attention is None
        torch.testing.assert_close(total, torch.ones_like(total))


def test_equals_softmax_by_hand_from_recorded_states():
    """Another route: layer 1's self-attention from its input state and weights, head by head."""
    model = tiny_blip2()
    found = record(model)
    layer = model.qformer.encoder.layer[1].attention.attention
    entering, size = found.query_states[1, 0], WIDTH // HEADS
    q = entering @ layer.query.weight.T + layer.query.bias
    k = entering @ layer.key.weight.T + layer.key.bias
    for head in range(HEADS):
        part = slice(head * size, (head + 1) * size)
        scores = torch.exp(q[:, part] @ k[:, part].T / size**0.5)
        torch.testing.assert_close(found.self_attention[1, 0, head], scores / scores.sum(-1, keepdim=True))


def test_planted_attention_is_found():
    """Head 1 of the cross-attention in layer 2 is made to look at one marked token only."""
    model = tiny_blip2()
    block = model.qformer.encoder.layer[2].crossattention.attention
    planted = 6
    features = torch.zeros(1, TOKENS, VISION)
    features[0, planted, 5] = 1.0
    with torch.no_grad():
        rows = slice(WIDTH // HEADS, 2 * WIDTH // HEADS)
        block.query.weight[rows], block.query.bias[rows] = 0.0, 10.0
        block.key.weight[rows], block.key.bias[rows] = 0.0, 0.0
        block.key.weight[rows, 5] = 10.0
        with qformer_viz.capture(model) as recording:
            model.qformer(query_embeds=model.query_tokens, encoder_hidden_states=features)
    assert (recording.cross_attention[1, 0, 1, :, planted] > 0.999).all()
    assert (recording.cross_attention[1, 0, 0, :, planted] < 0.999).any()


def test_first_state_is_what_enters_layer_zero(kind):
    model = KINDS[kind]()
    found = record(model)
    norm = model.qformer.embeddings.layernorm if kind == "instructblip" else model.qformer.layernorm
    torch.testing.assert_close(found.query_states[0], norm(model.query_tokens).detach())


def test_last_state_is_what_the_language_model_is_given():
    model = tiny_blip2()
    with torch.no_grad(), qformer_viz.capture(model) as recording:
        given = model.get_image_features(pixels()).pooler_output
    torch.testing.assert_close(model.language_projection(recording.query_states[-1]), given)


def test_batches_and_single_images_agree(kind):
    model = KINDS[kind]()
    both = record(model, images=2)
    inputs = generate_inputs(model, 2)
    for image in range(2):
        one = {
            name: value[image : image + 1] if torch.is_tensor(value) else value
            for name, value in inputs.items()
        }
        with qformer_viz.capture(model) as recording:
            model.generate(**one)
        torch.testing.assert_close(
            recording.cross_attention, both.image(image).cross_attention, rtol=0, atol=1e-5
        )


def test_queries_given_once_for_several_images(attention):
    """The library broadcasts one set of queries over a batch of features; the capture has b = 2."""
    model = tiny_blip2(attention=attention)
    features = torch.randn(2, TOKENS, VISION, generator=torch.Generator().manual_seed(1))
    found = []
    for tokens in (model.query_tokens, model.query_tokens.expand(2, -1, -1)):
        with torch.no_grad(), qformer_viz.capture(model) as recording:
            model.qformer(query_embeds=tokens, encoder_hidden_states=features)
        found.append(recording)
    for name in ("cross_attention", "self_attention", "query_states"):
        torch.testing.assert_close(*(getattr(one, name) for one in found), rtol=0, atol=1e-5)


def test_instructblip_maps_depend_on_the_question_but_not_on_its_padding():
    model = tiny_instructblip()
    inputs = generate_inputs(model)

    def ask(question, mask):
        inputs["qformer_input_ids"], inputs["qformer_attention_mask"] = (
            torch.tensor([question]),
            torch.tensor([mask]),
        )
        with torch.no_grad(), qformer_viz.capture(model) as recording:
            model.get_image_features(
                inputs["pixel_values"], inputs["qformer_input_ids"], torch.tensor([mask])
            )
        return recording

    base, padded = ask([7, 8, 9], [1, 1, 1]), ask([7, 8, 9, 1, 1], [1, 1, 1, 0, 0])
    other = ask([7, 8, 10], [1, 1, 1])
    torch.testing.assert_close(padded.cross_attention, base.cross_attention)
    torch.testing.assert_close(padded.self_attention, base.self_attention)
    # Already in layer 0: its softmax counts the text keys.
    assert (other.self_attention[0] - base.self_attention[0]).abs().max() > 1e-3
    assert (other.cross_attention - base.cross_attention).abs().max() > 1e-3


def test_blip2_maps_do_not_depend_on_the_question():
    model = tiny_blip2()
    inputs = generate_inputs(model)
    first = record(model)
    inputs["input_ids"][:, -1] = 33
    with qformer_viz.capture(model) as recording:
        model.generate(**inputs)
    assert torch.equal(recording.cross_attention, first.cross_attention)


@pytest.mark.parametrize("matching", [True, False])
def test_retrieval_model(matching, attention):
    """The matching head reads text beside the queries; contrastive text runs alone and is passed over."""
    model = tiny_retrieval(attention=attention)
    ids = torch.arange(6, 11)[None]
    mask = torch.tensor([[1, 1, 1, 1, 0]])
    with torch.no_grad(), qformer_viz.capture(model) as recording:
        model(pixels(), ids, attention_mask=mask, use_image_text_matching_head=matching)
    total = recording.self_attention.sum(-1)
    assert recording.query_states.shape == (LAYERS + 1, 1, QUERIES, WIDTH)
    assert recording.cross_attention.shape == (2, 1, HEADS, QUERIES, TOKENS)
    assert (total < 0.999).all() if matching else torch.allclose(total, torch.ones_like(total))
    if not matching:
        cross, own, _ = oracle(model, {"pixel_values": pixels()})
        torch.testing.assert_close(recording.cross_attention, cross, rtol=0, atol=1e-6)
        torch.testing.assert_close(recording.self_attention, own, rtol=0, atol=1e-6)


def test_video_model_gives_one_image_per_frame(attention):
    model = tiny_instructblip_video(attention=attention)
    clip = pixels(8).reshape(2, 4, 3, 56, 56)
    with torch.no_grad(), qformer_viz.capture(model) as recording:
        model.get_video_features(clip, torch.arange(6, 11).expand(2, -1), torch.ones(2, 5, dtype=torch.long))
    assert recording.cross_attention.shape == (2, 8, HEADS, QUERIES, TOKENS)


@pytest.mark.parametrize("form", ["two-dimensional", "four-dimensional", "boolean", "additive"])
def test_masks_in_every_form(form, attention):
    """Masking one query and one image token away, in the forms transformers takes."""
    model = tiny_blip2(attention=attention)
    own, cross = torch.ones(1, QUERIES), torch.ones(1, TOKENS)
    own[0, 3] = cross[0, 5] = 0
    if form != "two-dimensional":
        own, cross = (mask[:, None, None].expand(-1, -1, QUERIES, -1).contiguous() for mask in (own, cross))
    if form in ("boolean", "four-dimensional"):
        own, cross = own.bool(), cross.bool()
    if form == "additive":
        own, cross = ((1 - mask) * torch.finfo(torch.float32).min for mask in (own, cross))
    with torch.no_grad(), qformer_viz.capture(model) as recording:
        model.qformer(
            query_embeds=model.query_tokens,
            attention_mask=own,
            encoder_hidden_states=torch.randn(1, TOKENS, VISION, generator=torch.Generator().manual_seed(1)),
            encoder_attention_mask=cross,
        )
    assert (recording.self_attention[..., 3] == 0).all() and (recording.cross_attention[..., 5] == 0).all()
    torch.testing.assert_close(recording.cross_attention.sum(-1), torch.ones(2, 1, HEADS, QUERIES))


# Precisions


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
# InstructBLIP's Q-Former does not cast what it is given: it runs in the precision of the model only.
@pytest.mark.parametrize(
    ("kind", "mixed"), [("opt", False), ("opt", True), ("t5", True), ("instructblip", False)]
)
def test_half_precision(kind, dtype, mixed):
    """Maps are a float32 softmax, so their rows sum to one closely, and stay near the float32 model's."""
    exact = record(KINDS[kind]())
    model = KINDS[kind]().to(dtype)
    if mixed:
        model.qformer.float()
    seen = {}
    attention = model.qformer.encoder.layer[2].crossattention.attention
    for name in ("query", "key"):
        getattr(attention, name).register_forward_hook(
            lambda module, args, output, name=name: seen.update({name: output.detach().float()[0]})
        )
    found = record(model)
    for name in ("cross_attention", "self_attention", "query_states", "query_tokens"):
        assert getattr(found, name).dtype == torch.float32
    q, k = (seen[name].unflatten(-1, (HEADS, -1)).transpose(0, 1) for name in ("query", "key"))
    by_hand = (q @ k.mT / (WIDTH // HEADS) ** 0.5).softmax(-1)
    torch.testing.assert_close(found.cross_attention[1, 0], by_hand, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        found.cross_attention.sum(-1), torch.ones(2, 1, HEADS, QUERIES), rtol=0, atol=1e-6
    )
    difference = (found.cross_attention - exact.cross_attention).abs().max()
    assert 0 < difference < (0.2 if dtype == torch.bfloat16 else 0.05)


QUANTISED = {
    "int8": {"load_in_8bit": True},
    "nf4": {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_compute_dtype": torch.float32,
    },
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folders = {}
    for name, make in (("opt", tiny_blip2), ("instructblip", tiny_instructblip)):
        folders[name] = tmp_path_factory.mktemp(name)
        make().save_pretrained(folders[name])
    return folders


@pytest.mark.parametrize("quantised", list(QUANTISED))
# transformers never quantises BLIP-2's Q-Former, and InstructBLIP's unless it is skipped.
@pytest.mark.parametrize(
    ("name", "qformer"), [("opt", "float"), ("instructblip", "float"), ("instructblip", "quantised")]
)
def test_quantised_weights(saved, name, quantised, qformer):
    """Q and K come out of the layers as floats, whether the Q-Former's own weights are quantised or not."""
    skip = ["lm_head", "language_projection"] + ["qformer"] * ((name, qformer) == ("instructblip", "float"))
    options = dict(QUANTISED[quantised], llm_int8_skip_modules=skip)
    make = Blip2ForConditionalGeneration if name == "opt" else InstructBlipForConditionalGeneration
    model = make.from_pretrained(
        saved[name],
        quantization_config=BitsAndBytesConfig(**options),
        dtype=torch.float32,
        device_map={"": "cpu"},
    )
    linear = model.qformer.encoder.layer[0].attention.attention.query
    assert (type(linear) is nn.Linear) == (qformer == "float")
    assert type(model.vision_model.encoder.layers[0].mlp.fc1) is not nn.Linear
    exact = record(KINDS[name]())
    plain = model.generate(**generate_inputs(model))
    with torch.no_grad(), qformer_viz.capture(model) as recording:
        observed = model.generate(**generate_inputs(model))
    assert torch.equal(plain, observed)
    torch.testing.assert_close(recording.cross_attention.sum(-1), torch.ones(2, 1, HEADS, QUERIES))
    difference = (recording.cross_attention - exact.cross_attention).abs().mean()
    assert 0 < difference < 0.05
    if qformer == "float":
        cross, own, _ = oracle(model, generate_inputs(model))
        torch.testing.assert_close(recording.cross_attention, cross, rtol=0, atol=1e-6)
        torch.testing.assert_close(recording.self_attention, own, rtol=0, atol=1e-6)


def test_surrounding_modes_do_not_change_the_maps():
    """Autocast and inference mode around the block must not reach the softmax, nor taint the tensors."""
    model = tiny_blip2()
    features = model.vision_model(pixels())[0].detach()

    def run():
        with qformer_viz.capture(model) as recording, torch.autocast("cpu", enabled=False):
            model.qformer(query_embeds=model.query_tokens, encoder_hidden_states=features)
        return recording.result

    plain = run()
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        inside = run()
    assert torch.equal(plain.cross_attention, inside.cross_attention)
    assert not inside.cross_attention.is_inference() and not inside.query_states.is_inference()
    assert not plain.cross_attention.requires_grad and not plain.query_tokens.requires_grad


# The grid


def test_grid_of_an_interpolated_image_is_the_one_the_vit_used():
    model = tiny_blip2()
    picture = torch.randn(1, 3, 3 * PATCH, 6 * PATCH)
    with torch.no_grad(), qformer_viz.capture(model) as recording:
        model.get_image_features(picture, interpolate_pos_encoding=True)
    assert recording.grid == (3, 6)


def test_grid_that_does_not_fit_is_refused():
    model = tiny_blip2()
    with pytest.raises(GridMismatch, match=r"16 image tokens.*4 × 4"), qformer_viz.capture(model):
        model.qformer(
            query_embeds=model.query_tokens, encoder_hidden_states=torch.zeros(1, TOKENS - 1, VISION)
        )
    assert hooks(model) == 0


# What is left alone


def test_outputs_are_bit_identical(kind, attention):
    model = KINDS[kind](attention=attention)
    inputs = dict(generate_inputs(model, 2), return_dict_in_generate=True, output_logits=True)
    plain = model.generate(**inputs)
    with qformer_viz.capture(model):
        observed = model.generate(**inputs)
    assert torch.equal(plain.sequences, observed.sequences)
    assert len(plain.logits) == len(observed.logits) > 0
    assert all(map(torch.equal, plain.logits, observed.logits))


def test_gradients_are_bit_identical():
    model = tiny_blip2()
    gradients = []
    for observed in (False, True):
        model.zero_grad()
        if observed:
            with qformer_viz.capture(model):
                model.get_image_features(pixels()).pooler_output.square().sum().backward()
        else:
            model.get_image_features(pixels()).pooler_output.square().sum().backward()
        gradients.append([p.grad.clone() for p in model.qformer.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 0
    assert all(map(torch.equal, *gradients))


def test_hooks_before_inside_and_after():
    model = tiny_blip2()
    assert hooks(model) == 0
    with qformer_viz.capture(model):
        assert hooks(model) > LAYERS
    assert hooks(model) == 0


def test_hooks_of_others_stay():
    model = tiny_blip2()
    handle = model.qformer.register_forward_hook(lambda *_: None)
    record(model)
    assert hooks(model) == 1
    handle.remove()


def test_hooks_are_gone_after_an_exception_and_finished_calls_stay():
    model = tiny_blip2()
    with pytest.raises(ZeroDivisionError), torch.no_grad(), qformer_viz.capture(model) as recording:
        model.get_image_features(pixels())
        raise ZeroDivisionError
    assert hooks(model) == 0
    assert recording.cross_attention.shape[0] == 2


def test_hooks_are_gone_when_attaching_fails(monkeypatch):
    model = tiny_blip2()
    last = model.qformer.encoder.layer[-1]

    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(last, "register_forward_hook", fail)
    with pytest.raises(MemoryError), qformer_viz.capture(model):
        pass
    assert hooks(model) == 0


def test_a_call_that_fails_is_not_captured_and_does_not_spoil_the_next():
    model = tiny_blip2()
    with torch.no_grad(), qformer_viz.capture(model) as recording:
        with pytest.raises(RuntimeError):
            model.qformer(
                query_embeds=model.query_tokens, encoder_hidden_states=torch.zeros(1, TOKENS, VISION + 1)
            )
        model.get_image_features(pixels())
    assert torch.equal(recording.cross_attention, record(model).cross_attention)


def test_a_layer_called_by_itself_adds_nothing_to_a_finished_call():
    """As gradient checkpointing does when it runs layers again in the backward pass."""
    model = tiny_blip2()
    with torch.no_grad(), qformer_viz.capture(model) as recording:
        model.get_image_features(pixels())
        model.qformer.encoder.layer[1](torch.randn(1, QUERIES, WIDTH), query_length=QUERIES)
    expected = record(model)
    assert torch.equal(recording.self_attention, expected.self_attention)
    assert torch.equal(recording.query_states, expected.query_states)


def test_writing_to_the_output_does_not_reach_the_capture():
    model = tiny_blip2()
    with torch.no_grad(), qformer_viz.capture(model) as recording:
        output = model.get_image_features(pixels())
        output.qformer_outputs.last_hidden_state.zero_()
    with torch.no_grad():
        model.query_tokens.zero_()
    assert recording.query_states[-1].abs().sum() > 0
    assert recording.query_tokens.abs().sum() > 0


def test_nothing_is_kept_alive():
    model = tiny_blip2()
    seen = []
    watch = [
        model.qformer.encoder.layer[0].crossattention.attention.key.register_forward_hook(
            lambda module, args, output: seen.append(weakref.ref(output))
        ),
        model.vision_model.register_forward_hook(
            lambda module, args, output: seen.append(weakref.ref(output.last_hidden_state))
        ),
    ]
    with torch.no_grad(), qformer_viz.capture(model) as recording:
        model.generate(**generate_inputs(model))
    for handle in watch:
        handle.remove()
    gc.collect()
    assert len(seen) == 2 and all(ref() is None for ref in seen)
    model, recording = weakref.ref(model), weakref.ref(recording)
    gc.collect()
    assert model() is None and recording() is None


def test_model_goes_while_the_recording_stays():
    model = tiny_blip2()
    with qformer_viz.capture(model) as recording:
        model.get_image_features(pixels())
    model = weakref.ref(model)
    gc.collect()
    assert model() is None and recording.grid == (4, 4)


# Whose call is it


def test_nested_blocks_each_see_the_call_once():
    model = tiny_blip2()
    with torch.no_grad(), qformer_viz.capture(model) as outer:
        model.get_image_features(pixels(seed=1))
        with qformer_viz.capture(model) as inner:
            model.get_image_features(pixels(seed=2))
        assert hooks(model) > 0
        model.get_image_features(pixels(seed=3))
    assert hooks(model) == 0
    assert len(outer.captures) == 3 and len(inner.captures) == 1
    assert torch.equal(outer.captures[1].cross_attention, inner.cross_attention)
    assert not torch.equal(outer.captures[0].cross_attention, inner.cross_attention)


def test_two_models_at_once():
    first, second = tiny_blip2(seed=1), tiny_blip2(seed=2)
    with torch.no_grad(), qformer_viz.capture(first) as one, qformer_viz.capture(second) as two:
        second.get_image_features(pixels())
        first.get_image_features(pixels())
    assert torch.equal(one.cross_attention, record(first).cross_attention)
    assert torch.equal(two.cross_attention, record(second).cross_attention)


def test_threads_see_their_own_calls_only():
    """Eight threads on one model, interleaved on purpose: all have entered before any of them runs."""
    model = tiny_blip2()
    expected = [record(model, seed=seed).cross_attention for seed in range(8)]
    found, ready = {}, threading.Barrier(8)

    def work(seed):
        for _ in range(3):
            with torch.no_grad(), qformer_viz.capture(model) as recording:
                ready.wait(30)
                model.get_image_features(pixels(seed=seed))
            found.setdefault(seed, []).append(recording.captures)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and hooks(model) == 0
    for seed, recordings in found.items():
        assert len(recordings) == 3
        for captures in recordings:
            assert len(captures) == 1
            torch.testing.assert_close(captures[0].cross_attention, expected[seed], rtol=0, atol=1e-6)


def run_in_thread(target):
    thread = threading.Thread(target=target)
    thread.start()
    thread.join()


def test_a_thread_that_never_entered_is_not_recorded():
    model = tiny_blip2()
    with qformer_viz.capture(model) as recording:
        run_in_thread(lambda: model.get_image_features(pixels()))
    with pytest.raises(NothingCaptured, match="thread"):
        _ = recording.cross_attention


def test_a_thread_that_meets_a_hook_half_registered():
    """torch adds a hook before it notes that the hook takes keywords; another thread may run in between."""
    model = tiny_blip2()
    outputs = []
    with qformer_viz.capture(model) as recording:
        model.qformer._forward_pre_hooks_with_kwargs.clear()
        run_in_thread(lambda: outputs.append(model.get_image_features(pixels())))
    assert len(outputs) == 1 and recording.captures == ()


def test_a_thread_given_the_context_is_recorded():
    model = tiny_blip2()
    with qformer_viz.capture(model) as recording:
        context = contextvars.copy_context()
        run_in_thread(lambda: context.run(model.get_image_features, pixels()))
    assert len(recording.captures) == 1


def test_a_generator_finished_in_another_context():
    """Web frameworks step a streaming generator in a fresh context each time."""
    model = tiny_blip2()

    def stream():
        with qformer_viz.capture(model) as recording:
            model.get_image_features(pixels())
            yield recording
        yield recording

    steps = stream()
    for _ in range(2):
        recording = contextvars.copy_context().run(next, steps)
    assert hooks(model) == 0 and len(recording.captures) == 1


# What is refused


def test_reading_too_early():
    with qformer_viz.capture(tiny_blip2()) as recording:
        for name in ("captures", "result", "cross_attention", "grid", "image"):
            with pytest.raises(StillRecording, match="out of the block"):
                getattr(recording, name)
        assert "still recording" in repr(recording) and "Still recording" in recording._repr_html_()


def test_nothing_captured():
    with qformer_viz.capture(tiny_blip2()) as recording:
        pass
    assert recording.captures == () and "Nothing" in recording._repr_html_()
    with pytest.raises(NothingCaptured, match="generate"):
        _ = recording.result


def test_several_calls_have_to_be_chosen_from():
    model = tiny_blip2()
    with qformer_viz.capture(model) as recording:
        model.get_image_features(pixels())
        model.get_image_features(pixels())
    with pytest.raises(ManyCaptured, match=r"2 Q-Former calls.*captures\[i\]"):
        _ = recording.query_states
    assert recording._repr_html_().count("<table>") == 2


def test_recording_delegates_and_has_no_other_attributes():
    model = tiny_blip2()
    with qformer_viz.capture(model) as recording:
        model.get_image_features(pixels(2))
    assert recording.query_states is recording.result.query_states
    assert recording.image(1).query_states.shape[1] == 1
    assert not hasattr(recording, "nonsense")
    assert recording._repr_html_() == recording.result._repr_html_()


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (lambda: nn.Linear(2, 2), "no Q-Formers in Linear"),
        (lambda: tiny_blip2().language_model, "no Q-Formers in OPT"),
        (lambda: tiny_blip2().qformer, "whole model, not model.qformer"),
        (
            lambda: nn.ModuleList([tiny_blip2(), tiny_blip2()]),
            r"2 Q-Formers in ModuleList \(0.qformer, 1.qformer\)",
        ),
        (lambda: "blip2", "a str.*pass the model itself"),
    ],
)
def test_models_without_a_qformer(what, message):
    with pytest.raises(NotAQFormer, match=message), qformer_viz.capture(what()):
        pass


def test_a_model_inside_another_module_is_found():
    model = tiny_blip2()
    with qformer_viz.capture(nn.ModuleDict({"inner": model})) as recording:
        model.get_image_features(pixels())
    assert recording.grid == (4, 4)


def test_attention_replaced_by_something_without_keys_is_named():
    model = tiny_blip2()
    block = model.qformer.encoder.layer[1].attention.attention
    block.forward = lambda hidden_states, **_: (hidden_states, None)
    with pytest.raises(NotAQFormer, match="self-attention of layer 1"), qformer_viz.capture(model):
        model.get_image_features(pixels())
    assert hooks(model) == 0


def test_capture_raises_no_warnings():
    model = tiny_blip2()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        record(model)
    assert not [one for one in caught if "qformer_viz" in str(one.filename)]
