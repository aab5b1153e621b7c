"""The command line on several images, folders and standard input; versions, Ctrl-C, places that cannot be written to,
and terminals of any code page."""

import base64
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import qformer_viz
from qformer_viz.cli import dispatch as cli
from qformer_viz.cli import terminal
from qformer_viz.cli.command import Backend
from qformer_viz.cli.dispatch import parser
from qformer_viz.cli.inputs import listed
from qformer_viz.errors import NoImage
from qformer_viz.evaluation import doctor
from qformer_viz.media.image_decoder import decode
from qformer_viz.view import contact_sheets
from tests.support.command_line import run
from tests.support.fakes_ui import FakeError, FakePipeline

ROOT = Path(__file__).parents[3]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """red.png and green.jpg, a file that is no image, a hidden one, and a folder with another red.png."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in" / "more").mkdir(parents=True)
    for name, size in (("red.png", 30), ("green.jpg", 40), (".hidden.png", 50), ("more/red.png", 60)):
        Image.new("RGB", (size, 20), name.partition(".")[0].rpartition("/")[2] or "blue").save(
            Path("in") / name
        )
    Path("in/notes.txt").write_text("no image")
    return Path("in")


def unreached(*_, **__):
    raise AssertionError("loaded before the fault was told")


def told_at_once(capsys, *argv):
    """(exit code, what is told on stderr), where nothing may be loaded or computed."""
    code = cli.main(argv, Backend(unreached, decode, (FakeError,)))
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    return code, err


# Several images


def test_several_images_give_a_line_each_with_its_name(folder, capsys):
    code, _ = run("caption", "in/red.png", "in/green.jpg")
    lines = capsys.readouterr().out.splitlines()
    assert code == 0 and [line.partition(": ")[0] for line in lines] == ["in/red.png", "in/green.jpg"]
    alone = []
    for name in ("in/red.png", "in/green.jpg"):
        run("caption", name)
        alone.append(capsys.readouterr().out.strip())
    assert [line.partition(": ")[2] for line in lines] == alone and alone[0] != alone[1]


def test_a_folder_is_its_images_by_name(folder, capsys):
    code, _ = run("ask", "in", "how many?")
    lines = capsys.readouterr().out.splitlines()
    assert code == 0 and lines == ["in/green.jpg: you asked how many?", "in/red.png: you asked how many?"]


def test_several_as_json(folder, capsys):
    run("ask", "in/red.png", "in", "how many?", "--json")
    found = json.loads(capsys.readouterr().out)
    assert [each["image"] for each in found["images"]] == ["in/red.png", "in/green.jpg", "in/red.png"]
    assert found["failed"] == 0 and found["images"][0]["text"] == "you asked how many?"


def test_one_that_is_damaged_does_not_stop_the_others(folder, capsys):
    code, _ = run("caption", "in/red.png", "in/notes.txt", "in/green.jpg")
    out, err = capsys.readouterr()
    assert code == 2 and [line.partition(": ")[0] for line in out.splitlines()] == [
        "in/red.png",
        "in/green.jpg",
    ]
    (told,) = (line for line in err.splitlines() if line.startswith("error: "))
    assert told.startswith("error: in/notes.txt: ")


def test_explain_writes_a_folder_for_each_and_none_over_another(folder, capsys):
    code, _ = run("explain", "in", "in/more/red.png", "in/red.png", "--out", "out", "--methods")
    lines = capsys.readouterr().out.splitlines()
    assert code == 0 and sorted(os.listdir("out")) == ["green", "red", "red-2", "red-3"]
    assert lines == [
        f"in/green.jpg: {Path('out/green')}",
        f"in/red.png: {Path('out/red')}",
        f"in/more/red.png: {Path('out/red-2')}",
        f"in/red.png: {Path('out/red-3')}",
    ]
    hashes = [
        json.loads(Path("out", name, "manifest.json").read_text())["image_sha256"]
        for name in os.listdir("out")
    ]
    assert len(set(hashes)) == 3
    assert all(
        {"page.html", "capture.npz"} <= set(os.listdir(Path("out", name))) for name in os.listdir("out")
    )


def test_folders_of_names_that_clash():
    def folders(*names):
        return [each.folder for each in listed(names)]

    data = "data:image/png;base64,"
    assert folders(data, data, data) == ["data", "data-2", "data-3"]


def test_names_that_differ_in_case_or_are_numbered_do_not_clash(folder):
    for name in ("cat.png", "CAT.jpg", "cat-2.png"):
        Image.new("RGB", (8, 8)).save(name)
    assert [each.folder for each in listed(["cat.png", "CAT.jpg", "cat-2.png"])] == [
        "cat",
        "CAT-2",
        "cat-2-2",
    ]


def test_an_image_on_standard_input(folder, capsys, monkeypatch):
    run("caption", "in/red.png")
    expected = capsys.readouterr().out
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(Path("in/red.png").read_bytes())))
    code, _ = run("caption", "-")
    assert code == 0 and capsys.readouterr().out == expected
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(Path("in/red.png").read_bytes())))
    run("explain", "in/green.jpg", "-", "--out", "out", "--methods")
    assert sorted(os.listdir("out")) == ["green", "stdin"]


def test_an_image_in_a_data_url(folder, capsys):
    run("caption", "in/red.png")
    expected = capsys.readouterr().out
    url = "data:image/png;base64," + base64.b64encode(Path("in/red.png").read_bytes() + bytes(5000)).decode()
    code, _ = run("caption", url)
    assert code == 0 and capsys.readouterr().out == expected
    assert run("caption", url, "in/red.png")[0] == 0
    assert capsys.readouterr().out == f"data: {expected}in/red.png: {expected}"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["n" * 5000], "no file nnn"),
        (["in/none.png"], "no file in/none.png"),
        (["in/red.png", "in/none.png"], "no file in/none.png"),
        (["empty"], "no image in the folder empty"),
        (["-", "-"], "write - once"),
    ],
)
def test_what_is_not_there_is_told_before_anything_is_loaded(folder, capsys, argv, words):
    Path("empty").mkdir()
    code, err = told_at_once(capsys, "caption", *argv)
    assert code == 2 and words in err
    with pytest.raises(NoImage):
        listed(argv)


# Where to write


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["explain", "in/red.png", "--out", "in/notes.txt"], "notes.txt, which is a file; expected a folder"),
        (["explain", "in/red.png", "--out", "in/notes.txt/deep"], "Not a directory"),
        (["explain", "in/red.png", "in/green.jpg", "--out", "blocked"], "green, which is a file"),
        (["faithfulness", "--out", "none/a.json"], "make the folder first"),
        (["bottleneck", "--out", "in"], "name a file in that folder"),
        (["inside", "--out", "in/notes.txt/a.json"], "part of the path is a file"),
    ],
)
def test_a_place_that_cannot_be_written_to_is_told_at_once(folder, capsys, argv, words):
    Path("blocked").mkdir()
    Path("blocked/green").write_text("a file")
    code, err = told_at_once(capsys, *argv)
    assert code == 2 and words in err
    assert Path("in/notes.txt").read_text() == "no image"


def test_a_folder_without_permission_is_told_at_once(folder, capsys, monkeypatch):
    def refused(self, **_):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "touch", refused)  # tests may run as root, whom no mode stops
    code, err = told_at_once(capsys, "explain", "in/red.png", "--out", "out")
    assert code == 2 and "out, which cannot be written (Permission denied)" in err


def test_a_disk_that_fills_up_leaves_no_half_file(folder, capsys, monkeypatch):
    class Sheet:
        def save(self, path):
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(contact_sheets, "contact_sheet", lambda *_, **__: Sheet())
    code, _ = run("explain", "in/red.png", "--out", "out", "--methods")
    err = capsys.readouterr().err
    assert code == 2 and err.splitlines()[-1].startswith(
        "error: Found contact_sheet.png, which cannot be written"
    )
    assert "contact_sheet.png" not in os.listdir("out") and not [n for n in os.listdir("out") if "part" in n]


def test_the_explanation_of_an_earlier_answer_goes(folder):
    run("explain", "in/red.png", "--out", "out")
    assert Path("out/attributions.json").exists()
    run("explain", "in/red.png", "--out", "out", "--methods")
    assert not Path("out/attributions.json").exists()


# Version and Ctrl-C


def test_version(capsys):
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.strip() == f"qformer-viz {qformer_viz.__version__}"


@pytest.mark.parametrize("argv", [["caption", "in/red.png"], ["caption", "in"], ["faithfulness"]])
def test_ctrl_c_ends_with_one_line_and_its_code(folder, capsys, argv):
    def load(*_, **__):
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code = cli.main(argv, Backend(load, decode, (FakeError,), truths=lambda count: []))
    finally:
        signal.signal(signal.SIGINT, before)
    out, err = capsys.readouterr()
    assert (code, out, err) == (130, "", "stopped\n")


# Code pages


@pytest.fixture
def page(monkeypatch):
    """Standard output and error on a code page; what was written, as text."""

    def use(encoding):
        streams = {name: io.TextIOWrapper(io.BytesIO(), encoding) for name in ("stdout", "stderr")}
        for name, stream in streams.items():
            monkeypatch.setattr(sys, name, stream)
        terminal.prepare()

        def written():
            streams["stdout"].flush()
            return streams["stdout"].buffer.getvalue().decode(encoding)

        return written

    return use


REPORT = "“cat” – 16 × 16 → 1e-5 … é 猫"


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("utf-8", REPORT),
        ("ascii", '"cat" - 16 x 16 -> 1e-5 ... e ?'),
        ("cp1252", "“cat” – 16 × 16 -> 1e-5 … é ?"),
        ("cp437", '"cat" - 16 x 16 -> 1e-5 ... é ?'),
    ],
)
def test_any_page_takes_any_text(page, encoding, expected):
    written = page(encoding)
    print(REPORT)
    assert written().rstrip("\r\n") == expected


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252"])
def test_json_is_whole_on_any_page(page, encoding, folder):
    written = page(encoding)
    assert run("ask", "in/red.png", REPORT, "--json")[0] == 0
    assert json.loads(written())["text"] == f"you asked {REPORT}"


def test_the_report_of_the_doctor_is_written_on_any_page(page, monkeypatch):
    report = doctor.Report(checks=[("words", True, REPORT)])
    monkeypatch.setattr(doctor, "examine", lambda *_: report)
    written = page("cp1252")
    backend = Backend(lambda *_, **__: FakePipeline(), decode, (), photograph=Image.new("RGB", (8, 8)))
    assert cli.main(["doctor"], backend) == 0
    assert "| words | ok | “cat” – 16 × 16 ->" in written()


# The command itself, where Python has no `resource` as on Windows.
WINDOWS = """
import sys
import psutil  # on Linux it needs `resource` itself
sys.modules["resource"] = None
from qformer_viz.__main__ import command
sys.argv = ["qformer-viz", "doctor"]
sys.exit(command())
"""


@pytest.mark.slow
def test_the_doctor_runs_without_resource_on_a_page_of_ascii():
    command, env = [sys.executable, "-c", WINDOWS], os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="ascii", env=env)
    assert done.returncode == 0, done.stderr
    assert "All checks hold" in done.stdout and "GB of main memory" in done.stdout


def test_the_table_of_checkpoints_is_written_on_a_legacy_page(page):
    from qformer_viz.cli.backend import backend

    written = page("ascii")
    assert cli.main(["checkpoints"], backend()) == 0
    assert "blip2-emoji" in written() and " - " in written()
