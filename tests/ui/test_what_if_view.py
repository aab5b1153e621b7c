"""The What if tab without a browser."""

import json
import re
from dataclasses import replace

import pytest
from PIL import Image

from qformer_viz.ui.conversation import Session
from qformer_viz.ui.inspector import what_if_view
from tests.support.conversing import CELLS, ask
from tests.support.fakes_ui import GREEN, GRID, QUERIES, fake_services, pictured


@pytest.fixture
def scene(services, session):
    """The same conversation about an image whose objects are known."""
    return replace(session, encoded=pictured(session.encoded, Image.new("RGB", (40, 30), GREEN)))


def queries(services, session, numbers, how=what_if_view.AWAY):
    return what_if_view.run_change(what_if_view.without_queries, services, session, numbers, how)


def patches(services, session, data):
    return what_if_view.run_change(what_if_view.without_patches, services, session, data)


def objects(services, session, *chosen):
    return what_if_view.run_change(what_if_view.redrawn, services, session, *chosen)


def losses(told):
    return [float(value.replace("+", "")) for _, value in re.findall(CELLS, told)]


def test_an_answer_without_some_queries_beside_the_old_one(services, session):
    told = queries(services, session, f"2, {QUERIES - 1}")
    assert "With 2 of 8 queries" in told and "you asked what is it?" in told
    assert "changed &lt;i&gt;answer" in told and "<i>" not in told
    assert [word for word, _ in re.findall(CELLS, told)] == ["you", "asked", "what", "is", "it?"]
    assert losses(told) == [0, 0, -1, 0, 0]


def test_the_question_is_asked_again_after_the_same_turns(services, session):
    queries(services, ask(services, session, "next?"), "1")
    assert services.chat_model.pipe.asked[-1][:2] == ("next?", (("what is it?", "you asked what is it?"),))


def test_keeping_only_some_takes_the_others_away(services, session):
    told = queries(services, session, "2", what_if_view.KEEP)
    assert "With 7 of 8 queries" in told and losses(told) == [0, -1, 0, -1, -1]


@pytest.mark.parametrize("numbers", ["", "8", "-1", "one", "1; two", "9" * 5000, "0000001234567", "²", None])
def test_queries_that_do_not_exist_are_told(services, session, numbers):
    assert "0 to 7" in queries(services, session, numbers)


def test_hidden_patches(services, session):
    told = patches(services, session, {"patches": [2, 4, 15], "where": "qformer"})
    assert "With 3 of 16 patches hidden from the Q-Former:" in told and losses(told) == [0, 0, -1, 0, -1]
    assert "changed" not in told
    told = patches(services, session, {"patches": [2], "where": "vit"})
    assert "hidden from the ViT:" in told and "changed &lt;i&gt;answer" in told


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {"patches": [], "where": "vit"},
        {"patches": [16], "where": "vit"},
        {"patches": [-1], "where": "vit"},
        {"patches": ["1"], "where": "vit"},
        {"patches": [True], "where": "vit"},
        {"patches": [1.0], "where": "vit"},
        {"patches": 3, "where": "vit"},
        {"patches": [1], "where": "nowhere"},
        {"patches": [1], "where": ["vit"]},
        {"patches": [1]},
    ],
)
def test_what_a_client_paints_is_checked(services, session, data):
    assert "Paint at least one patch" in patches(services, session, data)


def test_an_object_taken_out_or_moved(services, scene):
    before = services.chat_model.pipe.encoded
    told = objects(services, scene, "dog", what_if_view.REMOVE, "middle")
    assert "Without the dog:" in told and told.count("<img src='data:image") == 2
    assert services.chat_model.pipe.encoded == before + 1
    told = objects(services, scene, "cat", what_if_view.MOVE, "top right")
    assert "With the cat moved to the top right:" in told and "the scene drawn again" in told


def test_what_cannot_be_drawn_is_told(services, session, scene):
    assert "not known" in objects(services, session, "dog", what_if_view.REMOVE, "middle")
    for chosen in (
        ("cow", what_if_view.REMOVE, "middle"),
        (None, what_if_view.REMOVE, "middle"),
        ("cat", what_if_view.MOVE, "up"),
    ):
        assert "Choose an object" in objects(services, scene, *chosen)


def test_no_answer_to_change_is_told(services, session, scene):
    asked = [
        (queries, ("1",)),
        (patches, ({"patches": [1], "where": "vit"},)),
        (objects, ("cat", what_if_view.REMOVE, "top")),
    ]
    for change, chosen in asked:
        assert "no image yet" in change(services, Session(), *chosen)
        assert "no finished answer" in change(services, replace(scene, answer=None), *chosen)


def test_the_painter_gets_the_picture_and_the_list_its_objects(services, session, scene):
    picture, named, listed = what_if_view.shown(services, session)
    (frame,) = json.loads(picture)["frames"]
    assert json.loads(picture)["grid"] == list(GRID) and frame["src"].startswith("data:")
    assert listed["choices"] == [] and listed["value"] is None and "frame" not in named["placeholder"]
    assert what_if_view.shown(services, scene)[2]["value"] == "cat"
    assert what_if_view.shown(services, Session())[0] == ""
    plain = fake_services(scene_maker=None)
    assert len(what_if_view.shown(plain, session)) == 2
