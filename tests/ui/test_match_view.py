"""The Match tab's steps: ranking, refusals in words, maps of the chosen text."""

import json

import gradio as gr
import pytest
from PIL import Image

from qformer_viz.ui.conversation import Session
from qformer_viz.ui.inspector import match_view
from qformer_viz.view.stage_payload import pack
from tests.support.fakes_ui import QUERIES, FakeMatcher, FakePipeline, fake_capture, fake_services
from tests.support.page_builder import build

PICTURE = Image.new("RGB", (60, 40), "red")


@pytest.fixture
def services():
    return fake_services(matcher=FakeMatcher())


@pytest.fixture
def session():
    return Session(encoded=FakePipeline().encode(PICTURE))


@pytest.mark.slow
def test_the_tab_names_its_model_and_what_that_cannot_do(monkeypatch):
    matcher = FakeMatcher()
    about = matcher.describe() | {"caution": "Only <whole> captions."}
    monkeypatch.setattr(FakeMatcher, "describe", lambda self: about)
    notes = [
        str(block.value)
        for block in build(fake_services(matcher=matcher)).blocks.values()
        if isinstance(block, gr.HTML)
    ]
    (note,) = [note for note in notes if "matching head" in note]
    assert "Fake &lt;i&gt;matcher" in note and "Only &lt;whole&gt; captions." in note


def test_texts_are_ranked_and_escaped(services, session):
    matches, table, detail, choice, plot = match_view.rank(
        services, session, " cat \n<b>two</b> dogs\ncat\n\n"
    )
    assert [match.text for match in matches] == ["<b>two</b> dogs", "cat"]
    assert "&lt;b&gt;two" in table and "<b>two" not in table and table.index("two") < table.index("cat")
    assert detail["visible"] and choice["choices"][1] == ("cat", 1)
    assert len(plot.data[0].x) == QUERIES and match_view.best(matches[0]) == QUERIES - 1


@pytest.mark.parametrize(
    ("texts", "message"),
    [("", "no text yet"), ("w" * 99, "99 characters"), ("break", "999 tokens"), (None, "no text")],
)
def test_what_cannot_be_compared_is_said(services, session, texts, message):
    matches, table, detail, _, plot = match_view.rank(services, session, texts)
    assert matches == () and plot is None and message in table and not detail["visible"]


def test_without_an_image_it_says_so(services):
    assert "no image yet" in match_view.rank(services, Session(), "a cat")[1]


def test_the_canvas_gets_the_maps_of_the_chosen_text(services, session):
    matches = match_view.rank(services, session, "a cat\nthree buses")[0]
    shown = json.loads(match_view.maps(services, session, matches, 1))
    expected = pack(fake_capture(1000 + len("a cat")).cross_attention[:, 0].numpy())
    assert shown["maps"] == expected["maps"]
    assert shown["meta"]["scope"] == "image and text" and "a cat" in shown["meta"]["notes"][0]
    assert shown["meta"]["model"] == "Fake <i>matcher</i>"
    assert "<" not in match_view.maps(services, session, matches, 1)
    for gone in (None, 7):
        assert match_view.maps(services, session, matches, gone) == gr.skip()
        assert match_view.draw(matches, gone) is None
