"""Exports of the page: whole files or none, and a message where the disk is full or may not be written."""

import errno
import os

import pytest
from PIL import Image

from qformer_viz import atomic_files
from qformer_viz.errors import CannotWrite
from qformer_viz.ui import chat, conversation, explanation_cache, export
from qformer_viz.ui.conversation import Session
from qformer_viz.ui.export import all_exports
from qformer_viz.ui.inspector import export_view


@pytest.fixture
def session(services):
    session = conversation.look(services, Session(), Image.new("RGB", (40, 30), "red"), None)
    *_, session = conversation.answer(services, session, services.decoding())
    kept = explanation_cache.get_or_create(services, session)
    kept.map("knockout", 0)
    return session


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    return tmp_path


NAMES = [name for name in all_exports() if name != "heads"]


@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk_leaves_no_file_and_is_told(services, session, folder, monkeypatch, name):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    assert os.path.getsize(export_view.make(services, name, session)) > 0
    before = {path for path in folder.rglob("*") if path.is_file()}
    monkeypatch.setattr(atomic_files.os, "fsync", full)
    with pytest.raises(CannotWrite, match="make room on the disk") as caught:
        export_view.make(services, name, session)
    assert {path for path in folder.rglob("*") if path.is_file()} == before
    assert str(folder) not in str(caught.value), "a server's folders are nobody's business"


def test_a_folder_that_may_not_be_written_is_told(services, session, folder, monkeypatch):
    def denied(*args, **options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(export.tempfile, "mkdtemp", denied)
    with pytest.raises(CannotWrite, match="may be written"):
        export_view.make(services, "npz", session)


def test_a_film_is_whole_or_not_there(services, session, folder, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic_files.os, "fsync", full)
    with pytest.raises(CannotWrite, match="make room"):
        chat.moving_scene(services, session, ["cat"], "row", "noto")
    assert not [path for path in folder.rglob("*") if path.is_file()]
