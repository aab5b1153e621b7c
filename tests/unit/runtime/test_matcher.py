"""Matching: the library's own figures, per query, text-conditioned maps, nothing computed twice."""

import pytest
import torch
from PIL import Image

import qformer_viz
from qformer_viz.errors import CheckpointError, QuestionError
from qformer_viz.runtime.checkpoints import Checkpoint
from qformer_viz.runtime.matcher import MAX_CANDIDATES, Matcher
from tests.support import fake_checkpoints as fakes

PICTURE = Image.effect_noise((40, 30), 80).convert("RGB")
OTHER = Image.new("RGB", (40, 30), (10, 200, 60))


def matcher(*, placeholders=False, **options):
    made, processor = fakes.retrieval(placeholders=placeholders)
    return Matcher(Checkpoint(id="fake", title="fake", family="retrieval"), made, processor, **options)


@pytest.mark.parametrize("placeholders", [False, True])
def test_figures_are_those_of_the_library(placeholders):
    ours = matcher(placeholders=placeholders)
    found = ours.match(PICTURE, "a cat above a dog")
    inputs = ours.processor(images=PICTURE, text="a cat above a dog", return_tensors="pt")
    with torch.no_grad():
        similar = ours.model(**inputs).logits_per_image
        votes = ours.model(**inputs, use_image_text_matching_head=True).logits_per_image
    assert found.similarity == pytest.approx(similar.item(), abs=1e-5) == max(found.similarities)
    assert found.probability == pytest.approx(votes.softmax(-1)[0, 1].item(), abs=1e-5)
    assert len(found.similarities) == len(found.probabilities) == fakes.QUERIES
    assert min(found.probabilities) <= found.probability <= max(found.probabilities)


def test_a_text_that_looks_like_markup_stays_text():
    ids, _ = matcher()._tokens("</s>")
    assert len(ids[0]) == 1 + len("</s>") and ids[0, 1:].min() >= len(fakes.SPECIALS)


def test_maps_of_the_matching_pass_depend_on_the_text():
    ours = matcher(observe=qformer_viz.capture)
    one, two = (ours.match(PICTURE, text).capture for text in ("a cat", "three buses"))
    assert one.cross_attention.shape == two.cross_attention.shape
    assert one.cross_attention.shape[-2:] == (fakes.QUERIES, 5)
    assert not torch.allclose(one.cross_attention, two.cross_attention, atol=1e-4)


def test_nothing_is_computed_twice():
    ours, passes = matcher(), []
    ours.model.vision_model.register_forward_hook(lambda *_: passes.append("vit"))
    ours.model.itm_head.register_forward_hook(lambda *_: passes.append("match"))
    first = ours.match(PICTURE, "a cat")
    assert ours.match(PICTURE.copy(), " a  cat ") is first
    ours.match(PICTURE, "a dog")
    assert passes == ["vit", "match", "match"]
    ours.match(OTHER, "a cat")
    assert passes.count("vit") == 2
    ours.forget()
    assert ours.match(PICTURE, "a cat") is not first


def test_candidates_are_ranked_by_probability():
    ours = matcher()
    texts = ["a cat", "a dog", "three buses", "nothing at all", "x"]
    ranked = ours.rank(PICTURE, texts)
    assert sorted(match.text for match in ranked) == sorted(texts)
    assert [m.probability for m in ranked] == sorted((m.probability for m in ranked), reverse=True)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "0 candidate"),
        (["x"] * (MAX_CANDIDATES + 1), "give 1 to"),
        (["a", " "], "is empty"),
        (["w" * 900], "Shorten"),
    ],
)
def test_bad_candidates_are_refused_with_the_reason(texts, message):
    with pytest.raises(QuestionError, match=message):
        matcher().rank(PICTURE, texts)


def test_loading_a_folder_and_mixing_up_the_kinds(tmp_path):
    fakes.save(tmp_path / "itm", "retrieval")
    fakes.save(tmp_path / "blip2", "blip2")
    loaded = qformer_viz.load_matcher(tmp_path / "itm")
    same = loaded.match(PICTURE, "a cat").probability
    assert same == pytest.approx(matcher().match(PICTURE, "a cat").probability, abs=1e-6)
    assert loaded.checkpoint.family == "retrieval" and not any(
        p.requires_grad for p in loaded.model.parameters()
    )
    half = qformer_viz.load_matcher(tmp_path / "itm", dtype="bfloat16")
    assert half.match(PICTURE, "a cat").probability == pytest.approx(same, abs=0.05)
    with pytest.raises(CheckpointError, match="load_matcher"):
        qformer_viz.load(tmp_path / "itm")
    with pytest.raises(CheckpointError, match="no matching head"):
        qformer_viz.load_matcher(tmp_path / "blip2")
