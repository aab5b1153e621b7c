"""The Heads tab without a browser."""

import json
from dataclasses import replace

import numpy as np
import pytest

from qformer_viz.analysis.query_similarity import cosine, leaf_order
from qformer_viz.ui import explanation_cache
from qformer_viz.ui.conversation import Session
from qformer_viz.ui.exports import head_losses_export
from qformer_viz.ui.inspector import head_ablation_view as ui
from tests.support.conversing import ask, looked, still
from tests.support.fakes_ui import CROSS, HEADS, LAYERS, QUERIES, FakePipeline, fake_services


@pytest.fixture
def session(services, tmp_path):
    return ask(services, looked(services, Session(), tmp_path), "what <is> it?")


@pytest.fixture
def reading(tmp_path):
    services = fake_services(FakePipeline(family="instructblip"))
    return services, ask(services, looked(services, Session(), tmp_path), "what is it?")


def test_heads_layers_and_queries_of_a_word(services, session):
    told, words, cross, own, said = ui.ablated(services, session, still)
    assert words["value"] == 1 and words["choices"][3] == ("<is> (4)", 3)
    heat = cross["value"].data[0]
    assert list(heat.x) == ["0", "1", "all"] and list(heat.y) == [f"layer {layer}" for layer in CROSS]
    assert np.array(heat.z).tolist() == [[0, 0, 0], [0, 0, 0], [0, 2, 2]]
    assert heat.text[2] == ["", "2.0", "2.0"] and heat.zmax == own["value"].data[0].zmax == 2
    assert np.array(own["value"].data[0].z)[3].tolist() == [1, 1, 1]
    bars = {bar.name: dict(zip(bar.x, bar.y, strict=True)) for bar in said["value"].data}
    assert (
        bars["hidden from the other queries"]["01"] == 0.5
        and bars["hidden from the language model"]["01"] == 1
    )
    assert sum(bars["hidden from the other queries"].values()) == 0.5 and len(bars) == 2
    assert "“asked”" in told and "3 of 18" in told and "head 1 of cross-attention in layer 4" in told
    assert "1.50 nats" in told and "query 01, hidden from the others" in told and "text" not in told


def test_a_word_that_came_from_language_hangs_on_nothing(services, session):
    ui.ablated(services, session, still)
    told, *figures = ui.for_word(services, session, 0)
    assert (
        "0 of 18" in told
        and told.count("none") == told.count("each alone costs the word less than 0.05") == 3
    )
    assert figures[0]["value"].data[0].zmax == 0.05 and figures[2]["value"].layout.yaxis.range == (
        -0.05,
        0.05,
    )


def test_another_word_is_drawn_from_what_is_there(services, session, monkeypatch):
    ui.ablated(services, session, still)
    scorer = explanation_cache.get_or_create(services, session).context.scorer
    for name in ("score", "ablate_heads", "ablate_query_messages", "isolate_queries"):
        monkeypatch.setattr(scorer, name, lambda *_: pytest.fail("a model ran"))
    told, *figures = ui.for_word(services, session, 3)
    assert "“&lt;is&gt;”" in told and all(figure["visible"] for figure in figures)


@pytest.mark.parametrize("word", [None, -1, 99, "1", True])
def test_a_word_that_is_not_there_changes_nothing(services, session, word):
    ui.ablated(services, session, still)
    assert all("value" not in update for update in ui.for_word(services, session, word))


def test_nothing_is_drawn_before_it_is_computed(services, session):
    assert all("value" not in update for update in ui.for_word(services, session, 1))
    explanation_cache.get_or_create(services, session)  # as the Why tab leaves it
    assert all("value" not in update for update in ui.for_word(services, session, 1))
    assert all("value" not in update for update in ui.for_word(services, Session(), 1))


