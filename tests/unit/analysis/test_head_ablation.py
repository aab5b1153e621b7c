"""Heads silenced and queries hushed: against weights changed by hand, single passes and planted answers."""

import dataclasses

import pytest
import torch

import qformer_viz
from qformer_viz.analysis.head_ablation import ablate_heads, ablate_query_messages, shares
from qformer_viz.attribution import ExplanationContext
from qformer_viz.attribution.explanation import prepare
from qformer_viz.attribution.reference_activations import activations_for_patching, reference_activations
from qformer_viz.attribution.scorer import make_scorer
from qformer_viz.domains.photographs import Photographs
from qformer_viz.errors import CompiledError
from qformer_viz.hooks.interventions import (
    QFormerActivations,
    record_activations,
    replace_heads,
    replace_query_messages,
)
from qformer_viz.types import Decoding
from tests.support import checkpoint_factory as factory
from tests.support import fake_checkpoints as fakes
from tests.support.fake_checkpoints import picture
from tests.support.fakes import tiny_capture
from tests.support.films import FILM, FILM_KINDS


@pytest.fixture
def case(seen):
    pipe, encoded, answer = seen
    return pipe, encoded, prepare(pipe, encoded, answer)


def chosen(reference, *, own=(), cross=()):
    """[1, L, h] and [1, l, h] with the heads at these places, of a Q-Former with two layers of four heads."""
    masks = (
        torch.zeros(1, len(reference.own), 4, dtype=torch.bool),
        torch.zeros(1, len(reference.cross), 4).bool(),
    )
    for mask, places in zip(masks, (own, cross), strict=True):
        for layer, head in places:
            mask[0, layer, head] = True
    return masks


def nothing(reference):
    return QFormerActivations(*map(torch.zeros_like, reference))


def hooks(qformer):
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in qformer.modules())


def test_what_is_read_is_the_attention_over_the_values(case):
    """The heads' outputs from the recorded maps and the values that were read: two routes to one number."""
    pipe, encoded, _ = case
    encoder, inputs = pipe.encoder, pipe.with_vision(encoded)[1]
    with torch.no_grad(), record_activations(pipe.model.qformer) as said:
        encoder.look(encoded.vision, inputs)
    capture, layers = encoded.capture, pipe.model.qformer.encoder.layer
    count = capture.query_tokens.shape[0]
    own = capture.self_attention
    if capture.text_attention is not None:
        own = torch.cat([own, capture.text_attention], -1)
    for layer in range(len(layers)):
        values = said["values"][layer].unflatten(-1, (4, -1)).transpose(1, 2)
        expected = (own[layer] @ values).transpose(1, 2).flatten(-2)
        torch.testing.assert_close(said["own"][layer][:, :count], expected, atol=1e-5, rtol=1e-4)
    linear = layers[0].crossattention.attention.value
    values = linear(encoded.vision).detach().unflatten(-1, (4, -1)).transpose(1, 2)
    expected = (capture.cross_attention[0] @ values).transpose(1, 2).flatten(-2)
    torch.testing.assert_close(said["cross"][0], expected, atol=1e-5, rtol=1e-4)
    assert len(said["cross"]) == 1 and [len(said[name]) for name in ("own", "keys", "values")] == [2, 2, 2]


def test_usual_is_the_mean_over_the_reference_images(case, monkeypatch):
    pipe, encoded, _ = case
    pictures = [picture(seed) for seed in range(11)]
    monkeypatch.setattr(Photographs, "reference_images", lambda domain: iter(pictures))
    pipe.forget()
    reference, read = reference_activations(pipe, encoded.question).qformer, []
    for each in pictures:
        vision, inputs = pipe.encode(each, None).vision, pipe.with_vision(encoded)[1]
        with torch.no_grad(), record_activations(pipe.model.qformer) as said:
            pipe.encoder.look(vision, inputs)
        read.append(said)
    for name in QFormerActivations._fields:
        mean = torch.stack([torch.cat(said[name]) for said in read]).mean(0)
        torch.testing.assert_close(getattr(reference, name), mean, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["own", "cross"])
