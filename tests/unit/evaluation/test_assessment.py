"""Verdicts on planted maps: the truth is believed, its inverse is not, and a word from language has none."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import qformer_viz
from qformer_viz import Attribution, BadSelection, Capture, ExplanationContext
from qformer_viz.attribution.explanation import attribute, prepare
from qformer_viz.domains.emoji.scenes import random_scene, render
from qformer_viz.evaluation.assessment import CENTRE, ERASER, FRACTIONS, MAP, RANDOM_ORDER, assess

GRID = (8, 8)
OBJECT = torch.zeros(GRID, dtype=torch.bool)
OBJECT[0:2, 5:8] = True


class Seen:
    """The first word is worth ten times the share of its object that is shown; the second nothing. Query k copies
    patch k."""

    words = ("cat", "of")

    def __init__(self):
        self.queries = torch.ones(1, 64, 1)

    def shown(self, keep, on_progress=None):
        if on_progress is not None:
            on_progress(len(keep), len(keep))
        return self.score(keep[:, 0, 1:, None].float())

    def score(self, queries, on_progress=None):
        shown = queries[:, OBJECT.flatten(), 0].mean(1)
        return torch.stack([10 * shown - 12, torch.zeros(len(queries)) - 1], 1)


@pytest.fixture
def case():
    cross = torch.zeros(1, 1, 1, 64, 65)
    cross[0, 0, 0, :, 1:] = torch.eye(64)
    capture = Capture(
        cross,
        torch.eye(64)[None, None, None],
        torch.zeros(2, 1, 64, 1),
        torch.zeros(64, 1),
        (0,),
        GRID,
        "sdpa",
    )
    return ExplanationContext(Seen(), capture, torch.zeros(1, 64, 1))


def found(patches, method="planted"):
    scores = torch.stack([patches.flatten(), torch.zeros(64)])[:, None]
    ones = torch.ones(2)
    return Attribution(("cat", "of"), scores, -ones, ones, method, 0, torch.zeros(64), GRID, 0.0)


def test_the_truth_is_believed_and_its_inverse_is_not(case):
    true = assess(case, found(OBJECT.float()), 0, OBJECT)
    assert true.better == (True, True) and true.sentence.startswith("✓ Confirmed: ")
    assert (true.pointing, true.mass, true.chance) == (1, 1, pytest.approx(12 / 64))
    # Six patches of 64: a tenth of the image holds them all, one in a hundred only one.
    assert true.comprehensiveness == pytest.approx((10 / 6, 5, 10, 10, 10))
    assert true.sufficiency == pytest.approx((50 / 6, 5, 0, 0, 0), abs=1e-5)
    assert "costs “cat” 10.0 nats" in true.sentence
    assert true.deletion[MAP][0] == -2 and true.deletion[MAP][-1] == -12 == true.insertion[MAP][0]
    assert true.fractions == FRACTIONS and len(true.comprehensiveness) == len(ERASER)
    wrong = assess(case, found(1 - OBJECT.float()), 0, OBJECT)
    assert wrong.better == (False, False) and wrong.sentence.startswith("✗ Not confirmed: ")
    assert wrong.pointing < 0.2 and wrong.mass == 0
    assert wrong.areas[MAP][0] > wrong.areas[RANDOM_ORDER][0] > true.areas[MAP][0]
    assert wrong.areas[CENTRE] == true.areas[CENTRE] and wrong.areas[RANDOM_ORDER] == true.areas[RANDOM_ORDER]


@pytest.mark.parametrize(
    ("lost", "says"),
    [(0.04, "costs “cat” 0.0 nats"), (-0.04, "costs “cat” 0.0"), (-1.2, "brings “cat” 1.2 nats")],
)
def test_a_cost_is_no_gain_and_no_nought_has_a_minus(case, lost, says):
    verdict = assess(case, found(OBJECT.float()), 0, OBJECT)
    assert (
        f"Hiding its strongest tenth {says}"
        in replace(verdict, comprehensiveness=(lost,) * len(ERASER)).sentence
    )


def test_half_a_truth_is_believed_in_part(case):
    """Any three patches of the object are enough. A map that finds three does well shown alone, and badly hidden."""

    def three_of_it(queries, on_progress=None):
        return -12 + 10 * (queries[:, OBJECT.flatten()].sum(1) >= 3).float().expand(-1, 2)

    case.scorer.score = three_of_it
    half = torch.linspace(0.1, 0.2, 64).view(GRID)
    half[OBJECT] = torch.tensor([9.0, 8.0, 7.0, 0.0, 0.0, 0.0])
    told = assess(case, found(half), 0)
    assert told.better == (False, True) and told.pointing is None and told.mass is None
    assert (
        told.sentence.startswith("~ Partly confirmed: ")
        and "when shown alone, but not when hidden" in told.sentence
    )


def test_a_word_that_no_patch_changes_cannot_be_told(case):
    told = assess(case, found(OBJECT.float()), 1)
    assert told.areas is None and told.sentence.startswith("Not testable: ")


def test_agreement_with_knock_out(case):
    same = assess(case, found(OBJECT.float()), 0)
    assert same.agreement == pytest.approx(1) and not same.of_queries
    scores = torch.stack([torch.diag(-OBJECT.float().flatten()), torch.zeros(64, 64)])
    ones = torch.ones(2)
    against = Attribution(("cat", "of"), scores, -ones, ones, "raw", 0, torch.zeros(64), GRID, 0.0)
    told = assess(case, against, 0)
    assert told.agreement == pytest.approx(-1) and told.of_queries
    assert assess(case, attribute(case, "knockout"), 0).agreement is None


def test_a_map_of_one_word_is_found_by_its_word(case):
    one = attribute(case, "knockout", words=[0])
    assert assess(case, one, 0).better == (True, True)
    with pytest.raises(BadSelection, match="explain this word"):
        assess(case, one, 1)


def test_judging_is_told_and_can_be_stopped(case):
    heard = []
    assess(case, found(OBJECT.float()), 0, on_progress=lambda done, of: heard.append((done, of)))
    rows = 2 * len(FRACTIONS) * 7  # the map, the centre and five random orders; hidden and shown
    assert heard == [(rows, rows)]

    def stop(done, of):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        assess(case, found(OBJECT.float()), 0, on_progress=stop)


@pytest.mark.slow
def test_on_the_bundled_model():
    """Knock-out is believed of most objects' words, a random map of none."""
    pipe = qformer_viz.load("blip2-emoji", observe=qformer_viz.capture)
    believed, random = [], []
    make = torch.Generator().manual_seed(0)
    for seed in range(61_000, 61_006):
        scene = random_scene(seed, max_objects=2)
        encoded = pipe.encode(render(scene).image)
        case = prepare(pipe, encoded, pipe.caption(encoded))
        whole = attribute(case)
        noise = torch.rand(whole.scores.shape, generator=make)
        for index, word in enumerate(whole.words):
            if word in {item.noun for item in scene.objects}:
                believed.append(all(assess(case, whole, index).better))
                fake = Attribution(**{**vars(whole), "scores": noise, "method": "noise"})
                random.append(all(assess(case, fake, index).better))
    assert len(believed) >= 6 and np.mean(believed) > 0.7 and np.mean(random) < 0.2
