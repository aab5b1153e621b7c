"""Two models on the same images: the library's figures and the command."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

import qformer_viz
from qformer_viz import BadShape, cka
from qformer_viz.analysis.model_comparison import table
from qformer_viz.cli import dispatch as cli
from qformer_viz.cli.command import Backend
from qformer_viz.media.image_decoder import decode
from tests.support.command_line import run
from tests.support.fakes_ui import CROSS, GRID, QUERIES, WIDTH, FakePipeline, fake_capture, joined
from tests.support.planted import looking_at

N = GRID[0] * GRID[1]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_cka_sees_through_turning_scaling_and_shifting():
    X = random(12, 5)
    turned = 3 * X @ torch.linalg.qr(random(5, 5, seed=1)).Q + 100
    assert cka(X, X).item() == pytest.approx(1) and cka(X, turned).item() == pytest.approx(1)
    assert cka(X, torch.cat([turned, turned], 1)).item() == pytest.approx(1)
    assert cka(X, X * torch.tensor([9.0, 1, 1, 1, 1])).item() < 0.95


def test_cka_of_what_has_nothing_in_common_is_nought_on_average_however_few_there_are():
    for n in (5, 24):
        found = cka(random(2000, n, 40, seed=2), random(2000, n, 30, seed=3))
        assert abs(found.mean().item()) < 4 * found.std().item() / 2000**0.5 and found.std() > 0.005


def test_cka_is_the_unbiased_hsic_of_song_2012():
    def hsic(X, Y):
        K, L = (Z @ Z.T for Z in (X, Y))
        K, L = (M - M.diag().diag() for M in (K, L))
        n, one = len(K), torch.ones(len(K), dtype=K.dtype)
        whole = (one @ K @ one) * (one @ L @ one) / ((n - 1) * (n - 2))
        return ((K @ L).trace() + whole - 2 / (n - 2) * (one @ K @ L @ one)) / (n * (n - 3))

    X, Y = random(9, 4), random(9, 3, seed=5) + random(9, 4)[:, :3]
    expected = hsic(X, Y) / (hsic(X, X) * hsic(Y, Y)).sqrt()
    assert cka(X, Y).item() == pytest.approx(expected.item())


def test_cka_of_what_does_not_vary_is_not_a_number_and_too_few_are_refused():
    X = random(2, 6, 3)
    X[1] = 1e6 + 1e-3 * X[1]  # rounding noise beside its length
    found = cka(X, random(2, 6, 3, seed=1))
    assert found.isnan().tolist() == [False, True]
    for pair in ((X[:, :3], X[:, :3]), (X, X[:, :5]), (X[0, 0], X[0, 0])):
        with pytest.raises(BadShape, match="four or more"):
            cka(*pair)


def test_the_same_model_twice_has_moved_nothing():
    captures = [fake_capture(number) for number in range(5)]
    found = qformer_viz.compare_models(captures, [joined(captures)])
    assert found.rows == (*map(str, CROSS), "mean") and found.images == 5
    assert found.attention_shift.abs().max() < 1e-6 and found.matched_query.tolist() == list(range(QUERIES))
    assert torch.allclose(found.state_cka, torch.ones_like(found.state_cka), atol=1e-5, equal_nan=False)
    assert found.shift_between_unrelated.min() > 0.05


def test_a_query_that_moved_and_two_that_changed_places():
    before = list(range(QUERIES))
    after = [1, 0, *before[2:]]
    after[4] = 9
    found = qformer_viz.compare_models([looking_at(before)], [looking_at(after)])
    assert found.attention_shift.tolist() == [[1, 1, 0, 0, 1, 0, 0, 0]] * len(found.rows)
    assert found.matched_query.tolist() == [1, 0, *before[2:]] and found.state_cka is None
    # 56 pairs of different queries, of which the two that changed places share all.
    assert found.shift_between_unrelated.tolist() == pytest.approx([54 / 56] * len(found.rows))
    told = table(found)
    assert "| mean | 0.375 | 1.000, query 0 | 0.964 |" in told and "0 → 1, 1 → 0 (2 of 8)" in told
    assert (
        "CKA" not in told and "Moved most, mean of layers: query 0 1.00, query 1 1.00, query 4 1.00, " in told
    )


def test_partners_are_found_by_all_layers():
    first, second = looking_at(range(QUERIES)), looking_at(range(QUERIES))
    cross = second.cross_attention.clone()
    cross[0] = cross[0].roll(1, -2)  # in the first layer all have changed places
    found = qformer_viz.compare_models([first], [replace(second, cross_attention=cross)])
    assert found.matched_query.tolist() == list(range(QUERIES))
    assert found.attention_shift.mean(1).tolist() == pytest.approx([1, 0, 0, 1 / 3])


def test_moved_is_half_the_summed_difference_of_what_heads_look_at_on_average_with_cls():
    first, second = fake_capture(1), fake_capture(2)
    found = qformer_viz.compare_models([first], [second])
    one, other = (c.cross_attention[:, 0].mean(1).double() for c in (first, second))
    assert torch.allclose(found.attention_shift[:-1].double(), (one - other).abs().sum(-1) / 2, atol=1e-6)
    assert torch.allclose(
        found.attention_shift[-1].double(), (one.mean(0) - other.mean(0)).abs().sum(-1) / 2, atol=1e-6
    )


def test_states_of_another_width_are_compared_and_the_least_alike_is_named():
    captures = [fake_capture(number) for number in range(6)]
    wide = []
    for number, capture in enumerate(captures):
        states = torch.cat([capture.query_states, capture.query_states], -1)
        states[-1, :, 3] = random(2 * WIDTH, seed=number).float()
        tokens = torch.cat([capture.query_tokens] * 2, -1)
        wide.append(replace(capture, query_states=states, query_tokens=tokens))
    found = qformer_viz.compare_models(captures, wide)
    others = [q for q in range(QUERIES) if q != 3]
    assert torch.allclose(found.state_cka[-1, others], torch.ones(QUERIES - 1), atol=1e-5)
    assert found.state_cka[-1, 3] < 0.7 and "least for query 3: " in table(found)


def test_what_cannot_be_compared_is_told():
    capture = fake_capture(1)
    fewer = replace(capture, cross_attention=capture.cross_attention[:1], cross_layers=CROSS[:1])
    with pytest.raises(BadShape, match="cross-attention layers"):
        qformer_viz.compare_models([capture], [fewer])
    for pair in (([capture], [capture, capture]), ([], [])):
        with pytest.raises(BadShape, match="the same images in the same order"):
            qformer_viz.compare_models(*pair)


@pytest.fixture
def pictures(tmp_path):
    paths = [tmp_path / f"{colour}.png" for colour in ("red", "blue")]
    for path in paths:
        Image.new("RGB", (30, 20), path.stem).save(path)
    return list(map(str, paths))


def test_the_command_gives_the_same_pictures_to_both(pictures, capsys, monkeypatch):
    seen = []
    encode = FakePipeline.encode
    monkeypatch.setattr(FakePipeline, "encode", lambda *a: seen.append(a[1].getpixel((0, 0))) or encode(*a))
    code, _ = run("compare", "--model", "a", "--against", "b", "--pictures", *pictures, "--json")
    result = json.loads(capsys.readouterr().out)
    assert code == 0 and seen == [(255, 0, 0), (0, 0, 255)] * 2
    assert result["images"] == 2 and result["alike"] is None and not any(map(any, result["moved"]))
    assert "The same caption for 2 of 2 images." in result["text"] and result["said"][0] == result["said"][1]


@pytest.mark.parametrize(("family", "read"), [("blip2", None), ("instructblip", "how many?")])
def test_a_question_is_asked_of_both_and_read_where_one_reads(pictures, capsys, monkeypatch, family, read):
    asked = []
    encode_each = FakePipeline.encode_each
    monkeypatch.setattr(FakePipeline, "encode_each", lambda *a: asked.append(a[2]) or encode_each(*a))
    run("compare", "--model", "a", "--pictures", *pictures, "--question", "how many?", family=family)
    out = capsys.readouterr().out
    assert asked == [read, read] and "The same answer for 2 of 2 images." in out


def test_without_files_the_pictures_are_of_the_references_world(capsys):
    asked = []

    def pictures(pipe, count):
        asked.append((pipe.name, count))
        return (Image.new("RGB", (30, 20), (40 * i, 0, 0)) for i in range(count))

    def load(name, **_):
        return FakePipeline(name={"old": "base", "new": "base"}[name])

    backend = Backend(load, decode, (qformer_viz.QFormerVizError,), pictures=pictures)
    assert cli.main(["compare", "--model", "new", "--against", "old", "--images", "4"], backend) == 0
    out = capsys.readouterr().out
    assert asked == [("base", 4)] and out.startswith("new against old, 4 images")
    assert "alike by 1.00" in out and "than its own: none (0 of 8)" in out


@pytest.mark.parametrize(
    "command", ["compare --images", "fidelity --images", "faithfulness --scenes", "bottleneck --scenes"]
)
@pytest.mark.parametrize("many", ["0", "-1", "two", "²"])
def test_no_images_are_refused_before_a_model_is_read(capsys, command, many):
    with pytest.raises(SystemExit, match="2"):
        run(*command.split(), many)
    assert "is no number of 1 or more" in capsys.readouterr().err
