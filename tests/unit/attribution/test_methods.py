"""Every attribution method: by hand, against finite differences, and against the model's own modules."""

import dataclasses
import gc
import importlib

import numpy as np
import pytest
import torch

import qformer_viz
from qformer_viz import METHODS, ExplanationContext
from qformer_viz.attribution.explanation import attribute, prepare
from qformer_viz.attribution.methods import (
    baseline_corrected,
    gradient,
    integrated_gradients,
    norm_based,
    rise,
    rollout,
)
from qformer_viz.attribution.reference_activations import reference_activations
from qformer_viz.attribution.scorer import make_scorer
from qformer_viz.errors import GradientError
from qformer_viz.types import Decoding
from tests.support import fake_checkpoints as fakes
from tests.support.fake_checkpoints import FAMILIES, picture
from tests.support.planted_case import planted_case

STEPS = (3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6)


@pytest.fixture
def precise(seen):
    """In double precision, so that finite differences mean something; (pipe, encoded, answer, scorer, a word)."""
    pipe, _, answer = seen
    pipe.model.double()
    pipe.forget()
    encoded = pipe.encode(picture(2), seen[1].question)
    scorer = make_scorer(pipe, encoded, answer)
    yield pipe, encoded, answer, scorer, len(scorer.words) - 1
    pipe.model.float()


def slopes(f):
    """Central differences of f(change of one entry), at several steps: T5 rounds to single precision within, and its
    steep ReLUs have kinks, so a single step may mislead."""
    return [(f(step) - f(-step)) / (2 * step) for step in STEPS]


def close(value, differences, largest):
    """Within a hundredth of its own size, or two thousandths of the largest one's."""
    return any(value == pytest.approx(each, abs=2e-3 * float(largest), rel=1e-2) for each in differences)


def moved(tensor, at, by):
    changed = tensor.clone()
    changed[at] += by
    return changed


def entries(shape, count, seed=0):
    rng = np.random.default_rng(seed)
    return [tuple(int(rng.integers(side)) for side in shape) for _ in range(count)]


@pytest.mark.slow
def test_slopes_by_image_features_and_queries_are_those_of_the_score(precise):
    pipe, encoded, _, scorer, word = precise
    y, (found,) = scorer.feature_gradients(word, encoded.vision[None])
    whole = scorer.score(encoded.queries)[0, word]
    torch.testing.assert_close(y[0], whole, atol=1e-5, rtol=1e-5)

    def by_vision(vision):
        with torch.no_grad():
            return scorer.score(pipe.encoder.queries(vision, scorer.instruction))[0, word].item()

    for at in entries(encoded.vision.shape, 6):
        assert close(
            found[at].item(),
            slopes(lambda by, at=at: by_vision(moved(encoded.vision, at, by))),
            found.abs().max(),
        )
    by_queries = scorer.attention_gradients(word).queries[None]
    for at in entries(encoded.queries.shape, 6):
        differences = slopes(lambda by, at=at: scorer.score(moved(encoded.queries, at, by))[0, word].item())
        assert close(by_queries[at].item(), differences, by_queries.abs().max())
    assert found.abs().max() > 0.01 and by_queries.abs().max() > 0.01


@pytest.mark.slow
def test_slopes_by_attention_are_those_of_the_score(precise, monkeypatch):
    pipe, encoded, _, scorer, word = precise
    found = scorer.attention_gradients(word)
    module = importlib.import_module(type(pipe.model.qformer).__module__)
    stock, poke = module.eager_attention_forward, {}

    def poked(layer, query, key, value, mask, scaling, **options):
        out, weights = stock(layer, query, key, value, mask, scaling=scaling, **options)
        if layer is poke.get("layer"):
            weights = weights.clone()
            weights[poke["at"]] += poke["by"]
            out = (weights @ value).transpose(1, 2).contiguous()
        return out, weights

    monkeypatch.setattr(module, "eager_attention_forward", poked)
    pipe.model.qformer.set_attn_implementation("eager")
    kinds = {"cross": (found.cross, found.cross_gradient), "own": (found.own, found.own_gradient)}
    crossing = encoded.capture.cross_layers
    for kind, (maps, gradients) in kinds.items():
        assert maps.shape == gradients.shape and gradients.abs().max() > 0.01
        torch.testing.assert_close(maps.sum(-1), torch.ones_like(maps[..., 0]))
        for index, *at in entries(maps.shape, 6):
            layer = pipe.model.qformer.encoder.layer[crossing[index] if kind == "cross" else index]
            block = layer.crossattention if kind == "cross" else layer.attention

            def by_attention(by, block=block, at=at):
                poke.update(layer=block.attention, at=tuple(at), by=by)
                with torch.no_grad():
                    queries = pipe.encoder.queries(encoded.vision, scorer.instruction)
                return scorer.score(queries)[0, word].item()

            assert close(gradients[(index, *at)].item(), slopes(by_attention), gradients.abs().max()), (
                kind,
                index,
                at,
            )