def test_trouble_is_told_and_work_can_be_stopped(services, session):
    assert "no image yet" in ui.ablated(services, Session(), still)[0]
    assert "no finished answer" in ui.ablated(services, replace(session, answer=None), still)[0]
    seen = []

    def stop(at, desc, unit):
        seen.append(at)
        session.pause.set()

    # Pressed when the heads are done: nothing more is begun.
    assert "Stopped" in ui.ablated(services, session, stop)[0] and seen == [(28, 28)]
    kept = explanation_cache.get_or_create(services, session).context
    assert kept.known("heads") and not kept.known("talk")
    assert "“asked”" in ui.ablated(services, session, still)[0]


def test_what_was_found_goes_with_its_answer(services, session):
    explanation_cache.get_or_create(services, session)
    told, words, *figures = ui.forget(session)
    assert told == "" and words["choices"] == [] and not any(figure["visible"] for figure in figures)
    ui.ablated(services, session, still)
    assert not any("visible" in each for each in ui.forget(session))


def test_the_text_that_the_qformer_reads_has_its_bars_and_columns(reading):
    services, session = reading
    told, *_, said = ui.ablated(services, session, still)
    bars = {bar.name: dict(zip(bar.x, bar.y, strict=True)) for bar in said["value"].data}
    assert bars["hidden from the Q-Former"] == {"“&lt;i&gt;”": 0, "“it (2)”": 0, "“it (3)”": 3}
    assert "“it (3)”, hidden from the Q-Former" in told
    figure, facts = ui.attended(services, session, "3", "1", ui.INDEX)
    heat, text = figure.data
    assert list(text.x) == ["“&lt;i&gt;”", "“it (2)”", "“it (3)”"] and "50.0%" in facts
    assert np.array(text.z)[:, -1].tolist() == [0.5] * QUERIES
    np.testing.assert_allclose(np.array(heat.z).sum(1) + np.array(text.z).sum(1), 1, atol=1e-4)


@pytest.mark.parametrize(("layer", "head"), [("mean", "mean"), ("2", "mean"), ("mean", "1"), ("5", "0")])
@pytest.mark.parametrize("order", [ui.INDEX, ui.LEAF])
def test_self_attention_is_that_of_the_layer_and_head(services, session, layer, head, order):
    maps = session.capture.self_attention[:, 0]
    maps = maps.mean(0) if layer == "mean" else maps[int(layer)]
    maps = maps.mean(0) if head == "mean" else maps[int(head)]
    figure, facts = ui.attended(services, session, layer, head, order)
    heat = figure.data[0]
    assert sorted(heat.x) == sorted(heat.y) == [f"{query:02d}" for query in range(QUERIES)]
    alike = range(QUERIES) if order == ui.INDEX else leaf_order(cosine(maps))
    assert list(heat.x) == [f"{query:02d}" for query in alike]
    for row, query in enumerate(heat.y):
        for column, other in enumerate(heat.x):
            assert heat.z[row][column] == pytest.approx(maps[int(query), int(other)].item(), abs=1e-4)
    assert f"{maps.diagonal().mean():.1%}" in facts and "On the text" not in facts


def test_controls_fit_the_model(services):
    assert ui.attended(services, Session(), "mean", "mean", ui.INDEX) == [None, ""]
    layer, head, order = ui.refit(services.chat_model.geometry)
    assert len(layer["choices"]) == 1 + LAYERS and len(head["choices"]) == 1 + HEADS
    assert layer["value"] == head["value"] == "mean" and "choices" not in order


def test_what_was_found_can_be_taken_away(reading, tmp_path):
    services, session = reading
    with pytest.raises(Exception, match="No heads have been tested yet"):
        head_losses_export.write(services, session, tmp_path)
    ui.ablated(services, session, still)
    found = json.loads(head_losses_export.write(services, session, tmp_path).read_text())
    assert found["words"] == ["you", "asked", "what", "is", "it?"] and found["read"] == ["<i>", "it", "it"]
    assert found["heads"]["cross"][1] == [[0, 0], [0, 0], [0, 2]] and found["talk"]["text"][1] == [0, 0, 3]
    assert found["heads"]["own_layers"][2][3] == 1 and found["manifest"]["answer"] == "you asked what is it?"
    with pytest.raises(Exception, match="tested yet"):
        head_losses_export.write(services, ask(services, session, "next?"), tmp_path)
