"""The folder of uploads is this program's own and never larger than its cap."""

import asyncio
import os
import stat
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from qformer_viz import ui
from qformer_viz.errors import CannotWrite
from qformer_viz.ui import upload_folder
from qformer_viz.ui.request_guard import shown
from qformer_viz.ui.upload_folder import FRESH, Cap, is_ours, own_folder, trim
from tests.support.fakes_ui import fake_services

NOW = 1_000_000.0


def file(folder, name, size, age):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    os.utime(path, (NOW - age, NOW - age))
    return path


def left(folder):
    """The files of a folder that another thread may be changing."""
    return [Path(parent, name) for parent, _, names in os.walk(folder) for name in names]


def test_the_oldest_files_go_first_and_their_folders_with_them(tmp_path):
    old, middle, young = (file(tmp_path, f"{age}/a.png", 100, age) for age in (9000, 6000, 3000))
    assert trim(tmp_path, 250, NOW) == 200
    assert not old.parent.exists() and middle.exists() and young.exists()
    assert trim(tmp_path, 250, NOW) == 200
    assert trim(tmp_path, 0, NOW) == 0 and not list(tmp_path.iterdir())


def test_what_is_on_its_way_stays(tmp_path):
    fresh, old = file(tmp_path, "new/a", 150, FRESH - 1), file(tmp_path, "old/a", 10, FRESH + 1)
    assert trim(tmp_path, 100, NOW) == 150
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
    while len(left(tmp_path)) > 5 and time.monotonic() < until:
        cap()
        time.sleep(0.01)
    assert sorted(int(path.parent.name) for path in left(tmp_path)) == [15, 16, 17, 18, 19]


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


def test_a_flood_within_a_minute_takes_twice_the_cap_at_most(tmp_path):
    files = [file(tmp_path, f"{n}/a", 100, FRESH - n) for n in range(1, 11)]
    assert trim(tmp_path, 200, NOW) == 400
    assert [path.exists() for path in files] == [False] * 6 + [True] * 4


def test_tiny_files_count_by_their_number(tmp_path):
    for number in range(10):
        file(tmp_path, f"{number}/a", 0, 1000 - number)
    trim(tmp_path, 10**9, NOW, most_files=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["7", "8", "9"]


def test_what_the_page_shows_stays(tmp_path):
    example, old = file(tmp_path, "e/example.png", 100, 9000), file(tmp_path, "old/a", 100, 8000)
    assert trim(tmp_path, 50, NOW, kept={str(example)}) == 100
    assert example.exists() and not old.exists()


@pytest.mark.slow
def test_the_pictures_of_the_gallery_are_among_what_the_page_shows(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    picture = tmp_path / "red.png"
    Image.new("RGB", (6, 4), "red").save(picture)
    pages = []

    async def built():
        pages.append(ui.build(fake_services(examples=((picture, "red"),))))

    thread = threading.Thread(target=lambda: asyncio.run(built()))
    thread.start()
    thread.join()
    (shown_file,) = shown({"app": SimpleNamespace(get_blocks=lambda: pages[0])})
    trim(tmp_path / "uploads", 0, time.time() + 9000, kept={shown_file})
    assert Path(shown_file).is_file() and Path(shown_file).is_relative_to(tmp_path / "uploads")


def test_the_cap_looks_again_when_nobody_calls(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    cap = Cap(100, every=0.05)
    cap()
    file(tmp_path, "a/a", 200, 0)
    cap()  # within `every` of the first: it must not be forgotten
    until = time.monotonic() + 20
    while left(tmp_path) and time.monotonic() < until:
        time.sleep(0.01)
    assert not left(tmp_path)


def test_what_is_too_fresh_is_looked_at_again(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    monkeypatch.setattr(upload_folder, "FRESH", 0.2)
    path = tmp_path / "a" / "a"
    path.parent.mkdir()
    path.write_bytes(b"x" * 150)
    Cap(100)()
    until = time.monotonic() + 20
    while path.exists() and time.monotonic() < until:
        time.sleep(0.01)
    assert not path.exists()


@pytest.mark.parametrize("kind", ["file", "nowhere"])
def test_a_folder_that_cannot_be_is_told(tmp_path, kind):
    if kind == "file":
        (tmp_path / "given").write_text("")
    given = tmp_path / "given" if kind == "file" else Path("/proc/nothing")
    with pytest.raises(CannotWrite):
        own_folder(7860, {"GRADIO_TEMP_DIR": str(given)})


def test_a_file_in_the_place_of_the_folder_is_passed_by(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "qformer-viz-7860").write_text("")
    assert own_folder(7860, {}).is_dir()
