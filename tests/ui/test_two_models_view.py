"""The Models tab without a browser."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from qformer_viz.ui import conversation, frame_choice, model_picker
from qformer_viz.ui.conversation import Session
from qformer_viz.ui.inspector import two_models_view
from qformer_viz.view.stage_payload import unpack
from tests.support.conversing import ask, looked, say
from tests.support.fakes_ui import CROSS, FakePipeline, fake_capture, fake_choice, fake_services, fake_speaker
from tests.support.page_builder import build

READER = "Fake InstructBLIP"


@pytest.fixture
def services():
    return fake_services(**fake_choice(broken=True))


@pytest.fixture
def session(services, tmp_path):
    return looked(services, Session(), tmp_path)


def test_both_models_see_the_image_and_say_what_it_is(services, session):
    told, view = two_models_view.compared(services, session, READER)
    shown = json.loads(view)
    assert shown["titles"] == ["Fake BLIP-2", READER] and shown["second"] == "the second model"
    assert "The caption:" in told and told.count("picture ") == 2
    one, other = (unpack(maps)[0] for maps in shown["maps"])
    assert np.array_equal(one, other)  # without a question the fakes look alike


def test_the_last_question_is_asked_of_both_after_the_same_turns(services, session):
    session = ask(services, ask(services, session, "what is it?"), "where <i>?")
    told, view = two_models_view.compared(services, session, READER)
    assert "Asked “where &lt;i&gt;?”:" in told and "<i>" not in told and "<" not in view
    second = services.models[READER]().pipe
    for pipe in (services.chat_model.pipe, second):
        assert pipe.asked[-1][:2] == ("where <i>?", (("what is it?", "you asked what is it?"),))
    maps = unpack(json.loads(view)["maps"][1])[0]
    read = second.encode(session.encoded, "where <i>?").capture.cross_attention[:, 0, ..., 1:]
    unread = second.encode(session.encoded).capture.cross_attention[:, 0, ..., 1:]
    assert np.abs(maps - read.numpy()).max() < 0.01 < np.abs(maps - unread.numpy()).max()


def test_a_visitor_of_the_other_model_compares_with_the_first(services, session):
    session = replace(session, model=READER)
    shown = json.loads(two_models_view.compared(services, session, "Fake BLIP-2")[1])
    assert shown["titles"] == [READER, "Fake BLIP-2"]


def test_on_offer_is_every_model_but_the_one_that_speaks(services, session):
    assert model_picker.others(services, session) == [READER, "Broken"]
    assert model_picker.others(services, replace(session, model=READER)) == ["Fake BLIP-2", "Broken"]


def test_trouble_is_told_with_its_fix(services, session):
    for name in ("Fake BLIP-2", "No such"):
        told, view = two_models_view.compared(services, session, name)
        assert "Choose another model" in told and view == ""
    assert "Get it again" in two_models_view.compared(services, session, "Broken")[0]
    assert "no image yet" in two_models_view.compared(services, Session(), READER)[0]


def test_models_of_other_geometry_are_not_laid_over_one_another(services, session):
    class Small(FakePipeline):
        def encode(self, image, question=None):
            few = fake_capture(1)
            few = replace(few, cross_attention=few.cross_attention[:1], cross_layers=CROSS[:1])
            return replace(super().encode(image, question), capture=few)

    models = services.models | {"Small": lambda: fake_speaker(Small())}
    told, view = two_models_view.compared(replace(services, models=models), session, "Small")
    assert "Small has other cross-attention layers" in told and "same architecture" in told and view == ""


def test_the_frame_on_the_canvas_is_compared_where_both_see_it(services, tmp_path):
    frames = [Image.new("RGB", (40, 30), (60 * i, 0, 0)) for i in range(4)]
    path = str(tmp_path / "film.png")
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)
    second = FakePipeline(family="instructblip", name="another reader")
    models = services.models | {"Another": lambda: fake_speaker(second)}
    services = replace(services, models=models)
    session = say(services, conversation.look(services, Session(model=READER), path, path))
    frame_choice.choose(session, 2)
    shown = json.loads(two_models_view.compared(services, session, "Another")[1])
    whole = session.encoded.capture.cross_attention
    for maps in shown["maps"]:
        assert np.abs(unpack(maps)[0] - whole[:, 2, ..., 1:].numpy()).max() < 0.01
    assert "first frame of a film only" in two_models_view.compared(services, session, "Fake BLIP-2")[0]
    frame_choice.choose(session, 0)
    assert two_models_view.compared(services, session, "Fake BLIP-2")[1]


@pytest.mark.slow
def test_the_tab_is_there_where_there_are_two_models(services):
    def ids(page):
        return {block.elem_id for block in page.blocks.values()}

    assert "versus-run" in ids(build(services)) and "versus-run" not in ids(build(fake_services()))