def test_the_maps_with_slopes_are_those_that_were_captured(seen):
    pipe, encoded, answer = seen
    capture = encoded.capture
    found = make_scorer(pipe, encoded, answer).attention_gradients(0)
    torch.testing.assert_close(found.cross, capture.cross_attention, atol=1e-5, rtol=1e-4)
    count = fakes.QUERIES
    torch.testing.assert_close(found.own[..., :count, :count], capture.self_attention, atol=1e-5, rtol=1e-4)
    assert pipe.model.qformer.config._attn_implementation == capture.attn_implementation


@pytest.mark.slow
def test_gradients_do_not_pile_up_and_leave_no_graph(seen):
    pipe, encoded, answer = seen
    gc.collect()
    before = sum(type(each) is torch.Tensor and each.grad_fn is not None for each in gc.get_objects())
    case = prepare(pipe, encoded, answer)
    last = len(case.scorer.words) - 1
    alone = attribute(case, "gradient", words=[last]).scores
    for name in ("gradient", "integrated"):
        torch.testing.assert_close(
            attribute(case, name).scores[last:], attribute(case, name, words=[last]).scores
        )
    torch.testing.assert_close(attribute(case, "gradient", words=[last]).scores, alone)
    gc.collect()
    graphs = [each for each in gc.get_objects() if type(each) is torch.Tensor and each.grad_fn is not None]
    assert len(graphs) == before
    assert all(parameter.grad is None for parameter in pipe.model.parameters())


def test_chefers_rules_by_hand():
    """Two queries, one head, two patches and CLS; both layers read one another, the first looks."""
    own = torch.tensor([[[[0.5, 0.5], [0.0, 1.0]]], [[[0.0, 1.0], [1.0, 0.0]]]])
    own_gradient = torch.tensor([[[[2.0, -2.0], [9.0, 1.0]]], [[[9.0, 3.0], [0.0, 9.0]]]])
    cross = torch.tensor([[[[0.0, 0.5, 0.5], [1.0, 0.0, 0.0]]]])
    cross_gradient = torch.tensor([[[[9.0, 4.0, -4.0], [2.0, 9.0, 9.0]]]])
    # Layer 0: weights diag(1, 1), so R_ss = diag(2, 2), and normalised 2 on the diagonal. It looks: [[0,2,0],[2,0,0]],
    # twice. Layer 1: the first query takes 3 of what the second has.
    expected = torch.tensor([[12.0, 4.0, 0.0], [4.0, 0.0, 0.0]])
    assert gradient.relevance(own, own_gradient, cross, cross_gradient, (0,)).tolist() == expected.tolist()
    # Text after the queries looks at nothing; where nothing mixes, 0 / 0 stays 0.
    wide, flat = torch.zeros(1, 1, 3, 3), torch.ones(1, 1, 3, 3)
    seen_ = gradient.relevance(wide, flat, cross, cross_gradient.abs(), (0,))
    assert seen_.tolist() == [[0, 2, 2], [2, 0, 0]]


