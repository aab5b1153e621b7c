"""The Queries tab without a browser."""

from dataclasses import replace

import pytest

from qformer_viz.ui import explanation_cache
from qformer_viz.ui.conversation import Session
from qformer_viz.ui.inspector import query_sets_view
from tests.support.conversing import ask, looked, still
from tests.support.fakes_ui import QUERIES


@pytest.fixture
def session(services, tmp_path):
    return ask(services, looked(services, Session(), tmp_path), "what <is> it?")


def test_queries_are_weighed_together(services, session):
    told, words, matrix, shares, pairs, lens = query_sets_view.weighed(services, session, still)
    # Every word of the fake but the first hangs on the query of its number, and on no other.
    assert "4 of 8 queries are enough" in told and "01, 02, 03, 04" in told
    assert words["choices"][2] == ("what (3)", 2) and words["value"] == 1
    heat = matrix["value"].data[0]
    assert heat.z[2][2] == 1 and sum(map(sum, heat.z)) == 4 and heat.y[3] == "&lt;is&gt; (4)"
    bars = {bar.name: dict(zip(bar.x, bar.y, strict=True)) for bar in shares["value"].data}
    assert bars["Shapley value"]["01"] == bars["taken away alone"]["01"] == 1
    assert sum(bars["Shapley value"].values()) == 1
    assert not any(map(any, pairs["value"].data[0].z)) and len(pairs["value"].data[0].x) == QUERIES
    assert "known to mislead" in lens and "&lt;i&gt;7&lt;/i&gt;" in lens and "<i>" not in lens


def test_another_word_is_drawn_from_what_is_there(services, session, monkeypatch):
    query_sets_view.weighed(services, session, still)
    monkeypatch.setattr(
        explanation_cache.get_or_create(services, session).context.scorer,
        "score",
        lambda _: pytest.fail("a model ran"),
    )
    shares, pairs = query_sets_view.for_word(services, session, 3)
    assert "“&lt;is&gt;”" in shares["value"].layout.title.text and pairs["visible"]


@pytest.mark.parametrize("word", [None, -1, 99, "1", True])
def test_a_word_that_is_not_there_changes_nothing(services, session, word):
    query_sets_view.weighed(services, session, still)
    assert all("value" not in update for update in query_sets_view.for_word(services, session, word))


def test_nothing_is_drawn_before_it_is_computed(services, session):
    assert all("value" not in update for update in query_sets_view.for_word(services, session, 1))
    assert all("value" not in update for update in query_sets_view.for_word(services, Session(), 1))


def test_trouble_is_told_and_work_can_be_stopped(services, session):
    assert "no image yet" in query_sets_view.weighed(services, Session(), still)[0]
    assert "no finished answer" in query_sets_view.weighed(services, replace(session, answer=None), still)[0]
    seen = []

    def stop(at, desc, unit):
        seen.append(at)
        session.pause.set()

    assert "Stopped" in query_sets_view.weighed(services, session, stop)[0] and seen == [(2, 16)]
    assert "are enough" in query_sets_view.weighed(services, session, still)[0]


def test_an_answer_that_needs_no_query():
    assert "needs none" in query_sets_view.enough([], 8)


def test_what_was_weighed_goes_with_its_answer(services, session):
    explanation_cache.get_or_create(services, session)
    told, words, *figures, lens = query_sets_view.forget(session)
    assert told == lens == "" and words["choices"] == [] and not any(figure["visible"] for figure in figures)
    query_sets_view.weighed(services, session, still)
    assert not any("visible" in each for each in query_sets_view.forget(session))
