"""Where the server has let go of a visitor, it says so and goes on from what the browser shows."""

import copy
from pathlib import Path

import pytest
from gradio.utils import get_upload_folder
from PIL import Image

from qformer_viz.errors import UserError
from qformer_viz.ui import chat, conversation, explanation_cache
from qformer_viz.ui.conversation import EXPIRED, NO_IMAGE, Line, Session, messages
from qformer_viz.ui.session_recovery import RECOVERED, Shown, lines_of, recovered
from tests.support.fakes_ui import fake_choice, fake_services


@pytest.fixture
def services():
    return fake_services(**fake_choice())


@pytest.fixture
def picture():
    path = Path(get_upload_folder()) / "recovery" / "green.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), "green").save(path)
    yield str(path)
    path.unlink(missing_ok=True)


def lost():
    """What Gradio makes for a session hash of which it holds nothing."""
    return copy.deepcopy(Session())


TALK = (
    Line("notice", "Tiny image"),
    Line("answer", "a <b>cat</b> & a dog", "eos"),
    Line("question", "how many?"),
    Line("answer", "two", "length"),
    Line("question", ""),
    Line("answer", "a", "stopped"),
)


def test_what_expired_is_told_from_what_never_was(services):
    assert Session().no_image == NO_IMAGE and lost().no_image == EXPIRED
    with pytest.raises(UserError, match="no longer holds"):
        explanation_cache.get_or_create(services, lost())
    opened = lost()
    opened.opened.set()
    assert opened.no_image == NO_IMAGE


def test_the_bubbles_say_what_the_lines_were(services):
    session = Session(lines=TALK)
    again = Session(lines=lines_of(messages(session), services.limits))
    assert again.lines == TALK and again.turns() == session.turns()
    blocks = [
        {"role": each["role"], "content": [{"type": "text", "text": each["content"]}]}
        for each in messages(session)
    ]
    assert lines_of(blocks, services.limits) == TALK


def test_the_next_question_goes_on_from_the_picture_on_the_page(services, picture):
    first = conversation.look(services, Session(), picture, picture)
    shown = messages(Session(lines=TALK))
    session, bubbles, box = chat.pose(services, lost(), "what else?", picture, shown, None)
    assert box == "" and session.encoded.sha256 == first.encoded.sha256
    assert [each["content"] for each in bubbles[: len(shown)]] == [each["content"] for each in shown]
    assert RECOVERED in bubbles[-2]["content"] and bubbles[-1]["content"] == "what else?"
    *_, (answered, _) = chat.answer(services, session, chat.GREEDY, 5, 1.0, 1.0, 1, 1.0)
    assert answered.answer.text and answered.turns()[:3] == session.turns()[:3]


def test_the_model_that_spoke_goes_on(services, picture):
    name = list(services.models)[1]
    session = recovered(services, lost(), Shown(picture, [], name))
    assert session.model == name and services.of(session).reads_questions


@pytest.mark.parametrize("act", [chat.pose_caption, chat.retry])
def test_caption_and_retry_go_on_too(services, picture, act):
    session, bubbles = act(services, lost(), picture, messages(Session(lines=TALK)), None)
    assert session.encoded is not None and len(bubbles) >= len(TALK) - 1


def test_bubbles_stay_where_there_is_no_picture_any_more(services):
    session, bubbles, _ = chat.pose(services, lost(), "what else?", "", messages(Session(lines=TALK)), None)
    assert session.encoded is None and len(bubbles) == len(TALK) + 1
    assert EXPIRED in bubbles[-1]["content"]


def test_a_session_that_is_held_is_left_alone(services, picture):
    held = conversation.look(services, Session(), Image.new("RGB", (9, 9)), None)
    assert recovered(services, held, Shown(picture, messages(Session(lines=TALK)))) is held
    empty = Session()
    assert recovered(services, empty, Shown(picture, [])) is empty, "the visitor took the image away"


def test_no_path_outside_the_upload_folder_is_read(services, tmp_path):
    outside = tmp_path / "secret.png"
    Image.new("RGB", (4, 4)).save(outside)
    for path in (str(outside), "/etc/passwd", "../../etc/passwd"):
        with pytest.raises(UserError, match="not uploaded"):
            recovered(services, lost(), Shown(path, []))