def test_chefers_rule_where_queries_have_mixed_before_they_look():
    """The first reads the second, then both look: R̄ is not symmetric, and enters transposed."""
    own, cross = torch.zeros(2, 1, 2, 2), torch.zeros(1, 1, 2, 3)
    own[0, 0, 0, 1] = 0.5
    cross[0, 0, 0, 1] = 1.0
    found = gradient.relevance(own, torch.full_like(own, 2.0), cross, torch.full_like(cross, 2.0), (1,))
    assert found.tolist() == [[0, 2, 0], [0, 2, 0]]


def test_rollout_against_products_of_whole_matrices():
    """Independent route: queries and image tokens as one sequence, one matrix a step, multiplied up."""
    make = torch.Generator().manual_seed(3)
    layers, q, p, crossing = 5, 4, 7, (0, 2, 4)
    own = torch.rand(layers, q, q, generator=make).softmax(-1)
    cross = torch.rand(len(crossing), q, p, generator=make).softmax(-1)
    product = torch.eye(q + p)
    for layer in range(layers):
        step = torch.eye(q + p)
        mixing = own[layer] + torch.eye(q)
        step[:q, :q] = mixing / mixing.sum(-1, keepdim=True)
        product = step @ product
        if layer in crossing:
            step = torch.eye(q + p)
            step[:q, :q] /= 2
            step[:q, q:] = cross[crossing.index(layer)] / 2
            product = step @ product
    found = rollout.rollout(own, cross, crossing)
    torch.testing.assert_close(found, product[:q, q:])
    # What remains is the queries' own start, halved at every look.
    torch.testing.assert_close(found.sum(-1), torch.full((q,), 1 - 0.5**3))


def test_values_are_what_the_layer_adds(seen):
    """Weighted by the attention they sum to the output of the layer's own projection, but for its bias."""
    pipe, encoded, answer = seen
    dense = pipe.model.qformer.encoder.layer[0].crossattention.output.dense
    outputs = []
    handle = dense.register_forward_hook(lambda _m, _i, out: outputs.append(out))
    scorer = make_scorer(pipe, encoded, answer)
    keep = torch.ones(1, 1, encoded.vision.shape[1], dtype=torch.bool)
    scorer.shown(keep)
    handle.remove()
    cross = encoded.capture.cross_attention[0, 0]
    added = torch.einsum("hqp,hpd->qd", cross, scorer.values(0)[0]) + dense.bias
    torch.testing.assert_close(added, outputs[0][0], atol=1e-4, rtol=1e-3)


def test_value_norms_by_hand():
    cross = torch.tensor([[[0.5, 0.5]], [[1.0, 0.0]]])
    values = torch.tensor([[[6.0, 0.0], [0.0, 8.0]], [[0.0, 4.0], [9.0, 9.0]]])
    assert norm_based.norms(cross, values).tolist() == [[5, 4]]


def test_attention_less_the_usual_takes_a_sink_out():
    case = planted_case()
    reference = torch.tensor([[0.1, 0.1, 0.2], [0.2, 0.2, 0.4]])
    first = case.scorer.attention
    case.scorer.attention = lambda queries=None: first() if queries is None else reference
    found = baseline_corrected.compute(case)
    torch.testing.assert_close(found[0].sum(-1), torch.tensor([0.0, 0.5, -0.5]))
    torch.testing.assert_close(found[1], torch.zeros(3, 3))


def test_integrated_gradients_are_exact_for_a_polynomial():
    """y = (v · w)³: the shares follow w · (end − start), and add up to what changed."""
    w = torch.tensor([[1.0, 2.0], [0.0, 1.0], [-1.0, 0.0]])
    start, end = torch.full((1, 3, 2), 0.5), torch.tensor([[[1.0, 1.0], [2.0, 2.0], [3.0, 0.0]]])

    def slopes(vision):
        total = (vision * w).sum((1, 2, 3))
        return total**3, 3 * total[:, None, None, None] ** 2 * w

    shares, error = integrated_gradients.integrated(slopes, start, end, points=4)
    parts = (w * (end - start)).sum(-1)
    changed = slopes(end[None])[0] - slopes(start[None])[0]
    torch.testing.assert_close(shares, parts / parts.sum() * changed)
    assert abs(error) < 1e-4
    rough, off = integrated_gradients.integrated(slopes, start, end, points=1)
    assert off == pytest.approx((rough.sum() - changed).item()) and abs(off) > 0.01


