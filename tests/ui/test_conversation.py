"""A conversation as plain data: what is kept, what is asked again, what never mixes."""

import copy

import gradio as gr
import pytest
from PIL import Image

from qformer_viz.types import Decoding
from qformer_viz.ui import conversation as talk
from qformer_viz.ui.conversation import Session, messages
from qformer_viz.ui.event_groups import discard_if_stale
from tests.support.conversing import ask, looked, say
from tests.support.fakes_ui import FakeError, FakePipeline, fake_choice, fake_services, fake_speaker


@pytest.fixture
def session(services, tmp_path):
    """A visitor with a captioned image."""
    return say(services, looked(services, Session(), tmp_path))


def test_upload_is_captioned_and_answers_grow(services, tmp_path):
    steps = list(talk.answer(services, looked(services, Session(), tmp_path), Decoding()))
    texts = [step.lines[-1].text for step in steps]
    assert texts[0] == "picture" and texts[-1].startswith("picture ")
    assert [step.growing() for step in steps] == [True, False]
    assert steps[-1].turns() == (("", texts[-1]),)


def test_history_holds_every_earlier_turn(services, session):
    session = ask(services, session, "one?")
    ask(services, session, "two?")
    question, history, _ = services.chat_model.pipe.asked[-1]
    assert question == "two?"
    assert history == (("", session.lines[0].text), ("one?", "you asked one?"))


def test_retry_asks_the_last_question_again(services, session):
    sampled = Decoding(do_sample=True)
    session = ask(services, session, "one?", sampled)
    again = say(services, talk.retried(session), sampled)
    assert [line.kind for line in again.lines] == [line.kind for line in session.lines]
    assert session.lines[-1].text != again.lines[-1].text
    assert services.chat_model.pipe.asked[-1][:2] == services.chat_model.pipe.asked[-2][:2]


def test_retry_of_the_caption(services, session):
    again = say(services, talk.retried(session))
    assert [line.text for line in again.lines] == [line.text for line in session.lines]


def test_caption_can_be_asked_for_in_mid_conversation(services, session):
    session = say(services, talk.pose_caption(ask(services, session, "one?")))
    assert session.turns()[-1][0] == ""
    assert messages(session)[-2]["content"] == "Caption this image."


@pytest.mark.parametrize("question", ["", "   ", "\n", "x" * 61])
def test_bad_question_is_explained_and_not_asked(services, session, question):
    after = ask(services, session, question)
    assert after.lines[:-1] == session.lines
    assert after.lines[-1].kind == "notice"
    assert services.chat_model.pipe.asked == []
    assert after.turns() == session.turns()


def test_question_without_an_image_is_explained(services):
    after = ask(services, Session(), "what is it?")
    assert after.lines[-1].text == talk.NO_IMAGE


def test_long_conversation_is_stopped_politely(services, session):
    for number in range(services.limits.max_turns):
        session = ask(services, session, f"{number}?")
    assert "Press Clear" in session.lines[-1].text


def test_error_of_the_model_becomes_a_line_and_the_conversation_goes_on(services, session):
    broken = ask(services, session, "break")
    assert broken.lines[-1].kind == "notice" and "out of memory" in broken.lines[-1].text
    assert ask(services, broken, "one?").lines[-1].text == "you asked one?"


def test_failed_question_does_not_lend_its_words_to_the_next_answer(services, session):
    after = ask(services, ask(services, session, "break"), "one?")
    assert after.turns()[-1] == ("one?", "you asked one?")
    assert len(after.turns()) == 2


def test_empty_answer_is_said_and_forgotten(services, session):
    after = ask(services, session, "nothing")
    assert talk.EMPTY in messages(after)[-1]["content"]
    assert after.turns() == session.turns()


def test_what_is_shown_is_escaped(services, session):
    after = ask(services, session, "<b>&</b>")
    typed = "&lt;b&gt;&amp;&lt;/b&gt;"
    assert [m["content"] for m in messages(after)][1:] == [typed, f"you asked {typed}"]


def test_stopped_answer_is_kept_and_marked(services, session):
    posed = talk.pose(session, "one?", services.limits)
    steps = talk.answer(services, posed, Decoding())
    first = next(steps)
    posed.stop.set()
    last = list(steps)[-1]
    assert last.lines[-1].text.startswith(first.lines[-1].text)
    assert last.lines[-1].finish == "stopped"
    assert "stopped" in messages(last)[-1]["content"]


def test_new_image_starts_a_new_conversation(services, session, tmp_path):
    after = looked(services, session, tmp_path, "blue")
    assert after.lines == () and after.encoded.sha256 != session.encoded.sha256


