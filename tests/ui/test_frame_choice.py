"""Films on the page, without a browser."""

import json
import re
from dataclasses import replace

import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image

from qformer_viz import METHODS, query_statistics
from qformer_viz.errors import UserError
from qformer_viz.ui import chat, conversation, frame_choice, stage_updates
from qformer_viz.ui.conversation import Session
from qformer_viz.ui.exports import (
    capture_export,
    contact_sheet_export,
    explanations_export,
    page_export,
    statistics_export,
)
from qformer_viz.ui.inspector import (
    head_ablation_view,
    query_sets_view,
    questions_view,
    similarity_view,
    statistics_view,
    what_if_view,
    word_evidence_view,
)
from qformer_viz.view.archive import load_npz
from qformer_viz.view.stage_payload import unpack
from tests.support.conversing import CELLS, ask, say, still
from tests.support.fakes_ui import GREEN, GRID, QUERIES, FakePipeline, fake_choice, fake_services
from tests.support.page_builder import build

COLOURS = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0)]
N = GRID[0] * GRID[1]


@pytest.fixture
def services():
    return fake_services(FakePipeline(family="instructblip"), compares_questions=True)


@pytest.fixture
def path(tmp_path):
    frames = [Image.new("RGB", (40, 30), colour) for colour in COLOURS]
    frames[0].save(tmp_path / "film.png", save_all=True, append_images=frames[1:], duration=100)
    return str(tmp_path / "film.png")


@pytest.fixture
def session(services, path):
    return ask(services, conversation.look(services, Session(), path, path), "what is it?")


def test_a_film_is_said_to_be_one_and_talked_about(services, session):
    assert [line.kind for line in session.lines] == ["notice", "question", "answer"]
    assert session.lines[0].text == "A film: its 4 frames are seen."
    assert [frame.getpixel((0, 0)) for frame in session.encoded.frames] == COLOURS


def test_the_canvas_gets_every_frame(services, session):
    shown = stage_updates.payload(services, session)
    timestamps = [frame["moment"] for frame in (shown, *shown["film"])]
    assert timestamps == ["frame 1", "frame 2", "frame 3", "frame 4"]
    whole = session.encoded.capture.cross_attention
    for at, frame in enumerate([shown, *shown["film"]]):
        maps, _ = unpack(shown | frame)
        assert np.abs(maps - whole[:, at, ..., 1:].numpy()).max() < 0.01
    assert len({frame["image"]["src"] for frame in [shown, *shown["film"]]}) == 4
    assert any("zero-shot" in note for note in shown["meta"]["notes"])


def test_the_tabs_are_about_the_frame_on_the_canvas(services, session):
    def drawn():
        likeness, _, _ = similarity_view.compare(session.capture, similarity_view.MAPS, "", "mean", "mean")
        return statistics_view.rows(session.capture, "mean"), likeness.tolist()

    first = drawn()
    frame_choice.choose(session, 2)
    whole = session.encoded.capture
    assert torch.equal(session.capture.cross_attention, whole.cross_attention[:, 2:3])
    assert session.picture.getpixel((0, 0)) == COLOURS[2]
    assert all(now != before for now, before in zip(drawn(), first, strict=True))


@pytest.mark.parametrize("frame", [-1, 4, True, "2", None, 2.0])
def test_a_frame_that_does_not_exist_is_passed_over(session, frame):
    frame_choice.choose(session, 3)
    frame_choice.choose(session, frame)
    assert session.frame == 3
    frame_choice.choose(Session(), 0)


def test_another_image_begins_at_its_first_frame(services, session, path, tmp_path):
    frame_choice.choose(session, 3)
    Image.new("RGB", (40, 30), "red").save(tmp_path / "still.png")
    session = conversation.look(services, session, str(tmp_path / "still.png"), None)
    assert session.frame == 0 and session.capture is session.encoded.capture


def test_a_file_that_cannot_be_read_leaves_the_frame_where_it_was(services, session, tmp_path):
    frame_choice.choose(session, 3)
    (tmp_path / "broken.mp4").write_bytes(b"\0\0\0\x18ftypisom" + bytes(40))
    with pytest.raises(services.user_errors):
        conversation.look(services, session, str(tmp_path / "broken.mp4"), None)
    assert session.frame == 3


def test_a_model_that_reads_no_films_sees_the_first_frame_and_the_next_one_all_again(path):
    services = fake_services(**fake_choice())
    session = say(services, conversation.look(services, Session(), path, path))
    assert "only the first frame of 4" in session.lines[0].text and len(session.encoded.frames) == 1
    session = conversation.switch(services, session, "Fake InstructBLIP")
    assert len(session.encoded.frames) == 4
    session = conversation.switch(services, session, "Fake BLIP-2")
    assert len(session.encoded.frames) == 1


