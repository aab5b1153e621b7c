"""Views for a notebook or a file, without a browser (tests/browser/test_notebook.py opens them)."""

import html
import json
import re
from dataclasses import replace

import pytest
import torch
from PIL import Image

import qformer_viz
from qformer_viz.errors import BadSelection, BadShape
from qformer_viz.view.stage_payload import canvas_payload
from tests.support.fakes_ui import FakePipeline, joined
from tests.support.planted import blobs, picture

RED = Image.new("RGB", (60, 40), "red")


def data(view):
    (text,) = re.findall(r'<script type="application/json" id="qfv-data">(.*?)</script>', view.html, re.S)
    return json.loads(text)


@pytest.fixture
def told():
    """(pipe, encoded, answer) of a picture."""
    pipe = FakePipeline()
    encoded = pipe.encode(RED)
    return pipe, encoded, pipe.ask(encoded, "<b>what</b> is it?")


def by(told, *methods, **options):
    return [qformer_viz.explain(*told, method=method, **options) for method in methods]


def test_a_capture_and_its_picture():
    view = qformer_viz.show(blobs(), picture(), turns=[("what?", "a cat")])
    shown = data(view)
    meta = {"model": "model not named", "scope": "image", "conversation": [["what?", "a cat"]]}
    assert shown == canvas_payload(blobs(), picture(), meta=meta)
    assert data(qformer_viz.show(blobs(), picture(), model="mine"))["meta"]["model"] == "mine"
    assert data(qformer_viz.show(blobs(), picture(), pipe=FakePipeline()))["meta"]["model"] == "fake"


def test_a_capture_that_read_text_says_that_its_maps_hang_on_it():
    capture = blobs()
    reads = replace(capture, self_attention=capture.self_attention * 0.9)
    assert data(qformer_viz.show(reads, picture()))["meta"]["scope"] == "image and text"


def test_an_encoded_image_says_who_speaks_and_what_of(told):
    pipe, encoded, answer = told
    shown = data(qformer_viz.show(encoded, pipe=pipe, turns=[("", "a caption"), ("why?", answer.text)]))
    assert shown["meta"]["model"] == "Fake <b>model</b>" and shown["meta"]["caption"] == "a caption"
    assert shown["meta"]["conversation"] == [["why?", answer.text]] and "words" not in shown
    assert data(qformer_viz.show(encoded))["meta"]["model"] == "model not named"


def test_the_frames_of_a_film(tmp_path):
    frames = [Image.new("RGB", (60, 40), colour) for colour in ("red", "green", "blue", "yellow")]
    frames[0].save(tmp_path / "film.png", save_all=True, append_images=frames[1:], duration=100)
    pipe = FakePipeline(family="instructblip")
    encoded = pipe.encode(tmp_path / "film.png")
    answer = pipe.ask(encoded, "what is it?")
    why = qformer_viz.explain(pipe, encoded, answer)
    shown = data(qformer_viz.show(encoded, pipe=pipe, why=why))
    assert [shown["moment"], *(each["moment"] for each in shown["film"])] == list(encoded.timestamps)
    assert len(shown["words"]["methods"][0]["patches"][1]) == 4
    with pytest.raises(BadShape, match="explain an answer about this image"):
        qformer_viz.show(pipe.encode(RED), why=why)


def test_the_words_by_every_method_that_was_asked(told):
    pipe, encoded, answer = told
    why = by(told, "knockout", "occlusion")
    shown = data(qformer_viz.show(encoded, pipe=pipe, why=why))["words"]
    assert shown["words"] == answer.text.split() and shown["visual"] == why[0].visual.tolist()
    assert [method["title"] for method in shown["methods"]] == ["Query knock-out", "Patch occlusion"]
    for word in range(len(answer.text.split())):
        for method, found in zip(shown["methods"], why, strict=True):
            assert method["patches"][word][0] == pytest.approx(
                found.patches[word].flatten().tolist(), rel=1e-3
            )
        assert shown["methods"][0]["queries"][word] == pytest.approx(why[0].queries[word].tolist(), rel=1e-3)
        assert shown["methods"][1]["queries"][word] is None
    alone = data(qformer_viz.show(encoded, pipe=pipe, why=why[0]))["words"]
    assert alone["methods"] == shown["methods"][:1]


def test_every_method_says_which_layer_it_looked_at(told):
    why = [*by(told, "knockout", layer=0), *by(told, "raw")]
    methods = data(qformer_viz.show(told[1], why=why))["words"]["methods"]
    assert [method["layer"] for method in methods] == [0, 4]


def test_some_words_only(told):
    shown = data(qformer_viz.show(told[1], why=by(told, "gradient", words=[2, 4])))["words"]
    assert shown["words"] == ["<b>what</b>", "it?"] and None not in shown["methods"][0]["patches"]


def test_different_words_are_not_one_answer(told):
    with pytest.raises(BadShape, match="the same words"):
        qformer_viz.show(told[1], why=[*by(told, "raw"), *by(told, "knockout", words=[1])])


def test_a_method_that_is_not_offered(told):
    foreign = replace(by(told, "raw")[0], method="mine")
    with pytest.raises(BadSelection, match="METHODS"):
        qformer_viz.show(told[1], why=foreign)


def test_an_explanation_of_another_grid(told):
    with pytest.raises(BadShape, match="about this image"):
        qformer_viz.show(blobs(), picture(), why=by(told, "raw"))


@pytest.mark.parametrize("seen", [blobs(), joined([blobs(), blobs()])])
def test_one_capture_wants_one_picture(seen):
    with pytest.raises(BadSelection, match="image"):
        qformer_viz.show(seen, None if seen.cross_attention.shape[1] == 1 else picture())


def test_without_a_capture(told):
    with pytest.raises(BadSelection, match="observe"):
        qformer_viz.show(replace(told[1], capture=None))


def test_in_a_notebook_it_is_a_frame_that_cannot_reach_the_notebook():
    view = qformer_viz.show(blobs(), picture(), model="</iframe><script>", height=500)
    frame = view._repr_html_()
    assert frame.count("<") == 2 and "height:500px" in frame
    (source,) = re.findall(r'srcdoc="([^"]*)"', frame)
    assert html.unescape(source) == view.html
    assert re.findall(r'sandbox="([^"]*)"', frame) == ["allow-scripts allow-downloads"]
    assert "notebook" in repr(view) and len(repr(view)) < 200


def test_it_can_be_saved(tmp_path):
    view = qformer_viz.show(blobs(), picture())
    assert view.save(str(tmp_path / "deep" / "view.html")) == tmp_path / "deep" / "view.html"
    assert (tmp_path / "deep" / "view.html").read_text(encoding="utf-8") == view.html


def test_a_recording_of_one_call(monkeypatch):
    recording = qformer_viz.Recording()
    recording._captures = (blobs(),)
    shown = data(qformer_viz.show(recording, picture()))
    assert shown == data(qformer_viz.show(blobs(), picture()))
    assert torch.equal(recording.cross_attention, blobs().cross_attention)
