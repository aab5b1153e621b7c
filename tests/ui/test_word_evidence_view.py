"""The Why tab without a browser."""

import copy
import json
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from qformer_viz.attribution import METHODS
from qformer_viz.errors import UserError
from qformer_viz.ui import conversation, explanation_cache
from qformer_viz.ui.conversation import Session
from qformer_viz.ui.exports import explanations_export, page_export
from qformer_viz.ui.inspector import head_ablation_view, query_sets_view, word_evidence_view
from qformer_viz.view.word_payload import first_word
from tests.support.conversing import ask, looked, still
from tests.support.fakes_ui import GREEN, GRID, QUERIES, FakePipeline, fake_services, pictured

FAST = [name for name, method in METHODS.items() if not method.slow]
N = GRID[0] * GRID[1]


def explain(services, session):
    told, view = word_evidence_view.message_and_view(services, session)
    assert told == ""
    return json.loads(view)


def compute(services, session, **data):
    told, view = word_evidence_view.computed(services, session, data, still)
    return told, json.loads(view) if isinstance(view, str) else view


def by_name(shown):
    return {method["name"]: method for method in shown["methods"]}


def test_every_word_with_its_queries_and_patches(services, session):
    shown = explain(services, session)
    assert shown["words"] == ["you", "asked", "what", "is", "it?"]
    assert shown["visual"] == [False, True, True, True, True] and shown["gains"] == [0, 1, 1, 1, 1]
    methods = by_name(shown)
    assert list(methods) == list(METHODS)
    for word, row in enumerate(methods["knockout"]["queries"]):
        assert row == [float(word > 0 and q == word) for q in range(QUERIES)]
    cross = session.capture.cross_attention[-1, 0].mean(0)[3, 1:]
    assert methods["knockout"]["patches"][3][0] == pytest.approx((cross / cross.sum()).tolist(), rel=1e-3)


@pytest.mark.parametrize(
    ("words", "image_gain", "first"),
    [
        ("a cat to the left of a dog", [0.1, 6, 9, 0, 3, 0, 0.2, 8], "dog"),
        ("Two cars.", [9, 3], "cars."),
        ("to the left", [9, 0.1, 0.2], "to"),  # nothing but a function word came from the image
        ("no", [2], "no"),
        ("a cat", [0.1, 0.2], "cat"),
    ],
)
def test_the_word_to_begin_with_is_the_one_that_the_image_brought_most_and_that_names_something(
    words, image_gain, first
):
    words = words.split()
    assert words[first_word(words, torch.tensor(image_gain, dtype=torch.float32))] == first


def test_why_queries_and_heads_begin_with_one_word(services, session):
    shown = explain(services, session)
    weighed, ablated = (
        query_sets_view.weighed(services, session, still),
        head_ablation_view.ablated(services, session, still),
    )
    assert shown["first"] == weighed[1]["value"] == ablated[1]["value"] == 1  # "asked", of equal gains


def test_a_quick_model_says_so(services, session):
    assert not explain(services, session)["quick"]
    quick = fake_services(quick=True)
    assert explain(quick, session)["quick"]


def test_slow_methods_run_only_when_asked_for(services, session):
    methods = by_name(explain(services, session))
    run = [name for name, method in methods.items() if method["patches"][0] is not None]
    assert run == FAST and "occlusion" not in FAST
    told, shown = compute(services, session, method="occlusion", word=2)
    occlusion = by_name(shown)["occlusion"]
    assert told == "" and occlusion["queries"] == [None] * 5
    assert occlusion["patches"][2] == [[float(p == 2) for p in range(N)]] and None not in occlusion["patches"]


def test_a_method_that_works_word_by_word_runs_for_the_one_asked_for(services, session):
    _, shown = compute(services, session, method="gradient", word=2)
    gradient = by_name(shown)["gradient"]
    assert [patches is not None for patches in gradient["patches"]] == [word == 2 for word in range(5)]
    assert gradient["queries"][2] == [float(q == 2) for q in range(QUERIES)]
    assert gradient["patches"][2][0] == pytest.approx([float(p == 2) for p in range(N)])
    _, shown = compute(services, session, method="gradient", word=3)
    assert [p is not None for p in by_name(shown)["gradient"]["patches"]] == [w in (2, 3) for w in range(5)]