def test_a_silent_head_is_a_head_whose_part_of_the_output_weights_is_zero(case, kind):
    pipe, _, case = case
    reference = nothing(reference_activations(pipe, case.scorer.encoded.question).qformer)
    at = (1, 2) if kind == "own" else (0, 2)
    found = case.scorer.ablate_heads(*chosen(reference, **{kind: [at]}), reference)
    layer = pipe.model.qformer.encoder.layer[at[0]]
    dense = (layer.attention if kind == "own" else layer.crossattention).output.dense
    kept = dense.weight.data.clone()
    try:
        dense.weight.data[:, 16:24] = 0  # head 2 of four heads of 8
        queries = pipe.encoder.queries(case.scorer.encoded.vision, case.scorer.instruction)
    finally:
        dense.weight.data = kept
    torch.testing.assert_close(found, case.scorer.score(queries), atol=1e-4, rtol=1e-4)
    assert (found - case.scorer.score(case.scorer.queries)).abs().max() > 1e-4


def test_what_is_usual_for_this_image_changes_nothing(case):
    pipe, encoded, case = case
    with torch.no_grad(), record_activations(pipe.model.qformer) as said:
        pipe.encoder.look(encoded.vision, case.scorer.instruction)
    own = QFormerActivations(*(torch.cat(said[name]) for name in QFormerActivations._fields))
    everything = (torch.ones(1, len(part), 4, dtype=torch.bool) for part in (own.own, own.cross))
    clean = case.scorer.score(case.scorer.queries)
    for found in (
        case.scorer.ablate_heads(*everything, own),
        case.scorer.ablate_query_messages(torch.ones(1, case.scorer.queries.shape[1]).bool(), own),
        case.scorer.isolate_queries(own),
    ):
        torch.testing.assert_close(found, clean, atol=1e-4, rtol=1e-4)