@pytest.mark.slow
def test_completeness_on_a_model(precise):
    pipe, encoded, answer, scorer, word = precise
    start, end = reference_activations(pipe, encoded.question).features, encoded.vision
    errors = []
    for points in (4, 32, 256):
        shares, error = integrated_gradients.integrated(
            lambda vision: scorer.feature_gradients(word, vision), start, end, points
        )
        errors.append(abs(error))
    assert errors[-1] < max(0.02, errors[0] / 10)
    with torch.no_grad():
        blank = scorer.score(pipe.encoder.queries(start, scorer.instruction))[0, word]
    brought = (scorer.score(encoded.queries)[0, word] - blank).item()
    assert shares.sum().item() - error == pytest.approx(brought, abs=1e-4)
    assert "Completeness" in qformer_viz.explain(pipe, encoded, answer, "integrated", words=[word]).note


def test_rise_finds_the_patch_that_matters():
    keep = rise.masks(400, (8, 6), torch.Generator().manual_seed(0), cells=4)
    assert keep.shape == (400, 48) and 0.4 < keep.float().mean() < 0.6
    coarse = keep.unflatten(-1, (8, 6))
    # Cells are two rows high, so at most every second row differs from the one above.
    assert ((coarse[:, 1:] != coarse[:, :-1]).any(-1).sum(-1) <= 4).all()
    assert (keep[:-1] != keep[1:]).any(-1).float().mean() > 0.9
    scores = torch.stack([2.0 * keep[:, 13] - 9, torch.full((400,), -9.0)], 1)
    found = rise.weigh(keep, scores)
    # Only what a patch changes counts, not how well the word does anyway.
    assert found[0, 13] == pytest.approx(2, abs=1e-4) and found[0].argmax() == 13
    assert found[1].abs().max() < 1e-4


@pytest.mark.slow
def test_only_the_words_asked_for(seen):
    pipe, encoded, answer = seen
    case = prepare(pipe, encoded, answer)
    for name in METHODS:
        whole, one = attribute(case, name), attribute(case, name, words=[1])
        assert one.words == whole.words[1:2] and one.logprobs == whole.logprobs[1:2]
        torch.testing.assert_close(one.scores, whole.scores[1:2])
    for words in ([], [99], [-1]):
        with pytest.raises(qformer_viz.BadSelection, match="words"):
            attribute(case, words=words)


def test_what_methods_share_is_computed_once(seen, monkeypatch):
    pipe, encoded, answer = seen
    case = prepare(pipe, encoded, answer)
    calls, score = [], case.scorer.score
    monkeypatch.setattr(
        case.scorer, "score", lambda queries, on_progress=None: calls.append(len(queries)) or score(queries)
    )
    for layer in (None, "mean"):
        attribute(case, "knockout", layer)
        attribute(case, "raw", layer)
    assert calls == [2 + fakes.QUERIES]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["knockout", "gradient", "integrated", "occlusion", "rise"])
def test_long_work_is_told_and_can_be_stopped(seen, name):
    pipe, encoded, answer = seen
    case, heard = prepare(pipe, encoded, answer), []

    def told(done, of):
        heard.append((done, of))

    attribute(case, name, on_progress=told)
    assert heard[-1][0] == heard[-1][1] and [done for done, _ in heard] == sorted({d for d, _ in heard})

    def stop(done, of):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attribute(prepare(pipe, encoded, answer), name, on_progress=stop)
    attribute(case, "knockout")


