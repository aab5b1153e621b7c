"""The doctor: healthy on what works, and each fault it is there for is found."""

import dataclasses
import json
import re

import pytest
import torch

import qformer_viz
from qformer_viz.attribution import reference_activations as references
from qformer_viz.attribution.reference_activations import reference_activations
from qformer_viz.cli import dispatch as cli
from qformer_viz.cli.backend import backend
from qformer_viz.errors import UserError
from qformer_viz.evaluation import doctor
from qformer_viz.media.image_decoder import decode
from tests.support import fake_checkpoints as fakes
from tests.support.fake_checkpoints import FAMILIES, picture


@pytest.fixture
def pipe():
    return fakes.pipeline("blip2", "opt", observe=qformer_viz.capture)


def examine(pipe):
    return doctor.examine(lambda: pipe, decode(picture(5)).image)


def failed(report):
    return [what for what, holds, _ in report.checks if not holds]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "language"), FAMILIES)
def test_what_can_be_checked_holds_on_every_family(family, language):
    report = examine(fakes.pipeline(family, language, observe=qformer_viz.capture))
    # Random weights have little to say of an image.
    assert set(failed(report)) <= {"the image matters"}
    assert len(report.checks) == 13 and set(report.times) >= {"loading", "caption", "all query knock-outs"}
    text = report.text()
    assert "| recorded maps are the library's own | ok |" in text and "| family | " + family in text


@pytest.mark.slow
def test_maps_that_are_not_the_librarys_are_found(pipe, monkeypatch):
    own = doctor.library_attention
    monkeypatch.setattr(doctor, "library_attention", lambda *args: own(*args).flip(-1))
    report = examine(pipe)
    assert "recorded maps are the library's own" in failed(report) and not report.healthy
    assert "Some checks FAIL" in report.text()


@pytest.mark.slow
def test_words_that_score_otherwise_are_found(pipe, monkeypatch):
    caption = pipe.caption
    monkeypatch.setattr(
        pipe,
        "caption",
        lambda *a: dataclasses.replace(caption(*a), logprobs=tuple(v - 1 for v in caption(*a).logprobs)),
    )
    assert "words score as they were said" in failed(examine(pipe))


def test_an_image_that_says_nothing_and_an_empty_caption_are_found(pipe, monkeypatch):
    nothing = reference_activations(pipe)._replace(queries=pipe.encode(picture(5)).queries)
    monkeypatch.setattr(references, "reference_activations", lambda *_: nothing)
    assert "the image matters" in failed(examine(pipe))
    caption = pipe.caption
    monkeypatch.setattr(
        pipe,
        "caption",
        lambda *a: dataclasses.replace(
            caption(*a), text="", tokens=(), token_ids=(), logprobs=(), finish="empty"
        ),
    )
    assert failed(examine(pipe)) == ["the caption has words"]


def test_maps_that_do_not_sum_to_one_or_are_not_finite_are_found(pipe, monkeypatch):
    encoded = pipe.encode(picture(5))
    capture = encoded.capture
    for factor, what in ((1.1, "every map sums to one"), (float("nan"), "maps and queries are finite")):
        broken = dataclasses.replace(capture, cross_attention=capture.cross_attention * factor)
        seen = dataclasses.replace(encoded, capture=broken)
        monkeypatch.setattr(pipe, "encode", lambda *_, seen=seen: seen)
        monkeypatch.setattr(
            doctor, "library_attention", lambda *_, broken=broken: broken.cross_attention[:, 0]
        )
        report = doctor.Report()
        doctor._capture(report, pipe, seen)
        assert what in failed(report)


@pytest.mark.slow
def test_the_command_on_the_bundled_model(capsys):
    assert cli.main(["doctor"], backend()) == 0
    out = capsys.readouterr().out
    assert (
        "All checks hold" in out
        and "| the image matters | ok |" in out
        and re.search("GB (of main memory|on the GPU)", out)
    )
    assert cli.main(["doctor", "--json", "--image", "assets/examples/cat-and-dog.png"], backend()) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["healthy"] and "cat" in report["facts"]["caption of the photograph"]


def test_a_fault_is_the_exit_status(monkeypatch, capsys):
    found = doctor.Report(checks=[("something", False, "it is broken")])
    monkeypatch.setattr(doctor, "examine", lambda *_: found)
    assert cli.main(["doctor"], backend()) == 1
    assert "FAIL | it is broken" in capsys.readouterr().out


def test_a_checkpoint_that_is_not_there_is_told(capsys):
    assert cli.main(["doctor", "--model", "nowhere"], backend()) == 2
    assert "There is no checkpoint 'nowhere'" in capsys.readouterr().err
    assert issubclass(UserError, Exception) and torch.get_num_threads()
