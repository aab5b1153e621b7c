"""Words to queries to patches: against the model's own forward, planted cases and the masks of bundled scenes."""

import dataclasses

import numpy as np
import pytest
import torch

import qformer_viz
from qformer_viz import METHODS, BadSelection
from qformer_viz.attribution.methods import knockout, occlusion, raw_attention
from qformer_viz.attribution.reference_activations import reference_activations
from qformer_viz.attribution.scorer import make_scorer
from qformer_viz.domains.emoji.scenes import random_scene, render
from qformer_viz.runtime.token_text import split_words
from tests.support import fake_checkpoints as fakes
from tests.support.fake_checkpoints import picture
from tests.support.planted_case import planted_case


def brute(pipe, encoded, answer, queries):
    """Log-probability of each token by the library's own forward, with its projection's output replaced."""
    prompt = torch.tensor([pipe._prompts.ids(answer.prompt)])
    ids = torch.tensor([answer.token_ids])
    handle = pipe.model.language_projection.register_forward_hook(lambda *_: queries)
    inputs = pipe.processor(images=encoded.image, text=answer.prompt, return_tensors="pt")
    try:
        if pipe.model.config.use_decoder_only_language_model:
            inputs["input_ids"] = torch.cat([prompt, ids], 1)
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            logits = pipe.model(**inputs).logits[:, prompt.shape[1] - 1 : -1]
        else:
            start = torch.full_like(ids[:, :1], pipe.model.language_model.config.decoder_start_token_id)
            logits = pipe.model(**inputs, decoder_input_ids=torch.cat([start, ids[:, :-1]], 1)).logits
    finally:
        handle.remove()
    return logits.log_softmax(-1).gather(-1, ids[..., None])[0, :, 0].detach()


