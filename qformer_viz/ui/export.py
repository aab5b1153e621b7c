"""What a file of the Export tab is."""

from __future__ import annotations

import pkgutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

from gradio.utils import get_upload_folder

from qformer_viz.atomic_files import cannot_write, make_folder
from qformer_viz.ui import exports
from qformer_viz.ui.app_context import AppContext
from qformer_viz.ui.conversation import Session
from qformer_viz.view import archive as files


@dataclass(frozen=True)
class Export:
    """One file; a module of `qformer_viz.ui.exports` defines it as `EXPORT`.

    id     of its button
    title  on the button, with the format
    help   what is in the file, in one line
    write  (app, session, folder) -> the path of the file. Raises UserError where what it holds is not there yet
    order  its place on the page
    """

    id: str
    title: str
    help: str
    write: Callable[[AppContext, Session, Path], Path]
    order: int = 100


@cache
def all_exports() -> dict[str, Export]:
    """Every export by its id, in the order of the page."""
    names = [each.name for each in pkgutil.iter_modules(exports.__path__)]
    found = [import_module(f"{exports.__name__}.{name}").EXPORT for name in names]
    return {export.id: export for export in sorted(found, key=lambda each: (each.order, each.id))}


def about(app: AppContext, session: Session) -> dict:
    """The manifest of what is on the page."""
    question, answer = session.turns()[-1] if session.turns() else (None, None)
    return files.manifest(
        session.encoded.capture,
        app.of(session).pipe.describe(),
        image_sha256=session.encoded.sha256,
        question=question or None,
        answer=answer,
        placements=session.encoded.placements,
    )


def fresh_folder() -> Path:
    """A folder of its own in Gradio's cache. Raises CannotWrite."""
    cache = make_folder(get_upload_folder())
    try:
        return Path(tempfile.mkdtemp(dir=cache))
    except OSError as error:
        raise cannot_write(cache, error) from error
