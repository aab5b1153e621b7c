"""The Why tab without a browser."""

import json
import re
from dataclasses import replace

import pytest

from qformer_viz.attribution import METHODS
from qformer_viz.ui import conversation, why
from qformer_viz.ui.conversation import Session
from tests.fakes_ui import GRID, QUERIES, FakePipeline, fake_services
from tests.test_conversation import ask, looked


@pytest.fixture
def services():
    return fake_services()


@pytest.fixture
def session(services, tmp_path):
    return ask(services, looked(services, Session(), tmp_path), "what is it?")


def test_every_word_with_its_queries_and_patches(services, session):
    told, view = why.told_and_view(services, session, occlude=True)
    shown = json.loads(view)
    assert told == "" and shown["words"] == ["you", "asked", "what", "is", "it?"]
    assert shown["visual"] == [False, True, True, True, True] and shown["gains"] == [0, 1, 1, 1, 1]
    methods = {method["name"]: method for method in shown["methods"]}
    assert list(methods) == list(METHODS)
    for word, row in enumerate(methods["knockout"]["queries"]):
        assert row == [float(word > 0 and q == word) for q in range(QUERIES)]
    assert methods["occlusion"]["queries"] is None
    assert methods["occlusion"]["patches"][2] == [float(p == 2) for p in range(GRID[0] * GRID[1])]
    cross = session.capture.cross_attention[-1, 0].mean(0)[3, 1:]
    assert methods["knockout"]["patches"][3] == pytest.approx((cross / cross.sum()).tolist(), rel=1e-3)


def test_the_slow_method_runs_only_when_asked_for(services, session):
    names = [method["name"] for method in why.words(services, session, occlude=False)["methods"]]
    assert names == ["knockout", "raw"]


def test_trouble_is_told_with_its_fix(services, session):
    assert "no image yet" in why.told_and_view(services, Session(), False)[0]
    assert "no finished answer" in why.told_and_view(services, replace(session, answer=None), False)[0]
    refused = ask(services, session, "refuse")
    assert "Ask something else" in why.told_and_view(services, refused, False)[0]


def test_no_tag_of_an_answer_survives(services, session):
    marked = ask(services, session, "<script>alert(1)</script>")
    assert "<" not in why.told_and_view(services, marked, False)[1]


def test_only_a_finished_answer_about_the_image_at_hand_is_kept(services, session, tmp_path):
    assert session.answer.text == "you asked what is it?"
    assert looked(services, session, tmp_path).answer is None
    assert conversation.cleared(session).answer is None
    failed = ask(services, session, "break")
    assert failed.answer is None
    growing = conversation.answer(services, conversation.pose(session, "next?", services.limits), None)
    assert next(growing).answer is None and list(growing)[-1].answer.text == "you asked next?"


def test_a_question_that_is_read_is_explained_with_its_own_maps(tmp_path):
    services = fake_services(FakePipeline(family="instructblip"))
    session = ask(services, looked(services, Session(), tmp_path), "where?")
    assert session.encoded.question == "where?"
    assert why.words(services, session, False)["words"] == ["you", "asked", "where?"]


def test_an_answer_without_some_queries_beside_the_old_one(services, session):
    told = why.outcome(services, session, f"2, {QUERIES - 1}", why.AWAY)
    assert "With 2 of 8 queries" in told and "you asked what is it?" in told
    assert "changed &lt;i&gt;answer" in told and "<i>" not in told
    cells = re.findall(r"<tr><td>(.*?)</td><td>.*?</td><td>.*?</td><td>(.*?)</td>", told)
    assert cells == [
        ("you", "+0.00"),
        ("asked", "+0.00"),
        ("what", "-1.00"),
        ("is", "+0.00"),
        ("it?", "+0.00"),
    ]


def test_the_question_is_asked_again_after_the_same_turns(services, session):
    why.outcome(services, ask(services, session, "next?"), "1", why.AWAY)
    assert services.speaker.pipe.asked[-1][:2] == ("next?", (("what is it?", "you asked what is it?"),))


def test_keeping_only_some_takes_the_others_away(services, session):
    told = why.outcome(services, session, "2", why.KEEP)
    assert "With 7 of 8 queries" in told
    cells = dict(re.findall(r"<tr><td>(.*?)</td><td>.*?</td><td>.*?</td><td>(.*?)</td>", told))
    assert cells["what"] == "+0.00" and cells["asked"] == cells["is"] == "-1.00"


@pytest.mark.parametrize("numbers", ["", "8", "-1", "one", "1; two", "9" * 5000, "0000001234567", "²", None])
def test_queries_that_do_not_exist_are_told(services, session, numbers):
    assert "0 to 7" in why.outcome(services, session, numbers, why.AWAY)


def test_no_answer_to_change_is_told(services, session):
    assert "no image yet" in why.outcome(services, Session(), "1", why.AWAY)
    assert "no finished answer" in why.outcome(services, replace(session, answer=None), "1", why.AWAY)