def test_why_shows_every_frame_and_offers_every_method(services, session):
    told, view = word_evidence_view.message_and_view(services, session)
    shown = json.loads(view)
    assert told == "" and len(shown["frames"]) == 4 and shown["timestamps"][3] == "frame 4"
    assert [method["name"] for method in shown["methods"]] == list(METHODS)
    knockout = shown["methods"][0]
    # The fake's word 3 hangs on query 3 of the first frame alone.
    assert len(knockout["queries"][3]) == 4 * QUERIES and knockout["queries"][3].index(1.0) == 3
    frames = knockout["patches"][3]
    assert len(frames) == 4 and all(len(frame) == N for frame in frames)
    assert sum(frames[0]) == pytest.approx(1, abs=1e-3) and not np.any(frames[1:])
    for name in METHODS:
        if name != "integrated":  # the fake has no ViT
            told, view = word_evidence_view.computed(services, session, {"method": name, "word": 3}, still)
            method = next(each for each in json.loads(view)["methods"] if each["name"] == name)
            assert told == "" and len(method["patches"][3]) == 4, name
            assert (method["queries"][3] is None) == (name in ("occlusion", "rise")), name
    message, _ = word_evidence_view.judged(services, session, {"method": "knockout", "word": 3}, still)
    assert "by Query knock-out" in message


def test_the_queries_of_all_frames_are_weighed_together(services, session):
    told, words, matrix, shares, pairs, lens = query_sets_view.weighed(services, session, still)
    # The fake's word k hangs on query k of the first frame, and on none of the others.
    count = len(words["choices"])
    assert f"{count - 1} of {4 * QUERIES} queries" in told and "1·01, 1·02" in told and "2·0" not in told
    heat = matrix["value"].data[0]
    assert list(heat.x[QUERIES - 1 : QUERIES + 1]) == [f"1·{QUERIES - 1:02d}", "2·00"]
    assert heat.z[2][2] == 1 and np.array(heat.z).sum() == count - 1
    bars = dict(zip(shares["value"].data[0].x, shares["value"].data[0].y, strict=True))
    assert bars["1·01"] == 1 and sum(bars.values()) == 1
    assert "1·01" in pairs["value"].data[0].x and lens.count("<tr><td>4·") == QUERIES


def test_heads_are_silenced_in_every_frame(services, session):
    told, *_, said = head_ablation_view.ablated(services, session, still)
    bars = {bar.name: bar for bar in said["value"].data}
    assert "nats" in told and set(bars) == {"hidden from the other queries", "hidden from the Q-Former"}
    assert len(bars["hidden from the other queries"].x) == QUERIES
    frame_choice.choose(session, 2)
    figure, _ = head_ablation_view.attended(services, session, "1", "0", head_ablation_view.INDEX)
    shown = session.encoded.capture.self_attention[1, 2, 0]
    assert figure.data[0].z[3][4] == pytest.approx(shown[3, 4].item(), abs=1e-4)


def test_queries_are_taken_away_in_every_frame(services, session, monkeypatch):
    told = what_if_view.run_change(what_if_view.without_queries, services, session, "3", what_if_view.AWAY)
    assert "With 4 of 32 queries of 4 frames replaced by their average" in told
    assert gone(services, session, monkeypatch, "3") == [3 + QUERIES * frame for frame in range(4)]
    trouble = what_if_view.run_change(what_if_view.without_queries, services, session, "8", what_if_view.AWAY)
    assert "0 to 7" in trouble and "of frame 2 alone: 2·7" in trouble
    assert "2·17" in what_if_view.shown(services, session)[1]["placeholder"]


def gone(services, session, monkeypatch, numbers):
    """The queries that say what they say of any image."""
    given = []
    monkeypatch.setattr(
        what_if_view, "consequence", lambda _, __, changed, lead: given.append(changed) or lead
    )
    what_if_view.run_change(what_if_view.without_queries, services, session, numbers, what_if_view.AWAY)
    return (~given[0].queries[0].any(-1)).nonzero()[:, 0].tolist()  # the fake's mean is nought


def test_a_query_is_taken_away_in_one_frame(services, session, monkeypatch):
    for written in ("2·03", "2.3", "2·3, 2·3"):
        assert gone(services, session, monkeypatch, written) == [QUERIES + 3]
    assert gone(services, session, monkeypatch, "4·7 1·00, 5") == [
        0,
        *(5 + QUERIES * f for f in range(4)),
        31,
    ]
    for wrong in ("5·1", "0·1", "2·8", "2·", "·2", "1·1·1"):
        assert "0 to 7" in what_if_view.run_change(
            what_if_view.without_queries, services, session, wrong, what_if_view.AWAY
        )