def test_a_hushed_query_is_found_and_heard_as_usual_and_goes_on_by_itself(case):
    """Layer by layer, by hand: the others' attention over keys and values of which one is replaced."""
    pipe, encoded, case = case
    reference = reference_activations(pipe, encoded.question).qformer
    with torch.no_grad(), record_activations(pipe.model.qformer) as clean:
        pipe.encoder.look(encoded.vision, case.scorer.instruction)
    quiet = torch.zeros(1, case.scorer.queries.shape[1], dtype=torch.bool)
    quiet[0, 1] = True
    queries = []
    attention = pipe.model.qformer.encoder.layer[0].attention.attention
    handle = attention.query.register_forward_hook(lambda *args: queries.append(args[-1]))
    try:
        with (
            torch.no_grad(),
            replace_query_messages(pipe.model.qformer, quiet, reference),
            record_activations(pipe.model.qformer) as said,
        ):
            pipe.encoder.look(encoded.vision, case.scorer.instruction)
    finally:
        handle.remove()
    keys, values = clean["keys"][0].clone(), clean["values"][0].clone()
    keys[:, 1], values[:, 1] = reference.keys[0, 1], reference.values[0, 1]
    q, k, v = (each.unflatten(-1, (4, -1)).transpose(1, 2) for each in (queries[0], keys, values))
    expected = ((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v).transpose(1, 2).flatten(-2)
    torch.testing.assert_close(said["own"][0], expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(said["keys"][1][:, 1], reference.keys[1, 1][None])
    assert not torch.allclose(said["keys"][1][:, 0], reference.keys[1, 0][None])


def test_apart_a_query_hears_nothing_of_the_others(case, monkeypatch):
    pipe, encoded, case = case
    reference, given = reference_activations(pipe, encoded.question).qformer, []
    monkeypatch.setattr(case.scorer, "score", lambda queries, on_progress=None: given.append(queries))
    case.scorer.isolate_queries(reference)
    tokens = pipe.model.query_tokens.data
    kept = tokens.clone()
    try:
        tokens[:, 1:] = torch.randn_like(tokens[:, 1:])
        case.scorer.isolate_queries(reference)
    finally:
        pipe.model.query_tokens.data = kept
    before, after = given
    assert before.shape == case.scorer.queries.shape
    torch.testing.assert_close(before[:, 0], after[:, 0], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(before[:, 1], after[:, 1], atol=1e-2)
    # And each is that of a pass in which all others are hushed.
    for query in range(before.shape[1]):
        quiet = torch.ones(1, before.shape[1], dtype=torch.bool)
        quiet[0, query] = False
        with torch.no_grad(), replace_query_messages(pipe.model.qformer, quiet, reference):
            alone = pipe.encoder.queries(encoded.vision, case.scorer.instruction)
        torch.testing.assert_close(before[:, query], alone[:, query], atol=1e-5, rtol=1e-4)


def test_an_unread_token_at_the_end_is_one_that_is_not_there(case):
    pipe, encoded, case = case
    if case.scorer.instruction is None:
        assert case.capture.text_attention is None and ablate_query_messages(case).text.shape == (
            len(case.scorer.words),
            0,
        )
        return
    ids = case.scorer.instruction["input_ids"]
    read = torch.ones(1, ids.shape[1], dtype=torch.bool)
    read[0, -1] = False
    found = case.scorer.mask_text(read)
    shorter = {"input_ids": ids[:, :-1], "attention_mask": torch.ones_like(ids[:, :-1])}
    queries = pipe.encoder.queries(encoded.vision, shorter)
    torch.testing.assert_close(found, case.scorer.score(queries), atol=1e-4, rtol=1e-4)
    assert ablate_query_messages(case).text.shape == (
        len(case.scorer.words),
        len(pipe.qformer_text_tokens(encoded.question)),
    )
    clean = case.scorer.score(case.scorer.queries)
    torch.testing.assert_close(
        ablate_query_messages(case).text[:, -1], (clean - found)[0], atol=1e-4, rtol=1e-4
    )


def test_with_all_that_was_seen_in_another_image_it_is_that_image(case):
    """The Q-Former sees an image by its cross-attention only."""
    pipe, encoded, case = case
    other = pipe.encode(picture(1), None)
    if case.scorer.instruction is not None:
        other = dataclasses.replace(other, question=encoded.question)
    said = activations_for_patching(pipe, other)
    own = torch.zeros(1, len(said.own), 4, dtype=torch.bool)
    found = case.scorer.ablate_heads(own, torch.ones(1, len(said.cross), 4, dtype=torch.bool), said)
    queries = pipe.encoder.queries(other.vision, case.scorer.instruction)
    torch.testing.assert_close(found, case.scorer.score(queries), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found, case.scorer.score(case.scorer.queries), atol=1e-3)


def test_rows_do_not_depend_on_those_beside_them(case):
    pipe, encoded, case = case
    reference = reference_activations(pipe, encoded.question).qformer
    found = ablate_heads(case)
    for at in ((0, 1), (1, 3)):
        alone = case.scorer.ablate_heads(*chosen(reference, own=[at]), reference)[0]
        clean = case.scorer.score(case.scorer.queries)[0]
        torch.testing.assert_close(found.own[:, at[0], at[1]], clean - alone, atol=1e-4, rtol=1e-3)
    whole = case.scorer.ablate_heads(*chosen(reference, cross=[(0, head) for head in range(4)]), reference)[0]
    torch.testing.assert_close(found.cross_layers[:, 0], clean - whole, atol=1e-4, rtol=1e-3)
    quiet = torch.eye(case.scorer.queries.shape[1], dtype=torch.bool)[2:3]
    alone = case.scorer.ablate_query_messages(quiet, reference)[0]
    torch.testing.assert_close(ablate_query_messages(case).queries[:, 2], clean - alone, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(
        ablate_query_messages(case).apart,
        clean - case.scorer.isolate_queries(reference)[0],
        atol=1e-4,
        rtol=1e-3,
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", FILM_KINDS)
def test_in_a_film_every_frame_is_as_it_would_be_alone(pipes, kind, monkeypatch):
    pipe = pipes[kind]
    encoded, answer = pipe.encode(FILM), pipe.caption(FILM, Decoding(max_new_tokens=6))
    film, reference = (
        make_scorer(pipe, encoded, answer),
        reference_activations(pipe, encoded.question).qformer,
    )
    count = factory.QUERIES
    quiet = torch.zeros(2, count, dtype=torch.bool)
    quiet[1, 3] = True
    own = torch.zeros(2, len(reference.own), pipe.model.config.qformer_config.num_attention_heads).bool()
    cross = own[:, : len(reference.cross)].clone()
    own[1, 1, 0] = cross[1, 0, 1] = True
    works = (
        lambda s: s.ablate_query_messages(quiet, reference),
        lambda s: s.ablate_heads(own, cross, reference),
        lambda s: s.isolate_queries(reference),
    )
    for work in works:
        given = []
        monkeypatch.setattr(
            type(film), "score", lambda _, queries, on_progress=None, to=given: to.append(queries) or queries
        )
        work(film)
        for frame in FILM:
            work(make_scorer(pipe, pipe.encode(frame), answer))
        whole, *single = given
        torch.testing.assert_close(whole, torch.cat(single, 1), atol=1e-4, rtol=1e-3)


def test_hooks_are_gone_whatever_happens(case):
    pipe, encoded, case = case
    before, reference = hooks(pipe.model.qformer), reference_activations(pipe, encoded.question).qformer
    with (
        pytest.raises(KeyError),
        replace_query_messages(pipe.model.qformer, torch.zeros(1, 4).bool(), reference),
    ):
        assert hooks(pipe.model.qformer) > before
        raise KeyError
    with (
        replace_heads(pipe.model.qformer, *chosen(reference), reference),
        record_activations(pipe.model.qformer),
    ):
        pass
    ablate_heads(case)
    ablate_query_messages(case)
    assert hooks(pipe.model.qformer) == before


class Planted:
    """One word loses 1 nat with head 1 of cross-attention 0, 2 with head 0 of self-attention 3, 3 with both, 4 when
    query 2 is hushed; and 5 when queries are apart."""

    words = ("word",)

    def __init__(self):
        self.asked = []

    def ablate_heads(self, own, cross, reference, on_progress=None):
        self.asked.append(len(own))
        return -(1.0 * cross[:, 0, 1] + 2.0 * own[:, 3, 0])[:, None]

    def ablate_query_messages(self, chosen, reference, on_progress=None):
        return -4.0 * chosen[:, 2:3]

    def isolate_queries(self, reference):
        return torch.tensor([[-5.0]])

    def mask_text(self, read, on_progress=None):
        return -6.0 * (~read[:, 1:2])


def test_effects_stand_where_their_heads_and_queries_are():
    capture = tiny_capture()
    capture = dataclasses.replace(capture, text_attention=torch.rand(6, 1, 4, 8, 3))
    case = ExplanationContext(Planted(), capture, None, reference=lambda: None)
    found = ablate_heads(case)
    assert found.cross.nonzero().tolist() == [[0, 0, 1]] and found.cross[0, 0, 1] == 1
    assert found.own.nonzero().tolist() == [[0, 3, 0]] and found.own[0, 3, 0] == 2
    assert found.cross_layers.tolist() == [[1, 0, 0]] and found.own_layers.tolist() == [[0, 0, 0, 2, 0, 0]]
    assert ablate_heads(case) is found and case.scorer.asked == [1 + 9 * 4 + 9]
    said = ablate_query_messages(case)
    assert said.queries.tolist() == [[0, 0, 4, 0, 0, 0, 0, 0]] and said.apart.tolist() == [5]
    assert said.text.tolist() == [[0, 6, 0]]


def test_shares_add_up():
    own = torch.tensor([[0.5, 0.25], [0.125, 0.125]])
    assert shares(own, torch.tensor([[0.25], [0.75]])) == (0.3125, 0.1875, 0.5)
    assert shares(own) == (0.3125, 0.1875, 0.0)


@pytest.mark.slow
def test_counting_needs_the_talk_between_queries_and_naming_does_not():
    """On the bundled model: what `python -m qformer_viz inside` tells of many scenes, on one."""
    pipe = qformer_viz.load("blip2-emoji", device="cpu", observe=qformer_viz.capture)
    encoded = pipe.encode("assets/examples/cat-and-dog.png")
    named = prepare(pipe, encoded, pipe.caption(encoded))
    counted = prepare(pipe, encoded, pipe.ask(encoded, "how many objects are there?"))
    assert named.scorer.words[1] == "cat" and counted.scorer.words == ("two",)
    assert ablate_query_messages(counted).apart[0] > 2 > 0.5 > ablate_query_messages(named).apart[1].abs()
    # Heads stand in for one another; the last cross-attention as a whole is what the caption hangs on.
    assert ablate_heads(named).cross[1].max() < 1 < 2 < ablate_heads(named).cross_layers[1, -1]


@pytest.mark.parametrize("way", ["in place", "wrapped", "a layer"])
def test_a_compiled_qformer_is_refused_where_hooks_would_pass_it_by(way):
    pipe = fakes.pipeline("blip2", "opt", observe=qformer_viz.capture)
    qformer = pipe.model.qformer
    if way == "in place":
        qformer.compile(backend="eager")
    elif way == "wrapped":
        pipe.model.qformer = torch.compile(qformer, backend="eager")
    else:
        qformer.encoder.layer[1].compile(backend="eager")
    with (
        pytest.raises(CompiledError, match="compile nothing of its Q-Former"),
        record_activations(pipe.model.qformer),
    ):
        pass
