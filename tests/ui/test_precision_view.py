"""The Precision tab without a browser, and what app.py offers in it."""

from dataclasses import replace

import pytest
import torch

from qformer_viz.cli import app_setup
from qformer_viz.cli.commands import app_command
from qformer_viz.ui.conversation import Session
from qformer_viz.ui.inspector import precision_view
from tests.support import fake_checkpoints as fakes
from tests.support.conversing import looked
from tests.support.fakes_ui import FakeError, FakePipeline, fake_capture, fake_choice, fake_services


class Coarse(FakePipeline):
    """Another precision: other maps, and a word more."""

    def encode(self, image, question=None):
        found = super().encode(image, question)
        return replace(found, capture=fake_capture(99))

    def _answer(self, text, finish):
        return super()._answer(text + " coarse", finish)


@pytest.fixture
def services():
    def fail():
        raise FakeError("This does not fit. Take 4bit.")

    return fake_services(precisions={"8bit": Coarse, "float32": FakePipeline, "huge": fail})


def test_the_same_weights_change_nothing(services, session):
    told, plot = precision_view.compared(services, session, "float32")
    assert "float32 against what the page runs (float32), this image:" in told
    assert "<dt>Captions</dt><dd>100%</dd>" in told and "<dt>Answers</dt><dd>100%</dd>" in told
    assert "<dt>Strongest patches</dt><dd>100.0%</dd>" in told
    assert not any(map(any, plot["value"].data[0].z)) and plot["visible"]


def test_another_precision_is_measured(services, session):
    told, plot = precision_view.compared(services, session, "8bit")
    assert "<dt>Captions</dt><dd>0%</dd>" in told and "<dt>Answers</dt><dd>0%</dd>" in told
    assert min(map(min, plot["value"].data[0].z)) > 0.01 and plot["value"].data[0].y[2] == "layer 4"


def test_without_a_question_only_captions_are_compared(services, tmp_path):
    told, _ = precision_view.compared(services, looked(services, Session(), tmp_path), "8bit")
    assert "Captions" in told and "Answers" not in told


def test_trouble_is_told_with_its_fix(services, session):
    assert "no image yet" in precision_view.compared(services, Session(), "8bit")[0]
    assert "Choose a precision" in precision_view.compared(services, session, "2bit")[0]
    assert "Take 4bit" in precision_view.compared(services, session, "huge")[0]
    several = fake_services(**fake_choice(), precisions={"8bit": Coarse})
    other = replace(session, model="Fake InstructBLIP")
    assert "the page opened with" in precision_view.compared(several, other, "8bit")[0]
    assert precision_view.forget()[0] == ""


def test_what_is_offered_are_the_others(monkeypatch):
    args = app_command.app_parser().parse_args([])
    pipe = fakes.pipeline()
    assert list(app_setup.other_precisions(pipe, args)) == ["bfloat16", "8bit", "4bit"]
    pipe.quantization = "8bit"
    assert list(app_setup.other_precisions(pipe, args)) == ["float32", "bfloat16", "4bit"]
    pipe.device = torch.device("cuda")
    assert "float16" in app_setup.other_precisions(pipe, args)
    monkeypatch.setenv("SPACES_ZERO_GPU", "1")
    assert app_setup.other_precisions(pipe, args) == {}


@pytest.mark.slow
def test_a_precision_is_loaded_once():
    first = app_setup.other_precisions(fakes.pipeline(), app_command.app_parser().parse_args([]))["8bit"]
    assert first() is first() and first().quantization == "8bit"
