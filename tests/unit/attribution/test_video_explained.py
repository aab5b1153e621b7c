"""Films taken apart: every method by frame, and the verdict over all frames."""

import pytest
import torch

import qformer_viz
from qformer_viz.attention_maps import patches, select
from qformer_viz.attribution.explanation import attribute, explain, prepare
from qformer_viz.attribution.methods import integrated_gradients
from qformer_viz.attribution.methods.knockout import ends
from qformer_viz.attribution.reference_activations import reference_activations
from qformer_viz.attribution.scorer import make_scorer
from qformer_viz.evaluation.assessment import MAP, assess
from qformer_viz.evaluation.faithfulness import steps
from qformer_viz.types import Decoding
from tests.support import checkpoint_factory as factory
from tests.support.films import FILM, FILM_KINDS, SHORT


@pytest.mark.slow
@pytest.mark.parametrize("kind", FILM_KINDS)
def test_knock_out_takes_a_film_apart_frame_by_frame(pipes, kind):
    pipe = pipes[kind]
    encoded, answer = pipe.encode(FILM), pipe.caption(FILM, Decoding(max_new_tokens=6))
    assert answer.token_ids
    found = explain(pipe, encoded, answer)
    rows, columns = found.grid
    assert found.scores.shape == (len(found.words), 4 * factory.QUERIES, rows * columns)
    assert found.by_frame.shape == (len(found.words), 4, rows, columns) and found.cls.shape == (
        4 * factory.QUERIES,
    )
    # Query 1 of the third frame, by hand.
    at = 2 * factory.QUERIES + 1
    changed = encoded.queries.clone()
    changed[:, at] = reference_activations(pipe, encoded.question).queries[:, 1]
    scorer = make_scorer(pipe, encoded, answer)
    was, now = scorer.score(torch.cat([encoded.queries, changed]))
    torch.testing.assert_close(found.queries[:, at], was - now, atol=1e-4, rtol=1e-3)
    looked = patches(select(encoded.capture.cross_attention, 1))[2, 1]
    torch.testing.assert_close(found.scores[:, at], found.queries[:, at, None] * looked)
    third = found.scores[:, 2 * factory.QUERIES : 3 * factory.QUERIES].sum(1).unflatten(-1, found.grid)
    torch.testing.assert_close(found.by_frame[:, 2], third)
    torch.testing.assert_close(found.patches, found.by_frame.sum(1))


@pytest.mark.slow
@pytest.mark.parametrize("kind", FILM_KINDS)
def test_every_method_takes_a_film_apart(pipes, kind):
    """Each frame as it would be alone: its own maps and values, its own patches hidden, its own share of the whole."""
    pipe = pipes[kind]
    encoded, answer = pipe.encode(FILM), pipe.caption(FILM, Decoding(max_new_tokens=6))
    case = prepare(pipe, encoded, answer)
    count, word = factory.QUERIES, len(case.scorer.words) - 1
    found = {name: attribute(case, name, words=[word]) for name in qformer_viz.METHODS}
    rows = case.capture.grid[0] * case.capture.grid[1]
    for name, each in found.items():
        per_frame = 1 if name in ("occlusion", "rise", "integrated") else count
        assert each.scores.shape == (1, 4 * per_frame, rows) and each.of_queries == (per_frame > 1), name
        assert each.scores.isfinite().all() and each.by_frame.shape == (1, 4, *case.capture.grid), name
    shares = found["raw"].queries[0]
    for frame, picture in enumerate(FILM):
        alone = prepare(pipe, pipe.encode(picture), answer)
        own = slice(frame * count, frame * count + count)
        looked = patches(select(alone.capture.cross_attention, 1))[0]
        torch.testing.assert_close(
            found["raw"].scores[0, own], shares[own, None] * looked, atol=1e-6, rtol=1e-4
        )
        for name in ("norm_based", "rollout"):
            single = attribute(alone, name, words=[word])
            of_map = single.scores[0] / attribute(alone, "raw", words=[word]).queries[0][:, None]
            torch.testing.assert_close(
                found[name].scores[0, own], shares[own, None] * of_map, atol=1e-6, rtol=1e-3
            )
        # The second patch of this frame hidden, by hand.
        keep = torch.ones(rows, dtype=torch.bool)
        keep[1] = False
        changed = encoded.queries.clone()
        changed[:, own] = pipe.hidden(pipe.encode(picture), keep).queries
        was, now = case.scorer.score(torch.cat([encoded.queries, changed]))[:, word]
        torch.testing.assert_close(found["occlusion"].scores[0, frame, 1], was - now, atol=1e-4, rtol=1e-3)
    start = reference_activations(pipe, encoded.question).features.expand_as(encoded.vision)
    blank = case.scorer.score(case.scorer._queries(start[None]))[0, word]
    brought = (ends(case)[0, word] - blank).item()
    coarse, fine = (
        integrated_gradients.integrated(
            lambda v: case.scorer.feature_gradients(word, v), start, encoded.vision, points
        )
        for points in (integrated_gradients.POINTS, 256)
    )
    torch.testing.assert_close(
        found["integrated"].scores[0], coarse[0][:, 1:], atol=1e-5, rtol=1e-3
    )  # no CLS
    shares, error = fine
    assert shares.shape == (4, rows + 1) and abs(error) < max(0.02, 0.1 * abs(brought))
    assert shares.sum().item() - error == pytest.approx(brought, abs=1e-3)