def test_scores_are_those_of_the_models_own_forward(seen):
    pipe, encoded, answer = seen
    scorer = make_scorer(pipe, encoded, answer)
    other = pipe.encode(picture(1)).queries
    changed = encoded.queries.clone()
    changed[:, 2] = other[:, 2]
    for queries in (encoded.queries, changed, other):
        tokens = brute(pipe, encoded, answer, queries)
        words = torch.zeros(len(scorer.words)).index_add_(0, torch.tensor(scorer.of_word), tokens)
        torch.testing.assert_close(scorer.score(queries)[0], words, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(scorer.score(encoded.queries).sum(), sum(answer.logprobs), atol=1e-3)


@pytest.mark.slow
def test_the_batch_size_changes_nothing(seen, monkeypatch):
    pipe, encoded, answer = seen
    whole = {name: qformer_viz.explain(pipe, encoded, answer, name).scores for name in METHODS}
    monkeypatch.setattr("qformer_viz.attribution.scorer.BATCH_BYTES", 1)
    monkeypatch.setattr("qformer_viz.attribution.scorer.SHOWN", 3)
    for name, scores in whole.items():
        again = qformer_viz.explain(pipe, encoded, answer, name).scores
        # A tiny T5 with steep weights makes much of the last digit.
        assert (again - scores).norm() < 0.01 * scores.norm() + 1e-4, name


def test_occlusion_of_nothing_gives_the_queries_back(seen, monkeypatch):
    pipe, encoded, answer = seen
    keep = torch.ones(2, 1, encoded.vision.shape[1], dtype=torch.bool)
    keep[1, 0, 3] = False
    scorer = make_scorer(pipe, encoded, answer)
    whole, without = scorer._queries(encoded.vision.expand(2, 1, -1, -1), keep)
    torch.testing.assert_close(whole[None], encoded.queries, atol=1e-5, rtol=1e-4)
    assert (without - whole).abs().max() > 1e-5
    scores = scorer.score(torch.stack([whole, without]))
    heard = []
    monkeypatch.setattr("qformer_viz.attribution.scorer.SHOWN", 1)
    found = scorer.shown(keep, lambda done, of: heard.append((done, of)))
    torch.testing.assert_close(found, scores, atol=1e-5, rtol=1e-4)
    assert heard == [(1, 2), (2, 2)]


def test_the_attention_of_the_language_model(seen):
    """Row by row as the library's own forward gives it, and the model is left as it was."""
    pipe, encoded, answer = seen
    language = pipe.model.language_model
    before = language.config._attn_implementation
    scorer = make_scorer(pipe, encoded, answer)
    found = scorer.attention()
    assert language.config._attn_implementation == before
    prompt, ids = torch.tensor([pipe._prompts.ids(answer.prompt)]), torch.tensor([answer.token_ids])
    embeds = pipe._generator.embed(prompt, encoded.queries)
    language.set_attn_implementation("eager")
    if language.config.is_encoder_decoder:
        start = torch.full_like(ids[:, :1], language.config.decoder_start_token_id)
        out = language(
            inputs_embeds=embeds, decoder_input_ids=torch.cat([start, ids], 1), output_attentions=True
        )
        maps, first = out.cross_attentions, 0
    else:
        embeds = torch.cat([embeds, language.get_input_embeddings()(ids)], 1)
        maps, first = language(inputs_embeds=embeds, output_attentions=True).attentions, prompt.shape[1] - 1
    language.set_attn_implementation(before)
    pieces = torch.stack(maps)[:, 0].mean((0, 1))[first : first + ids.shape[1], : fakes.QUERIES]
    for word in range(len(scorer.words)):
        own = [row for row, owner in zip(pieces, scorer.of_word, strict=True) if owner == word]
        torch.testing.assert_close(found[word], torch.stack(own).mean(0), atol=1e-5, rtol=1e-4)


def test_every_method_on_a_model_computed_by_hand():
    case = planted_case()
    assert knockout.effects(case).tolist() == [[0, 12, -1], [0, 0, 0]]
    assert knockout.compute(case)[0].tolist() == [[0, 0, 0], [0, 12, 0], [0, 0, -1]]
    assert occlusion.compute(case).tolist() == [[[0, 15, -1]], [[0, 0, 0]]]
    torch.testing.assert_close(raw_attention.compute(case)[0], torch.diag(torch.tensor([0.25, 0.75, 0.0])))
    assert case.scorer.queries.tolist() == [[[2], [5], [1]]]


def test_sets_of_queries_are_replaced_together():
    sets = torch.tensor([[True, False, True], [False, False, False]])
    queries, baseline = torch.ones(1, 3, 2), torch.zeros(1, 3, 2)
    assert knockout.replaced(queries, baseline, sets)[..., 0].tolist() == [[0, 1, 0], [1, 1, 1]]


@pytest.mark.parametrize(
    ("pieces", "words", "owner"),
    [
        ((" a", " cat", " to"), ("a", "cat", "to"), (0, 1, 2)),
        (("a", " cro", "iss", "ant", ".", " b"), ("a", "croissant", ".", "b"), (0, 1, 1, 1, 2, 3)),
        (("two", ",", "three"), ("two", ",", "three"), (0, 1, 2)),
    ],
)
def test_pieces_become_words(pieces, words, owner):
    assert split_words(pieces) == (words, owner)


def test_trouble_names_the_fix(seen):
    pipe, encoded, answer = seen
    with pytest.raises(BadSelection, match="knockout"):
        qformer_viz.explain(pipe, encoded, answer, "magic", baseline=encoded.queries)
    with pytest.raises(BadSelection, match="cross-attention layer"):
        qformer_viz.explain(pipe, encoded, answer, layer=1, baseline=encoded.queries)
    with pytest.raises(BadSelection, match="observe"):
        blind = dataclasses.replace(encoded, capture=None)
        qformer_viz.explain(pipe, blind, answer, baseline=encoded.queries)
    with pytest.raises(qformer_viz.errors.QuestionError):
        make_scorer(pipe, encoded, dataclasses.replace(answer, token_ids=(), tokens=()))


@pytest.mark.slow
def test_explaining_runs_no_vit_and_keeps_no_graph(seen):
    pipe, encoded, answer = seen
    reference_activations(pipe, encoded.question)
    calls = []
    handle = pipe.model.vision_model.register_forward_hook(lambda *_: calls.append(1))
    found = [
        qformer_viz.explain(pipe, encoded, answer, name, baseline=encoded.queries.clone()) for name in METHODS
    ]
    handle.remove()
    assert not calls
    for each in found:
        assert each.scores.shape[::2] == (len(each.words), each.grid[0] * each.grid[1])
        assert not each.scores.requires_grad and each.scores.device.type == "cpu"
        assert each.image_gain.abs().max() < 1e-4 and not each.visual.any()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["blip2-emoji", "instructblip-emoji"])
def test_on_scenes_the_words_point_at_their_objects(name):
    """Of the objects' words, by knock-out, nine of ten have their peak in the object or the cell beside it; what a
    wrong image's masks would give is far less."""
    pipe = qformer_viz.load(name, observe=qformer_viz.capture)
    hits, wrong, function = [], [], []
    scenes = [random_scene(seed, max_objects=2) for seed in range(61_000, 61_040)]
    for index, scene in enumerate(scenes):
        encoded = pipe.encode(render(scene).image)
        found = qformer_viz.explain(pipe, encoded, pipe.caption(encoded))
        for word, patches, visual in zip(found.words, found.patches, found.visual.tolist(), strict=True):
            named = [item.noun for item in scene.objects]
            if word in named:
                assert visual, word
                at = divmod(int(patches.argmax()), found.grid[1])
                hits.append(near(at, scene, word))
                wrong.append(near(at, scenes[index - 1], None))
            elif word == "of":
                function.append(visual)
    print(name, f"pointing {np.mean(hits):.3f} of {len(hits)}, wrong image {np.mean(wrong):.3f}")
    assert len(hits) > 30 and np.mean(hits) >= 0.9 and np.mean(wrong) < 0.6
    assert function and not any(function)


def near(at, scene, noun):
    """Whether a cell or one beside it shows the noun (None: any object)."""
    drawn = render(scene)
    masks = [m for m, item in zip(drawn.masks, scene.objects, strict=True) if noun in (None, item.noun)]
    (row, column), side = at, 14
    rows = slice(max(0, row - 1) * side, (row + 2) * side)
    return bool(np.any(masks, axis=0)[rows, max(0, column - 1) * side : (column + 2) * side].any())
