"""The command line over a fake pipeline, and its errors through the real loader."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from qformer_viz.view.archive import load_npz
from tests.support.command_line import run

ROOT = Path(__file__).parents[3]


def test_caption_prints_the_caption_and_nothing_else(picture, capsys):
    code, _ = run("caption", picture)
    out, err = capsys.readouterr()
    assert code == 0
    assert out.startswith("picture ") and out.count("\n") == 1
    assert "the loader talks" in err


def test_ask_as_json(picture, capsys):
    code, _ = run("ask", picture, "how many?", "--json")
    result = json.loads(capsys.readouterr().out)
    assert code == 0 and result["text"] == "you asked how many?"
    assert len(result["tokens"]) == len(result["logprobs"])


def test_empty_answer_is_said(picture, capsys):
    run("ask", picture, "nothing")
    assert "no words" in capsys.readouterr().out


def test_model_options_reach_the_loader(picture):
    _, asked = run(
        "caption", picture, "--model", "x", "--quantization", "8bit", "--device", "cpu", "--allow", "x"
    )
    assert asked == {"name": "x", "quantization": "8bit", "device": "cpu", "allow": ("x",)}


def test_environment_gives_the_defaults(picture, monkeypatch):
    monkeypatch.setenv("QFORMER_VIZ_MODEL", "folder")
    monkeypatch.setenv("QFORMER_VIZ_QUANTIZATION", "4bit")
    monkeypatch.setenv("QFORMER_VIZ_ALLOW", "a/b c/d")
    _, asked = run("caption", picture)
    assert (asked["name"], asked["quantization"], asked["allow"]) == ("folder", "4bit", ("a/b", "c/d"))


@pytest.mark.parametrize("question", [None, "what?"])
def test_explain_writes_the_five_files(picture, tmp_path, capsys, question):
    out = tmp_path / "deep" / "out"
    code, _ = run("explain", picture, "--out", str(out), *(["--question", question] if question else []))
    assert code == 0
    assert {path.name for path in out.iterdir()} == {
        "page.html",
        "capture.npz",
        "manifest.json",
        "contact_sheet.png",
        "attributions.json",
    }
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["question"] == question
    assert load_npz(out / "capture.npz")[1] == manifest
    with Image.open(out / "contact_sheet.png") as sheet:
        assert sheet.width > 100
    assert "<script" in (out / "page.html").read_text()
    assert [Path(line).name for line in capsys.readouterr().out.split()] == [
        "page.html",
        "capture.npz",
        "manifest.json",
        "contact_sheet.png",
        "attributions.json",
    ]
    # The last answer is taken apart: the question's where there is one.
    found = json.loads((out / "attributions.json").read_text())
    assert found["manifest"] == manifest
    assert [each["method"] for each in found["attributions"]] == ["knockout"]
    assert " ".join(found["attributions"][0]["words"]) == manifest["answer"]


def test_explain_by_chosen_methods_or_none(picture, tmp_path, capsys):
    run("explain", picture, "--out", str(tmp_path), "--methods", "raw", "occlusion")
    found = json.loads((tmp_path / "attributions.json").read_text())["attributions"]
    assert [each["method"] for each in found] == ["raw", "occlusion"]
    assert "Patch occlusion: " in capsys.readouterr().err
    page = (tmp_path / "page.html").read_text()
    assert '"name":"occlusion"' in page and '"name":"knockout"' not in page


@pytest.mark.parametrize("more", [["--methods"], ["--question", "nothing"]])
def test_nothing_to_take_apart_leaves_no_file(picture, tmp_path, more):
    code, _ = run("explain", picture, "--out", str(tmp_path), *more)
    assert code == 0 and not (tmp_path / "attributions.json").exists()
    assert 'id="qfv-why"' not in (tmp_path / "page.html").read_text()


def test_explain_takes_the_maps_of_the_question_where_the_qformer_reads_it(picture, tmp_path):
    maps = []
    for question in ("a?", "longer?"):
        run("explain", picture, "--out", str(tmp_path), "--question", question, family="instructblip")
        maps.append(load_npz(tmp_path / "capture.npz")[0].cross_attention)
    assert not maps[0].equal(maps[1])


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["caption", "none.png"], "none.png"),
        (["ask", "PICTURE", "break"], "out of memory"),
        (["caption", "PICTURE", "--model", "unlisted"], "Choose one of"),
    ],
)
def test_errors_go_to_stderr_with_exit_code_2(picture, capsys, argv, words):
    code, _ = run(*(picture if word == "PICTURE" else word for word in argv))
    out, err = capsys.readouterr()
    assert code == 2 and out == ""
    assert err.splitlines()[-1].startswith("error: ") and words in err


@pytest.mark.slow
def test_module_runs_and_refuses_an_unknown_checkpoint(picture):
    command = [sys.executable, "-m", "qformer_viz", "caption", picture, "--model", "no/such"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert "no/such" in done.stderr and "Traceback" not in done.stderr