@pytest.mark.parametrize("kind", FILM_KINDS)
def test_slopes_of_a_film_are_those_of_its_score(pipes, kind):
    pipe = pipes[kind]
    encoded, answer = pipe.encode(FILM), pipe.caption(FILM, Decoding(max_new_tokens=6))
    scorer = make_scorer(pipe, encoded, answer)
    found = scorer.attention_gradients(0)
    capture = encoded.capture
    torch.testing.assert_close(found.cross, capture.cross_attention, atol=1e-5, rtol=1e-4)
    assert found.queries.shape == encoded.queries.shape[1:]
    assert found.cross_gradient.abs().flatten(2).amax((0, 2)).min() > 0  # every frame counts
    step = 1e-2 * found.queries / found.queries.norm()
    up, down = scorer.score(torch.cat([encoded.queries + step, encoded.queries - step]))[:, 0]
    torch.testing.assert_close((up - down) / 2, (found.queries * step).sum(), atol=1e-4, rtol=0.02)


def test_rise_hides_every_frame_by_masks_of_its_own(pipes, monkeypatch):
    pipe = pipes["instructblip-vicuna"]
    case = prepare(pipe, pipe.encode(FILM), pipe.caption(FILM, SHORT))
    shown, asked = case.scorer.shown, []
    monkeypatch.setattr(
        case.scorer, "shown", lambda keep, on_progress: asked.append(keep) or shown(keep, on_progress)
    )
    attribute(case, "rise")
    keep = asked[0][..., 1:].float()
    alike = torch.corrcoef(keep.transpose(0, 1).flatten(1)) - torch.eye(4)
    assert alike.abs().max() < 0.2 and (keep.mean((0, 2)) - 0.5).abs().max() < 0.1


def test_a_map_of_a_film_is_judged_in_all_frames(pipes):
    pipe = pipes["instructblip-vicuna"]
    encoded, answer = pipe.encode(FILM), pipe.caption(FILM, SHORT)
    case = prepare(pipe, encoded, answer)
    found = attribute(case, "knockout")
    verdict = assess(case, found, 0)
    whole = ends(case)[0, 0].item()
    assert verdict.deletion[MAP][0] == pytest.approx(whole, abs=1e-4)
    # The half of all frames' patches that weigh most, hidden by hand.
    top = steps(found.by_frame[0], (0.5,))[0].view(4, -1)
    changed = torch.cat([pipe.hidden(pipe.encode(f), ~t).queries for f, t in zip(FILM, top, strict=True)], 1)
    half = verdict.deletion[MAP][verdict.fractions.index(0.5)]
    assert half == pytest.approx(case.scorer.score(changed)[0, 0].item(), abs=1e-4)
