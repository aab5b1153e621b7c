"""Measures of truth: by hand, and against a planted oracle that must score best and its inverse worst."""

import dataclasses
import json

import numpy as np
import pytest
import torch

import qformer_viz
from model import card_plots
from qformer_viz import BadShape
from qformer_viz.cli import dispatch as cli
from qformer_viz.cli.backend import backend
from qformer_viz.domains.domain_registry import EMOJI_SCENES
from qformer_viz.evaluation import benchmark
from qformer_viz.evaluation.faithfulness import (
    deletion_insertion,
    dilate,
    lift,
    mass,
    pointing,
    spearman,
    steps,
)
from qformer_viz.ui.conversation import Session
from qformer_viz.ui.inspector import word_evidence_view
from tests.support.conversing import ask, looked
from tests.support.fakes_ui import fake_services

MASK = torch.zeros(6, 6, dtype=torch.bool)
MASK[1:3, 1:3] = True


def one(row, column):
    patches = torch.zeros(6, 6)
    patches[row, column] = 1
    return patches


def test_pointing_allows_one_cell_and_counts_ties_by_their_share():
    assert [pointing(one(*at), MASK) for at in ((1, 1), (3, 3), (0, 0), (4, 3), (5, 5))] == [1, 1, 1, 0, 0]
    assert pointing(torch.ones(6, 6), MASK) == pytest.approx(16 / 36)
    assert pointing(one(1, 1) + one(5, 5), MASK) == 0.5
    assert dilate(MASK).sum() == 16


def test_lift_is_one_by_chance_and_negative_weight_does_not_count():
    assert lift(torch.ones(6, 6), MASK) == pytest.approx(1)
    assert lift(MASK.float(), MASK) == pytest.approx(9)
    assert lift(MASK.float() - 5 * (~MASK).float(), MASK) == pytest.approx(9)
    assert lift(-torch.ones(6, 6), MASK) == 0


def test_mass_is_the_share_inside():
    assert mass(torch.ones(6, 6), MASK) == pytest.approx(4 / 36)
    assert mass(one(1, 1) + 3 * one(5, 5) - one(0, 0), MASK) == 0.25
    assert mass(-torch.ones(6, 6), MASK) == 0


def test_steps_take_the_greatest_first():
    top = steps(torch.tensor([[3.0, 1.0], [2.0, 4.0]]), (0, 0.25, 0.5, 1))
    assert top.tolist() == [[0, 0, 0, 0], [0, 0, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1]]


def test_deletion_and_insertion_by_hand():
    """The word is worth the share of four weighted patches that is shown."""
    weight = torch.tensor([0.4, 0.3, 0.2, 0.1])
    patches = weight.view(2, 2)

    def score(keep):
        return 10 * (keep.float() @ weight) - 7

    fractions = (0, 0.25, 0.5)
    inserted = ((0 + 0.4) / 2 * 0.25 + (0.4 + 0.7) / 2 * 0.25) / 0.5
    assert deletion_insertion(patches, score, fractions) == pytest.approx((1 - inserted, inserted))
    worst = deletion_insertion(-patches, score, fractions)
    assert worst[0] > 1 - inserted and worst[1] < inserted


def test_the_planted_oracle_scores_best_and_its_inverse_worst():
    def score(keep):
        return keep[:, MASK.flatten()].float().mean(1)

    maps = benchmark.controls(MASK, torch.Generator().manual_seed(1))
    found = {title: deletion_insertion(patches, score) for title, patches in maps.items()}
    by_deletion = sorted(found, key=lambda title: found[title][0])
    by_insertion = sorted(found, key=lambda title: -found[title][1])
    for order in (by_deletion, by_insertion):
        assert order[0].startswith("control: the true mask") and order[-1] == "control: its inverse"
    rim = maps["control: the true mask and its rim"]
    assert rim[MASK].min() > rim[~MASK].max() > 0 and rim.sum() == pytest.approx(MASK.sum().item(), abs=0.1)


def test_shapes_that_do_not_fit_are_refused():
    for patches, mask in ((torch.ones(5, 5), MASK), (torch.ones(6, 6), torch.zeros_like(MASK))):
        with pytest.raises(BadShape, match="same grid"):
            pointing(patches, mask)


def test_intervals_hold_the_mean():
    mean, low, high = benchmark.interval([0.0, 1.0] * 50)
    assert mean == 0.5 and 0.38 < low < 0.45 and 0.55 < high < 0.62


def test_intervals_are_over_images():
    """Four equal words of an image tell no more than one: the interval is that of the images."""
    values = [0.0, 1.0] * 25
    alone = benchmark.interval(values)
    four = benchmark.interval([v for v in values for _ in range(4)], [i for i in range(50) for _ in range(4)])
    assert four == pytest.approx(alone)
    assert benchmark.interval([v for v in values for _ in range(4)])[1] > alone[1] + 0.03


def test_an_object_that_cannot_be_seen_has_no_truth(monkeypatch):
    from qformer_viz.domains.emoji import ground_truth as module
    from qformer_viz.domains.emoji.scenes import random_scene as draw

    def covered(seed):
        scene = draw(seed, min_objects=1, max_objects=1)
        front = dataclasses.replace(scene.objects[0], noun="cat" if scene.objects[0].noun != "cat" else "dog")
        return dataclasses.replace(
            scene, objects=(dataclasses.replace(scene.objects[0], size=2.0, x=900.0), front)
        )

    monkeypatch.setattr(module, "random_scene", covered)
    assert all(len(found["masks"]) == len(found["without"]) == 1 for found in EMOJI_SCENES.ground_truth(3))


