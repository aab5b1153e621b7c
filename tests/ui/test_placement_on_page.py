"""What the tabs and the exports do with a picture of which the model saw a part."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from qformer_viz.errors import BadSelection, UserError
from qformer_viz.evaluation import benchmark
from qformer_viz.runtime.input_placement import Placement
from qformer_viz.ui import explanation_cache, stage_updates
from qformer_viz.ui.conversation import Session
from qformer_viz.ui.export import about
from qformer_viz.ui.exports import page_export
from qformer_viz.ui.inspector import (
    image_sets_view,
    match_view,
    model_comparison_view,
    questions_view,
    statistics_view,
    two_models_view,
    what_if_view,
    word_evidence_view,
)
from qformer_viz.view.notebook import show
from tests.support.conversing import ask, looked, pictures, still
from tests.support.fakes_ui import (
    GREEN,
    FakePipeline,
    fake_capture,
    fake_choice,
    fake_services,
    fake_speaker,
    pictured,
)

BOX = [0.125, 0, 0.875, 1]


class Cropping(FakePipeline):
    """Is shown the middle of a picture."""

    def encode(self, image, question=None):
        seen = super().encode(image, question)
        placed = (Placement((40, 30), (5, 0, 35, 30)),) * len(seen.frames)
        return replace(seen, placements=placed, notices=(*seen.notices, placed[0].notice))


@pytest.fixture
def services():
    choice = fake_choice(broken=True)
    choice["models"] |= {"Cropping": lambda: fake_speaker(Cropping(name="cropping"))}
    return fake_services(Cropping(), **{"models": choice["models"]})


@pytest.fixture
def session(services, tmp_path):
    return looked(services, Session(), tmp_path)


def boxes(text):
    """The boxes of every picture in a view."""
    found = []

    def walk(value):
        if isinstance(value, dict):
            found.extend([value.get("box")] if "src" in value else [])
            [walk(each) for each in value.values()]
        elif isinstance(value, list):
            [walk(each) for each in value]

    walk(json.loads(text))
    return found


def test_every_view_of_the_picture_has_the_box(services, session, folder):
    assert boxes(stage_updates.as_text(services, session)) == [BOX]
    assert boxes(what_if_view.shown(services, session)[0]) == [BOX]
    asked = ask(services, session, "what is it?")
    words = word_evidence_view.words(services, asked, explanation_cache.get_or_create(services, asked))
    assert [frame["box"] for frame in words["frames"]] == [BOX]
    view = image_sets_view.looked(services, session, pictures(folder, "green", "red"), still)[1]
    assert boxes(view) == [BOX, BOX]
    match = SimpleNamespace(**match_of(session))
    services = replace(services, matcher=SimpleNamespace(describe=lambda: {"title": "m", "precision": "p"}))
    assert boxes(match_view.maps(services, session, (match,), 0)) == [BOX]


def match_of(session):
    return {
        "text": "a cat",
        "image": session.encoded.image,
        "sha256": "0" * 64,
        "probability": 0.5,
        "similarity": 0.5,
        "capture": fake_capture(1),
        "placement": session.placement,
    }


def test_both_questions_are_drawn_in_the_box(tmp_path):
    services = fake_services(chat_model=fake_speaker(Cropping(family="instructblip")))
    session = looked(services, Session(), tmp_path)
    assert [
        maps["image"]["box"] for maps in questions_view.maps(services, session, "one?", "two?")["maps"]
    ] == [
        BOX,
        BOX,
    ]


def test_the_owner_is_told_and_the_files_say_so(services, session, tmp_path):
    assert any("only the middle" in line.text for line in session.lines)
    assert about(services, session)["boxes"] == [BOX]
    page = page_export.write(services, session, tmp_path).read_text("utf-8")
    assert "25% was cut off" in page and "25% was cut off" in show(session.encoded).html
    # The centres of mass have the shape of what was seen: 30 by 30 of 40 by 30 pixels.
    assert statistics_view.draw(
        session, statistics_view.CENTRE, "mean"
    ).layout.yaxis.scaleratio == pytest.approx(1)


def test_models_that_see_other_parts_are_not_compared(services, session, folder):
    with pytest.raises(UserError, match="another part of this picture"):
        two_models_view.both(services, session, "Fake InstructBLIP")
    assert boxes(two_models_view.compared(services, session, "Cropping")[1]) == [BOX, BOX]
    paths = pictures(folder, "green", "red")
    told = model_comparison_view.compared(services, session, "Fake InstructBLIP", paths, still)[0]
    assert "other parts of these images" in told
    assert (
        "role='alert'" not in model_comparison_view.compared(services, session, "Cropping", paths, still)[0]
    )


@pytest.mark.slow
def test_masks_of_known_objects_are_not_laid_on_another_grid(services, session):
    green = replace(pictured(session.encoded, Image.new("RGB", (40, 30), GREEN)))
    about_dog = replace(ask(services, session, "dog"), encoded=green)
    assert (
        "Peak in the object"
        not in word_evidence_view.judged(services, about_dog, {"method": "occlusion", "word": 2}, still)[0]
    )
    whole = replace(about_dog, encoded=replace(green, placements=(Placement((40, 30), (0, 0, 40, 30)),)))
    assert (
        "Peak in the object"
        in word_evidence_view.judged(services, whole, {"method": "occlusion", "word": 2}, still)[0]
    )
    truth = benchmark.Truth(Image.new("RGB", (40, 30)), {}, {}, Image.new("RGB", (40, 30)))
    with pytest.raises(BadSelection, match="squashes the picture"):
        benchmark.run(Cropping(), [truth])


def test_hidden_patches_are_those_of_the_grid(services, session):
    """The number of a painted patch is its place in the model's input, wherever that lies on the picture."""
    asked, hidden = ask(services, session, "what is it?"), []
    pipe = services.of(asked).pipe
    original = pipe.hidden
    pipe.hidden = lambda encoded, keep, where: hidden.append(keep) or original(encoded, keep, where)
    what_if_view.without_patches(services, asked, {"patches": [6], "where": "qformer"})
    assert torch.nonzero(~hidden[0][0]).flatten().tolist() == [6]