def test_patches_are_hidden_in_one_frame(services, session):
    def losses(patches):
        told = what_if_view.run_change(
            what_if_view.without_patches, services, session, {"patches": patches, "where": "qformer"}
        )
        return told, [float(v.replace("+", "")) for _, v in re.findall(CELLS, told)]

    # The fake's word 2 hangs on query 2 of the first frame, and query 2 goes with patch 2.
    told, lost = losses([2, N + 2, 4 * N - 1])
    assert "With 3 of 64 patches of 4 frames hidden from the Q-Former:" in told and lost == [0, 0, -1, 0, 0]
    assert not any(losses([N + 2])[1])
    assert "Paint at least one patch" in losses([4 * N])[0]
    picture = json.loads(what_if_view.shown(services, session)[0])
    assert len(picture["frames"]) == 4 and picture["timestamps"][2] == "frame 3"


def test_nothing_of_a_film_can_be_drawn_again(services, session):
    frames = [Image.new("RGB", (40, 30), colour) for colour in (GREEN, *COLOURS)]
    assert services.scene_maker.recall(frames[0])
    session = replace(session, encoded=services.chat_model.pipe.encode(frames))
    drawn = what_if_view.run_change(
        what_if_view.redrawn, services, session, "cat", what_if_view.REMOVE, "top"
    )
    assert what_if_view.UNKNOWN_SCENE in drawn and what_if_view.shown(services, session)[2]["choices"] == []


def test_two_questions_are_compared_on_the_frame_on_the_canvas(services, session):
    frame_choice.choose(session, 1)
    shown = questions_view.maps(services, session, "what is it?", "where is it?")
    maps, _ = unpack(shown["maps"][0])
    whole = session.encoded.capture.cross_attention
    assert np.abs(maps - whole[:, 1, ..., 1:].numpy()).max() < 0.01


def test_all_frames_are_exported(services, session, tmp_path):
    frame_choice.choose(session, 1)
    captured, manifest = load_npz(capture_export.write(services, session, tmp_path))
    assert captured.cross_attention.shape[1] == 4 and manifest["shapes"]["cross_attention"][1] == 4
    assert "frame 4" in page_export.write(services, session, tmp_path).read_text()
    contact_sheet_export.write(services, session, tmp_path)
    header, *rows = statistics_export.write(services, session, tmp_path).read_text().splitlines()
    assert header.startswith("frame,layer,query,") and len(rows) == 4 * 4 * QUERIES
    stats = query_statistics(session.encoded.capture, image=2)
    third = [row.split(",") for row in rows if row.startswith("3,mean,")]
    assert [float(row[3]) for row in third] == pytest.approx(stats.entropy[-1].tolist(), abs=1e-4)
    word_evidence_view.message_and_view(services, session)
    found = json.loads(explanations_export.write(services, session, tmp_path).read_text())["attributions"][0]
    assert np.shape(found["by_frame"])[1:] == (4, *GRID)


def test_an_uploaded_video_is_looked_at_and_its_first_frame_shown(services, session, path, monkeypatch):
    monkeypatch.setattr(chat, "uploaded", lambda given: given)
    monkeypatch.setattr(gr, "Warning", lambda *_, **__: None)
    found, _, preview = chat.look_at_film(services, Session(), path)
    assert preview.getpixel((0, 0)) == COLOURS[0] and found.preview is preview
    nothing, lines, preview = chat.look_at_film(services, Session(), __file__)
    assert nothing.encoded is None and preview is None and "not an image" in lines[-1]["content"]
    again, lines, preview = chat.look_at_film(services, found, __file__)
    assert (
        again.encoded is found.encoded and preview is found.preview and "not an image" in lines[-1]["content"]
    )


def test_a_path_that_was_not_uploaded_is_refused(services, session):
    with pytest.raises(UserError, match="not uploaded"):
        chat.look_at_film(services, session, "/etc/passwd")


@pytest.mark.slow
def test_the_button_is_there_where_a_model_reads_films(services):
    def ids(page):
        return {block.elem_id for block in page.blocks.values()}

    wanted = {"film", "scene-film"}
    assert wanted <= ids(build(services)) and not wanted & ids(build(fake_services()))


def test_a_made_film_is_read_as_one(services, tmp_path, monkeypatch):
    monkeypatch.setattr(chat, "fresh_folder", lambda: tmp_path)
    path = chat.moving_scene(services, Session(), ["cat"], "row", "mixed")
    session = conversation.look(services, Session(), path, path)
    made = services.scene_maker.video(["cat"], "row", None)
    assert [frame.tobytes() for frame in session.encoded.frames] == [frame.tobytes() for frame in made]
    with pytest.raises(gr.Error, match="choose one to 4 nouns"):
        chat.moving_scene(services, Session(), [], "row", "mixed")
