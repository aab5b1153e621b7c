"""The Questions tab and the picker of models, without a browser."""

import json
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest

from qformer_viz.errors import UserError
from qformer_viz.ui import model_picker
from qformer_viz.ui.conversation import Session
from qformer_viz.ui.inspector import inspector_views, questions_view
from qformer_viz.ui.inspector.view import ViewContext
from qformer_viz.view.stage_payload import unpack
from tests.support.conversing import ask, looked
from tests.support.fakes_ui import FakePipeline, fake_choice, fake_services


@pytest.fixture
def services():
    return fake_services(FakePipeline(family="instructblip"), compares_questions=True)


@pytest.fixture
def session(services, tmp_path):
    return looked(services, Session(), tmp_path)


def test_both_questions_have_their_own_maps_in_their_order(services, session):
    shown = questions_view.maps(services, session, questions_view.CAPTION, "where is it?")
    assert shown["titles"] == [questions_view.CAPTION, "where is it?"]
    pipe, image = services.chat_model.pipe, session.encoded.image
    for payload, question in zip(shown["maps"], (None, "where is it?"), strict=True):
        own = pipe.encode(image, question).capture.cross_attention[:, 0, ..., 1:].numpy()
        assert np.abs(unpack(payload)[0] - own).max() < 0.01
    assert np.abs(unpack(shown["maps"][0])[0] - unpack(shown["maps"][1])[0]).max() > 0.05


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [("x" * 99, "b", "99 characters"), ("a", " a ", "the same"), ("break\n" * 20, "a", "Shorten")],
)
def test_trouble_is_told_with_its_fix(services, session, first, second, says):
    told, view = questions_view.pair(services, session, first, second)
    assert says in told and view == ""


def test_no_image_and_a_model_that_does_not_read_are_told(session):
    reading = fake_services(FakePipeline(family="instructblip"))
    assert "no image yet" in questions_view.pair(reading, Session(), "a", "b")[0]
    assert "does not read the question" in questions_view.pair(fake_services(), session, "a", "b")[0]


def test_what_was_asked_is_offered_and_the_last_two_are_chosen(services, session):
    for question in ("one?", "two?", "one?"):
        session = ask(services, session, question)
    first, second = questions_view.offered(session)
    assert first["choices"] == [questions_view.CAPTION, "one?", "two?"] == second["choices"]
    assert (first["value"], second["value"]) == ("two?", "one?")
    fresh = questions_view.offered(Session())
    assert fresh[0]["value"] == fresh[1]["value"] == questions_view.CAPTION


def test_hostile_questions_close_no_script(services, session):
    _, view = questions_view.pair(services, session, "</script><b>", "b")
    assert "<" not in view and json.loads(view)["titles"][0] == "</script><b>"


def test_a_switch_renews_everything_that_names_the_model(tmp_path):
    services = fake_services(**fake_choice())
    before = looked(services, Session(), tmp_path)
    session, shown, log, header = model_picker.switch(services, before, "Fake InstructBLIP")
    assert services.of(session).pipe.name == "reader" and log == [] and shown == "Fake InstructBLIP"
    assert "Fake &lt;b&gt;model" in header and "other models" in header
    components = defaultdict(lambda: None) | {"controls": [None] * 5}
    context = ViewContext(services, None, None, components)
    steps = {view.id: fn for view in inspector_views() for fn, *_ in view.on_model(context)}
    assert set(steps) == {"heads", "similarity", "statistics", "across", "versus", "about"}
    assert "reads the question" in steps["about"](session)
    assert steps["versus"](session)["choices"] == ["Fake BLIP-2"]
    assert len(steps["similarity"](session)) == 5 and len(steps["heads"](session)) == 3
    assert steps["statistics"](session)["value"] == "mean" and steps["across"](session)[:2] == ("", "")


def test_weights_are_read_before_anything_else_changes(tmp_path, monkeypatch):
    said, read = [], []
    monkeypatch.setattr(model_picker.gr, "Warning", lambda text, **_: said.append(text))
    services = fake_services(**fake_choice(broken=True))
    second = services.models["Fake InstructBLIP"]
    models = services.models | {"Fake InstructBLIP": lambda: read.append(1) or second()}
    services = replace(services, models=models)
    session = looked(services, Session(), tmp_path)
    assert (
        model_picker.load(services, session, "Fake InstructBLIP") == "Fake InstructBLIP" and read and not said
    )
    assert model_picker.load(services, session, "Broken") == "Fake BLIP-2" and "Get it again" in said[0]
    talking = replace(session, model="Fake InstructBLIP")
    assert model_picker.load(services, talking, "Broken") == "Fake InstructBLIP"
    with pytest.raises(UserError, match="not on offer"):
        model_picker.load(services, session, "another")
    # The name that came back is that of the model that speaks: nothing begins anew.
    assert model_picker.switch(services, session, "Fake BLIP-2")[0] is session


def test_a_failed_switch_keeps_the_conversation(tmp_path, monkeypatch):
    services = fake_services(**fake_choice(broken=True))
    before = ask(services, looked(services, Session(), tmp_path), "one?")
    said = []
    monkeypatch.setattr(model_picker.gr, "Warning", lambda text, **_: said.append(text))
    session, shown, log, *_ = model_picker.switch(services, before, "Broken")
    assert shown == "Fake BLIP-2" and session is before and len(log) == 2 and "Get it again" in said[0]