def test_nothing_is_computed_twice(services, session, monkeypatch):
    explain(services, session)
    compute(services, session, method="occlusion", word=1)
    scorer = explanation_cache.get_or_create(services, session).context.scorer
    monkeypatch.setattr(scorer, "score", lambda *_: pytest.fail("a model ran"))
    explain(services, session)
    compute(services, session, method="occlusion", word=2)
    # The conversation goes on: another answer is another case, and what was kept of the old one is gone.
    later = ask(services, session, "next?")
    assert explanation_cache.get_or_create(services, later).context.scorer is not scorer
    assert explanation_cache.get_or_create(services, later).context.scorer.words == ("you", "asked", "next?")


def test_the_saved_page_has_what_was_computed(services, session, tmp_path):
    explanation_cache.get_or_create(
        services, session
    )  # what a tab that weighs queries leaves: a case, and no map
    assert 'id="qfv-why"' not in page_export.write(services, session, tmp_path).read_text()
    explain(services, session)
    compute(services, session, method="gradient", word=2)
    text = page_export.write(services, session, tmp_path).read_text()
    data = re.search(r'id="qfv-data">(.*?)</script>', text, re.S)[1]
    methods = by_name(json.loads(data)["words"])
    assert list(methods) == [name for name in METHODS if name in {*FAST, "gradient"}]
    assert [patches is not None for patches in methods["gradient"]["patches"]] == [w == 2 for w in range(5)]
    # Another answer: what was explained is not about it.
    later = ask(services, session, "next?")
    assert 'id="qfv-why"' not in page_export.write(services, later, tmp_path).read_text()


def test_visitors_share_nothing(services, session):
    explain(services, session)
    assert "explained" in session.kept and copy.deepcopy(session).kept == {} and Session().kept == {}


@pytest.mark.parametrize(
    "data",
    [
        None,
        {},
        {"method": "magic", "word": 1},
        {"method": "raw", "word": 5},
        {"method": "raw", "word": -1},
        {"method": "raw", "word": True},
        {"method": "raw", "word": "1"},
        {"method": ["raw"], "word": 1},
    ],
)
def test_what_a_client_sends_is_checked(services, session, data):
    for handler in (word_evidence_view.computed, word_evidence_view.judged):
        assert "press the button again" in handler(services, session, data, still)[0]


def test_trouble_is_told_with_its_fix(services, session):
    assert "no image yet" in word_evidence_view.message_and_view(services, Session(), still)[0]
    assert (
        "no finished answer"
        in word_evidence_view.message_and_view(services, replace(session, answer=None), still)[0]
    )
    assert "no finished answer" in compute(services, replace(session, answer=None), method="raw", word=0)[0]
    refused = ask(services, session, "refuse")
    assert "Ask something else" in word_evidence_view.message_and_view(services, refused, still)[0]


def test_no_tag_of_an_answer_survives(services, session):
    marked = ask(services, session, "<script>alert(1)</script>")
    assert "<" not in word_evidence_view.message_and_view(services, marked, still)[1]
    assert (
        "<script>"
        not in word_evidence_view.judged(services, marked, {"method": "knockout", "word": 2}, still)[0]
    )


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
    assert explain(services, session)["words"] == ["you", "asked", "where?"]


@pytest.mark.parametrize(("method", "first"), [("rise", (64, 512)), ("occlusion", (2, 17))])
def test_long_work_is_shown_and_can_be_stopped(services, session, method, first):
    seen = []

    def progress(at, desc, unit):
        seen.append(at)
        session.pause.set()

    told, view = word_evidence_view.computed(services, session, {"method": method, "word": 1}, progress)
    assert "Stopped" in told and not isinstance(view, str)
    assert seen == [first]
    told, view = word_evidence_view.computed(services, session, {"method": method, "word": 1}, still)
    assert told == "" and view


def test_work_on_what_has_gone_ends(services, session):
    told = explanation_cache.progress_callback(session, still, "Working")
    discard_if_stale = explanation_cache.progress_callback(session, still, "Working", outdates=False)
    told(1, 2)
    ask(services, session, "next?")
    discard_if_stale(1, 2)
    with pytest.raises(UserError, match="Stopped"):
        told(2, 2)