def test_bad_image_raises_before_anything_changes(services, session, tmp_path):
    path = tmp_path / "bad.png"
    path.write_bytes(b"\x89PNG nothing")
    with pytest.raises(services.user_errors):
        talk.look(services, session, str(path), str(path))
    assert services.chat_model.pipe.encoded == 1


def test_notices_of_the_decoder_are_passed_on(services, tmp_path):
    path = tmp_path / "two.gif"
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    after = talk.look(services, Session(), str(path), str(path))
    assert "frame" in after.lines[0].text
    assert say(services, after).lines[-1].kind == "answer"


def test_unfamiliar_image_is_said_first(tmp_path):
    services = fake_services(ood_check=lambda encoded: "unlike anything")
    after = say(services, looked(services, Session(), tmp_path))
    assert [line.kind for line in after.lines] == ["notice", "answer"]
    assert after.lines[0].text == "unlike anything"


def test_each_visitor_has_a_stop_of_their_own():
    first, second = copy.deepcopy(Session()), copy.deepcopy(Session())
    first.stop.set()
    assert not second.stop.is_set()


def test_clear_keeps_the_image(session):
    after = talk.cleared(session)
    assert after.lines == () and after.encoded is session.encoded


def test_maps_follow_the_question_only_where_the_qformer_reads_it(services, tmp_path):
    blip2 = ask(services, looked(services, Session(), tmp_path), "one?")
    assert blip2.encoded.question is None and services.chat_model.pipe.encoded == 1
    reading = fake_services(FakePipeline(family="instructblip"))
    after = ask(reading, looked(reading, Session(), tmp_path), "one?")
    assert after.encoded.question == "one?"


def test_words_the_model_never_read_are_named_before_the_answer(session):
    services = fake_services(
        unknown_words=lambda question: [w for w in question.split() if w.startswith("gir")]
    )
    asked = ask(services, session, "is there a giraffe?")
    assert [line.kind for line in asked.lines[-3:]] == ["question", "notice", "answer"]
    assert "“giraffe?”" in asked.lines[-2].text and "guess" in asked.lines[-2].text
    assert asked.turns()[-1][0] == "is there a giraffe?"
    again = say(services, talk.retried(asked))
    assert [line.kind for line in again.lines] == [line.kind for line in asked.lines]
    assert [line.kind for line in ask(services, again, "a cat?").lines[-2:]] == ["question", "answer"]


def test_another_model_speaks_about_the_same_image_in_a_new_conversation(tmp_path):
    services = fake_services(**fake_choice())
    before = ask(services, looked(services, Session(), tmp_path), "one?")
    after = talk.switch(services, before, "Fake InstructBLIP")
    assert services.of(after).pipe.name == "reader" and services.of(before).pipe.name == "fake"
    assert after.lines == () and after.encoded.sha256 == before.encoded.sha256
    assert ask(services, after, "two?").encoded.question == "two?"


def test_a_model_that_fails_to_load_leaves_the_old_one_speaking(tmp_path):
    services = fake_services(**fake_choice(broken=True))
    before = ask(services, looked(services, Session(), tmp_path), "one?")
    with pytest.raises(FakeError):
        talk.switch(services, before, "Broken")
    assert ask(services, before, "two?").lines[-1].text.startswith("you asked two?")


def test_a_switched_model_says_when_the_image_is_unlike_its_world(tmp_path):
    choice = fake_choice()
    strange = fake_speaker(ood_check=lambda encoded: "unlike anything")
    services = fake_services(**choice | {"models": choice["models"] | {"Third": lambda: strange}})
    after = talk.switch(services, looked(services, Session(), tmp_path), "Third")
    assert [line.text for line in after.lines] == ["unlike anything"]


def test_work_about_what_has_gone_changes_nothing(services, tmp_path):
    """Another image, model or answer while a tab was at work: its outcome is not shown."""
    choice = fake_services(**fake_choice())
    for gone in (
        lambda session: looked(choice, session, tmp_path),
        lambda session: talk.switch(choice, session, "Fake InstructBLIP"),
        lambda session: ask(choice, session, "another?"),
    ):
        session = ask(choice, looked(choice, Session(), tmp_path), "what is it?")
        assert discard_if_stale(session, lambda: ("told", "view")) == ("told", "view")
        assert discard_if_stale(session, lambda: "told") == "told"

        def work(found, session=session, gone=gone):
            gone(session)
            return found

        assert discard_if_stale(session, lambda: work(("told", "view"))) == [gr.skip()] * 2
        assert discard_if_stale(session, lambda: work("told")) == gr.skip()


def test_each_visitor_has_work_and_marks_of_their_own():
    first = Session()
    second = copy.deepcopy(first)
    first.pause.set()
    assert not second.pause.is_set() and not first.stop.is_set()
    assert not second.holds(first.mark())
