"""The folder of uploads is this program's own and never larger than its cap."""

import os
import stat
import tempfile
import time
from pathlib import Path

import pytest

from qformer_viz.ui.upload_folder import FRESH, Cap, is_ours, own_folder, trim

NOW = 1_000_000.0


def file(folder, name, size, age):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    os.utime(path, (NOW - age, NOW - age))
    return path


def test_the_oldest_files_go_first_and_their_folders_with_them(tmp_path):
    old, middle, young = (file(tmp_path, f"{age}/a.png", 100, age) for age in (9000, 6000, 3000))
    assert trim(tmp_path, 250, NOW) == 200
    assert not old.parent.exists() and middle.exists() and young.exists()
    assert trim(tmp_path, 250, NOW) == 200
    assert trim(tmp_path, 0, NOW) == 0 and not list(tmp_path.iterdir())


def test_what_is_on_its_way_stays(tmp_path):
    fresh, old = file(tmp_path, "new/a", 1000, FRESH - 1), file(tmp_path, "old/a", 10, FRESH + 1)
    assert trim(tmp_path, 100, NOW) == 1000
    assert fresh.exists() and not old.exists()


def test_nothing_outside_is_touched(tmp_path):
    outside = file(tmp_path, "outside/a", 100, 9000)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(outside)
    (folder / "away").symlink_to(outside.parent)
    assert trim(folder, 0, NOW) == 0 and outside.exists()


def test_a_folder_that_is_not_there_is_empty(tmp_path):
    assert trim(tmp_path / "none", 10) == 0


def test_the_cap_is_kept_while_files_come(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    cap = Cap(500, every=0)
    for number in range(20):
        path = file(tmp_path, f"{number}/a", 100, 0)
        os.utime(path, (time.time() - 2 * FRESH, time.time() - 2 * FRESH + number))
        cap()
    until = time.monotonic() + 20
    while len(list(tmp_path.rglob("a"))) > 5 and time.monotonic() < until:
        cap()
        time.sleep(0.01)
    assert sorted(int(path.parent.name) for path in tmp_path.rglob("a")) == [15, 16, 17, 18, 19]


def test_each_server_has_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    first, second = {}, {}
    assert own_folder(7860, first) != own_folder(7861, second)
    assert own_folder(7860, {}) == Path(first["GRADIO_TEMP_DIR"]), "the same after a restart"
    assert stat.S_IMODE(Path(first["GRADIO_TEMP_DIR"]).stat().st_mode) == 0o700
    given = {"GRADIO_TEMP_DIR": str(tmp_path / "given")}
    assert own_folder(7860, given) == tmp_path / "given"


@pytest.mark.parametrize("kind", ["link", "open"])
def test_a_folder_that_somebody_else_may_have_made_is_not_used(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    trap = tmp_path / "qformer-viz-7860"
    if kind == "link":
        (tmp_path / "target").mkdir()
        trap.symlink_to(tmp_path / "target")
    else:
        trap.mkdir()
        trap.chmod(0o777)
    assert not is_ours(trap)
    assert own_folder(7860, {}) != trap
