"""The set of pictures in the Models tab, without a browser."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import qformer_viz
from qformer_viz.ui.conversation import Session
from qformer_viz.ui.explanation_cache import STOPPED
from qformer_viz.ui.inspector import model_comparison_view
from tests.support.conversing import ask, looked, pictures, still
from tests.support.fakes_ui import (
    CROSS,
    FakeDomain,
    FakePipeline,
    fake_capture,
    fake_choice,
    fake_services,
    fake_speaker,
)

READER = "Fake InstructBLIP"


class Parrot(FakePipeline):
    """Says of every image but red ones what the first fake says; looks elsewhere."""

    def __init__(self):
        super().__init__(name="parrot")

    def encode(self, image, question=None):
        seen = super().encode(image, question)
        record = seen.capture
        moved = replace(record, cross_attention=record.cross_attention.roll(1, -1))
        return replace(seen, capture=moved)

    def caption(self, image, decoding=None):
        said = super().caption(image, decoding)
        red = np.asarray(image.image)[0, 0].tolist() == [255, 0, 0]
        return replace(said, text="all <b>red</b>") if red else said


@pytest.fixture
def services():
    choice, parrot = fake_choice(broken=True), fake_speaker(Parrot())
    choice["models"] |= {"Parrot": lambda: parrot}
    return fake_services(**choice)


def test_both_models_look_at_the_files_and_what_differs_is_listed(services, folder):
    paths = pictures(folder, "green", "red", "blue", "white")
    told, plot, answers = model_comparison_view.compared(services, Session(), "Parrot", paths, still)
    pipes = services.chat_model.pipe, services.models["Parrot"]().pipe
    found = qformer_viz.compare_models(*([pipe.encode(path).capture for path in paths] for pipe in pipes))
    assert np.allclose(plot["value"].data[0].z, found.attention_shift, atol=1e-4) and plot["visible"]
    assert plot["value"].data[0].y == ("layer 0", "layer 2", "layer 4", "mean")
    assert (
        "Parrot against Fake BLIP-2 on 4 images:" in told
        and f"<dd>{found.attention_shift[-1].mean():.2f}</dd>" in told
    )
    assert (
        f"it is {found.shift_between_unrelated[-1]:.2f}" in told
        and "<dd>3 of 4</dd>" in told
        and "same caption" in told
    )
    assert "all &lt;b&gt;red&lt;/b&gt;" in answers and "<b>" not in answers
    assert answers.count("<tr>") == 2 and answers.count("<img") == 1


def test_of_one_model_under_two_names_nothing_differs(services, folder):
    services = replace(services, models=services.models | {"Twin": lambda: fake_speaker()})
    told, plot, answers = model_comparison_view.compared(
        services, Session(), "Twin", pictures(folder, "green", "red"), still
    )
    assert np.abs(plot["value"].data[0].z).max() < 1e-6 and answers == ""
    assert "<dd>0.00</dd>" in told and "<dd>2 of 2</dd>" in told and "CKA" not in told  # too few for it


def test_without_files_the_pictures_are_of_the_world_of_the_model_that_speaks(services, folder):
    domain = FakeDomain(samples=tuple(pictures(folder, "green", "red")))
    services = replace(services, chat_model=replace(services.chat_model, domain=domain))
    told, _, _ = model_comparison_view.compared(services, Session(), "Parrot", None, still)
    assert "on 2 images" in told


def test_the_last_question_is_asked_of_both_and_read_where_it_is_read(services, folder, tmp_path):
    session = ask(services, looked(services, Session(), tmp_path), "where <i>?")
    told, _, _ = model_comparison_view.compared(
        services, session, READER, pictures(folder, "green", "red"), still
    )
    first, second = services.chat_model.pipe, services.models[READER]().pipe
    assert (
        [turn[:2] for turn in second.asked]
        == [("where <i>?", ())] * 2
        == [turn[:2] for turn in first.asked[-2:]]
    )
    assert "answer to “where &lt;i&gt;?”" in told and "<i>" not in told


def test_progress_goes_over_both_models_and_stop_ends_it(services, folder):
    steps = []
    paths, session = pictures(folder, "green", "red", "blue"), Session()
    model_comparison_view.compared(services, session, "Parrot", paths, lambda done, **_: steps.append(done))
    assert steps == [(step, 12) for step in range(1, 13)]

    def stop(done, **_):
        if done[0] == 4:
            session.pause.set()

    told, plot, answers = model_comparison_view.compared(services, session, "Parrot", paths, stop)
    assert STOPPED in told and not plot["visible"] and answers == ""


def test_trouble_is_told_with_its_fix(services, folder):
    class Small(FakePipeline):
        def encode(self, image, question=None):
            few = fake_capture(1)
            few = replace(few, cross_attention=few.cross_attention[:1], cross_layers=CROSS[:1])
            return replace(super().encode(image, question), capture=few)

    services = replace(services, models=services.models | {"Small": lambda: fake_speaker(Small())})
    paths = pictures(folder, "green", "red")
    Image.new("RGB", (8, 8)).save(folder / "bad <i>.png")
    (folder / "bad <i>.png").write_bytes(b"no image")
    for name, files, said in (
        ("Fake BLIP-2", paths, "Choose another model"),
        ("Broken", paths, "Get it again"),
        ("Small", paths, "one architecture"),
        ("Parrot", paths[:1], "Choose 2 to"),
        ("Parrot", [paths[0], str(folder / "bad <i>.png")], "bad &lt;i&gt;.png: "),
    ):
        told, plot, answers = model_comparison_view.compared(services, Session(), name, files, still)
        assert said in told and "qfv-alert" in told and not plot["visible"] and answers == "", name