def test_the_positions_before_a_change_are_read_once(seen, monkeypatch):
    """The same scores from fewer tokens; only where the language model is causal."""
    pipe, encoded, answer = seen
    other = pipe.encode(picture(1)).queries
    changed = torch.cat([encoded.queries, encoded.queries.repeat(4, 1, 1)])
    for index in range(fakes.QUERIES):
        changed[index + 1, index] = other[0, index]
    tokens = []
    read = pipe.model.language_model.get_decoder().register_forward_pre_hook(
        lambda _m, _a, options: (
            tokens.append(options["inputs_embeds"].shape[:2].numel())
            if options.get("inputs_embeds") is not None
            else None
        ),
        with_kwargs=True,
    )
    found, counts = [], []
    for step in (fakes.QUERIES * 10, 1):
        monkeypatch.setattr("qformer_viz.attribution.scorer.REUSE_STEP", step)
        monkeypatch.setattr("qformer_viz.attribution.scorer.REUSE_FROM", 1)
        tokens.clear()
        found.append(make_scorer(pipe, encoded, answer).score(changed))
        counts.append(sum(tokens))
    read.remove()
    torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=1e-4)
    if pipe.model.config.use_decoder_only_language_model:
        length = counts[0] // len(changed)
        assert counts[1] == fakes.QUERIES + length * 5 - (0 + 1 + 2 + 3 + 3)
    else:
        assert counts[0] == counts[1]


@pytest.mark.slow
def test_greedy_decoding_is_foretold(seen):
    pipe, encoded, answer = seen
    scorer = make_scorer(pipe, encoded, answer)
    others = torch.cat([pipe.encode(picture(seed)).queries for seed in range(6)])
    told = scorer.repeats(torch.cat([encoded.queries, others])).tolist()
    said = []
    for queries in others:
        changed = dataclasses.replace(encoded, queries=queries[None])
        again = pipe.caption(changed, Decoding(max_new_tokens=8))
        said.append(again.token_ids[: len(answer.token_ids)] == answer.token_ids)
    assert told == [True, *said] and not all(said)


def test_a_case_without_attention_maps_of_one_layer():
    """The planted model has no ViT: methods that need none of the model's weights work on any scorer."""
    case = planted_case()
    assert isinstance(case, ExplanationContext)
    for name in ("knockout", "raw", "rollout", "occlusion", "rise"):
        assert METHODS[name].compute(case).shape[::2] == (2, 3)


PRECISIONS = {
    "bfloat16": {"dtype": torch.bfloat16},
    "float16": {"dtype": torch.float16},
    "8bit": {"quantization": "8bit"},
    "4bit": {"quantization": "4bit"},
}


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("family", "language"), FAMILIES)
def test_every_method_in_every_precision(tmp_path_factory, family, language, precision):
    """Finite, and near what single precision says of the same answer. T5 has no safe fp16, and is not asked for it."""
    if (language, precision) == ("t5", "float16"):
        precision = "bfloat16"
    folder = tmp_path_factory.mktemp("saved")
    fakes.save(folder, family, language)
    # The bounds below hold for what these random weights say to this prompt; to others they are less sure.
    (folder / "explorer.json").write_text('{"caption_prompt": "a photo of"}')
    options = {"device": "cpu", "observe": qformer_viz.capture}
    plain = qformer_viz.load(folder, **options)
    pipe = qformer_viz.load(folder, **options, **PRECISIONS[precision])
    answer = plain.caption(picture(3), Decoding(max_new_tokens=6))
    exact, near = (prepare(each, each.encode(picture(3)), answer) for each in (plain, pipe))
    for name in METHODS:
        packed = any(
            getattr(getattr(weight, "quant_state", None), "packing_format_for_cpu", False)
            for weight in pipe.model.parameters()
        )
        if METHODS[name].single and packed:
            # bitsandbytes packs 4-bit weights for processors with AVX512-BF16 in a form without a backward pass.
            with pytest.raises(GradientError, match="another method"):
                attribute(near, name)
            continue
        wanted, found = attribute(exact, name), attribute(near, name)
        assert found.scores.dtype == torch.float32 and found.scores.isfinite().all(), name
        assert found.scores.shape == wanted.scores.shape and not found.scores.requires_grad
    # All knock-outs of one answer: as near as the precision allows, in units of their own spread.
    wanted, found = attribute(exact, "knockout").queries, attribute(near, "knockout").queries
    error = (found - wanted).norm() / wanted.norm()
    assert 0 < error < {"bfloat16": 0.4, "float16": 0.1, "8bit": 0.6, "4bit": 1.5}[precision], error