def test_the_verdict_on_a_map(services, session):
    compute(services, session, method="occlusion", word=2)
    told, plot = word_evidence_view.judged(services, session, {"method": "occlusion", "word": 2}, still)
    assert "✓ Confirmed: " in told and "“what”" in told and "Deletion" in told and "Sufficiency" in told
    assert "Agreement with knock-out" in told and "Peak in the object" not in told
    assert plot["visible"] and len(plot["value"].data) == 6
    assert {trace.name for trace in plot["value"].data} == {"this map", "random order", "the centre first"}
    told, plot = word_evidence_view.judged(services, session, {"method": "occlusion", "word": 0}, still)
    assert "Not testable: " in told and "Deletion" not in told


def test_the_verdict_knows_the_objects_of_a_known_scene(services, session):
    green = pictured(session.encoded, Image.new("RGB", (40, 30), GREEN))
    about_dog = replace(ask(services, session, "dog"), encoded=green)
    # The fake's word hangs on the patch of its number, the third, and the dog is on the last.
    told = word_evidence_view.judged(services, about_dog, {"method": "occlusion", "word": 2}, still)[0]
    assert (
        "<dt>Peak in the object</dt><dd>no</dd>" in told
        and "<dt>Weight in the object</dt><dd>0%</dd>" in told
    )
    assert services.mask(green.image, "cat").tolist() != torch.zeros(GRID).tolist()
    assert services.mask(session.encoded.image, "cat") is None and services.mask(green.image, "of") is None


def test_a_page_without_scenes_has_no_masks():
    assert fake_services(scene_maker=None).mask(Image.new("RGB", (4, 4), GREEN), "cat") is None


def test_what_was_explained_goes_with_its_answer(services, session):
    told, view, sentence, curves = word_evidence_view.follow(services, session)
    assert (told, view, sentence) == ("", "", "") and curves["visible"] is False
    explain(services, session)
    # Asked for before the page came to clear the last one: it is about this answer and stays.
    assert not any(
        isinstance(each, str) or "visible" in each for each in word_evidence_view.follow(services, session)
    )
    assert word_evidence_view.follow(services, ask(services, session, "next?"))[1] == ""


def test_the_answers_of_a_small_model_are_taken_apart_unasked(tmp_path):
    services = fake_services(quick=True)
    session = looked(services, Session(), tmp_path)
    assert word_evidence_view.follow(services, session)[:3] == ("", "", "")
    session = ask(services, session, "what is it?")
    session.pause.set()
    told, view, sentence, curves = word_evidence_view.follow(services, session)
    assert json.loads(view)["words"] == ["you", "asked", "what", "is", "it?"]
    assert (told, sentence, curves["visible"]) == ("", "", False)
    assert session.pause.is_set()  # what the visitor wants stopped is something else


def test_figures_say_yes_where_the_peak_is_in_the_object():
    verdict = SimpleNamespace(
        areas=None,
        comprehensiveness=(1.0,),
        sufficiency=(0.5,),
        agreement=None,
        pointing=1.0,
        mass=0.75,
        chance=0.1,
    )
    rows = {name: value for name, value, _ in word_evidence_view.figures(verdict)}
    assert rows["Peak in the object"] == "yes" and rows["Weight in the object"] == "75%"
    assert "Deletion" not in rows and "Agreement with knock-out" not in rows


def test_what_has_been_computed_can_be_taken_away(services, session, tmp_path):
    with pytest.raises(Exception, match="No answer has been explained yet"):
        explanations_export.write(services, session, tmp_path)
    explain(services, session)
    compute(services, session, method="gradient", word=2)
    found = json.loads(explanations_export.write(services, session, tmp_path).read_text())
    methods = {each["method"]: each for each in found["attributions"]}
    assert set(methods) == {*FAST, "gradient"} and methods["gradient"]["words"] == ["what"]
    assert methods["knockout"]["queries"][2][2] == 1 and methods["knockout"]["unit"] == "nats"
    assert (
        found["manifest"]["answer"] == "you asked what is it?"
        and len(found["manifest"]["image_sha256"]) == 64
    )
    with pytest.raises(Exception, match="explained yet"):
        explanations_export.write(services, ask(services, session, "next?"), tmp_path)
