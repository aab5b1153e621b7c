"""An export is one file: a module of `qformer_viz.ui.exports` that defines EXPORT."""

import sys

import pytest

from qformer_viz.ui import build, exports
from qformer_viz.ui.export import all_exports
from tests.support.fakes_ui import fake_services

SOURCE = """
from qformer_viz.ui.export import Export


def write(app, session, folder):
    path = folder / "note.txt"
    path.write_text(session.encoded.sha256)
    return path


EXPORT = Export("note", "Note (TXT)", "The picture's digest", write, order=0)
"""


@pytest.fixture
def note(tmp_path, monkeypatch):
    (tmp_path / "note_export.py").write_text(SOURCE)
    monkeypatch.setattr(exports, "__path__", [*exports.__path__, str(tmp_path)])
    all_exports.cache_clear()
    yield
    sys.modules.pop("qformer_viz.ui.exports.note_export", None)
    all_exports.cache_clear()


def test_a_file_more_is_an_export_more(note, loop):
    assert next(iter(all_exports())) == "note"

    async def built():
        return build(fake_services())

    page = loop.run(built())
    buttons = {block.elem_id: block for block in page.blocks.values() if getattr(block, "elem_id", None)}
    assert buttons["export-note"].value == "Note (TXT)" and "export-npz" in buttons


def test_the_exports_are_those_of_the_page():
    assert list(all_exports()) == ["page", "sheet", "npz", "why", "heads", "manifest", "csv"]
