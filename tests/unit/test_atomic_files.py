"""Files are there whole or not at all: failures of every kind leave the old file, or none, and no litter."""

import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from qformer_viz.atomic_files import atomic_write, write_json, write_text
from qformer_viz.errors import CannotWrite, QFormerVizError

ROOT = Path(__file__).parents[2]
posix = pytest.mark.skipif(os.name != "posix", reason="signals and modes of a POSIX system")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "figures.json"


def test_the_file_appears_when_the_block_ends(path):
    with atomic_write(path) as temporary:
        assert temporary.parent == path.parent and temporary.suffix == ".json"
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new" and os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("old", [None, "old"])
@pytest.mark.parametrize("failure", [RuntimeError("a defect"), KeyboardInterrupt()])
def test_a_block_that_fails_leaves_what_was_there(path, old, failure):
    if old:
        path.write_text(old)
    with pytest.raises(type(failure)), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise failure
    assert os.listdir(path.parent) == ([path.name] if old else [])
    assert not old or path.read_text() == old


def test_a_full_disk_is_told_with_the_fix_and_without_the_folder(path):
    with (
        pytest.raises(CannotWrite, match=r"No space left.*make room") as told,
        atomic_write(path) as temporary,
    ):
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert os.listdir(path.parent) == [] and str(path.parent) not in str(told.value)
    assert path.name in str(told.value) and isinstance(told.value, QFormerVizError)


def test_an_error_about_another_file_is_not_taken_for_this_one(path):
    with pytest.raises(FileNotFoundError), atomic_write(path):
        (path.parent / "input that is not there").read_text()


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("none/a.json", "make the folder"),
        ("file/a.json", "part of the path is a file"),
        ("folder", "name a file"),
        ("n" * 300 + ".json", "shorter"),
    ],
)
def test_a_place_that_cannot_be_is_told_before_the_block_runs(tmp_path, name, fix):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    if len(name) > 255:
        # The temporary name is short, so the rename tells.
        with pytest.raises(CannotWrite, match=fix):
            write_text(tmp_path / name, "a")
    else:
        with pytest.raises(CannotWrite, match=fix), atomic_write(tmp_path / name):
            pytest.fail("the block ran")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_a_folder_that_may_not_be_written_to_is_told(path, monkeypatch):
    def refused(self, **_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "touch", refused)  # tests may run as root, whom no mode stops
    with pytest.raises(CannotWrite, match=r"Permission denied.*may be written to"):
        write_text(path, "a")


@posix
def test_devices_stay_devices(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CannotWrite, match="pipe"):
        write_text(tmp_path / "pipe", "a")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


@posix
def test_links_are_followed_and_modes_kept(tmp_path):
    target, link = tmp_path / "target.txt", tmp_path / "link.txt"
    target.write_text("old")
    target.chmod(0o600)
    link.symlink_to(target)
    write_text(link, "new")
    assert link.is_symlink() and target.read_text() == "new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    fresh, plain = write_text(tmp_path / "fresh.txt", "a"), tmp_path / "plain.txt"
    plain.write_text("a")
    assert fresh.stat().st_mode == plain.stat().st_mode


LIMITED = """
import resource, signal, sys
from qformer_viz.atomic_files import write_text
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_text(sys.argv[1], "x" * 5000)
except Exception as error:
    print(type(error).__name__, error)
"""
KILLED = """
import os, signal, sys
from qformer_viz.atomic_files import atomic_write
with atomic_write(sys.argv[1]) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@posix
def test_a_disk_that_takes_no_more_bytes_leaves_nothing(path):
    command = [sys.executable, "-c", LIMITED, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.startswith("CannotWrite Found figures.json") and os.listdir(path.parent) == []


@posix
def test_a_killed_process_leaves_no_half_file_under_the_name(path):
    path.write_text("old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL and path.read_text() == "old"


def test_json_and_text_are_utf_8(path):
    assert write_json(path, {"a": "ü"}) == path
    assert path.read_bytes() == '{"a": "ü"}'.encode()