def test_truths_differ_only_where_the_object_was():
    found = next(truth for truth in EMOJI_SCENES.ground_truth(20) if len(truth["masks"]) > 1)
    whole = np.asarray(found["image"], int)
    for noun, mask in found["masks"].items():
        changed = (np.abs(whole - np.asarray(found["without"][noun], int)).sum(-1) > 30).reshape(
            16, 14, 16, 14
        )
        changed = changed.mean((1, 3)) > 0.25
        near = dilate(torch.from_numpy(mask)).numpy()
        assert changed.any() and not (changed & ~near).any(), noun
    assert (np.asarray(found["empty"], int) != whole).any()


@pytest.mark.slow
def test_the_benchmark_on_the_bundled_model(capsys, tmp_path):
    """On a few scenes: the default method beats raw attention, and the controls keep their order."""
    asked = ["faithfulness", "--scenes", "8", "--json", "--methods", "knockout", "raw", "gradient"]
    file = tmp_path / "faithfulness.json"
    assert cli.main([*asked, "--out", str(file)], backend()) == 0
    printed = json.loads(capsys.readouterr().out)
    rows = printed["rows"]
    assert list(rows)[:5] == [
        "Query knock-out, mean of layers",
        "Query knock-out, layer 4",
        "Raw attention, mean of layers",
        "Raw attention, layer 4",
        "Gradient × attention",
    ]
    assert all(len(row[m]) == len(printed["images"][m]) for row in rows.values() for m in row)
    assert printed["images"]["pointing"] == sorted(printed["images"]["pointing"])
    # Two words of one image have different maps; “a” says nothing of the image.
    assert printed["likeness"] and np.mean(printed["likeness"]) < 0.5
    assert np.mean(np.asarray(printed["gains"]["a"]) < 0.5) > 0.8
    assert "| Gradient × attention | " in printed["text"] and "“a”, " in printed["text"]
    written = json.loads(file.read_text())
    for title, row in rows.items():
        assert written["summary"][title]["pointing"][0] == pytest.approx(np.mean(row["pointing"]))
    counted = {measure: len(images) for measure, images in printed["images"].items()}
    assert (
        written["counted"] == counted and written["cases"] == counted["pointing"] and written["scenes"] == 8
    )
    drawn = card_plots.truth(written, tmp_path / "faithfulness.svg").read_text()
    assert "Gradient × attention" in drawn and "control: even" in drawn and "deletion" in drawn
    mean = {title: {m: np.mean(v) for m, v in row.items()} for title, row in rows.items()}
    best, raw = mean["Query knock-out, layer 4"], mean["Raw attention, layer 4"]
    assert len(rows["control: even"]["pointing"]) >= 8
    assert best["pointing"] >= 0.9 and best["lift"] > 2 * raw["lift"] and best["redrawn"] > raw["redrawn"]
    oracle, inverse, even = (mean[f"control: {name}"] for name in ("the true mask", "its inverse", "even"))
    assert (
        oracle["pointing"] == 1 and inverse["pointing"] < 0.3 and even["lift"] == pytest.approx(1, abs=1e-3)
    )
    assert oracle["deletion"] < 0.5 < inverse["deletion"] and oracle["redrawn"] > 3 > inverse["redrawn"]


def test_rank_correlation():
    a = torch.tensor([[1.0, 5.0], [2.0, 9.0]])
    assert spearman(a, a**3) == pytest.approx(1)
    assert spearman(a, -a) == pytest.approx(-1)
    assert spearman(a, torch.ones(2, 2)) == 0
    # Ties share their rank: 1, 2.5, 2.5, 4 against 1, 2, 3, 4.
    expected = np.corrcoef([1, 2.5, 2.5, 4], [1, 2, 3, 4])[0, 1]
    assert spearman(torch.tensor([0.0, 1, 1, 2]), torch.arange(4.0)) == pytest.approx(expected)


def test_a_model_of_noise_has_other_maps(capsys):
    assert cli.main(["faithfulness", "--scenes", "4", "--sanity", "--json"], backend()) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert next(iter(rows)) == "projection" and len(rows) == 7
    assert abs(np.mean(list(rows.values())[-1])) < 0.3


def test_a_method_of_ones_own_is_in_page_api_and_benchmark(monkeypatch, tmp_path):
    """Thirty lines at most: a function and an entry of METHODS."""

    def corner(case):
        scores = torch.zeros(len(case.words), 1, case.capture.cross_attention.shape[-1] - 1)
        scores[..., 0] = 1
        return scores, "It always names the corner."

    mine = qformer_viz.Method(
        "corner", "The corner", corner, "corners", "The corner.", "Anything else.", layered=False
    )
    monkeypatch.setitem(qformer_viz.METHODS, "corner", mine)
    services = fake_services()
    session = ask(services, looked(services, Session(), tmp_path), "what?")
    shown = json.loads(word_evidence_view.message_and_view(services, session)[1])["methods"][-1]
    assert shown["title"] == "The corner" and shown["patches"][1][0][:2] == [1, 0]
    assert shown["notes"][1] == "It always names the corner."
    pipe = qformer_viz.load("blip2-emoji", observe=qformer_viz.capture)
    scenes = [
        benchmark.Truth(**t | {"masks": {n: torch.from_numpy(m) for n, m in t["masks"].items()}})
        for t in EMOJI_SCENES.ground_truth(3)
    ]
    rows = benchmark.run(pipe, scenes, ["corner"]).rows
    assert max(rows["The corner"]["pointing"]) == 0 and "control: even" in rows
