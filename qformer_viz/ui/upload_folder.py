"""The folder of uploads and exports: this program's own, and never larger than its cap."""

import math
import os
import stat
import tempfile
import threading
import time
from collections.abc import Collection, MutableMapping
from contextlib import suppress
from pathlib import Path

from gradio.utils import get_upload_folder

from qformer_viz.atomic_files import cannot_write, check_folder

FRESH = 60
"""Seconds for which a file is left alone, if it can be: it may be on its way to a visitor."""
MOST_FILES = 50_000
"""Files that are kept, for small ones take more room than their bytes, and time to look through."""

_trimming = threading.Lock()


def own_folder(port: int, env: MutableMapping[str, str]) -> Path:
    """The folder for what visitors upload and what is made for them; noted in `env`, where Gradio looks for it.

    Gradio's default is one folder for all its apps of this machine, whose files a cap must not touch. The operator's
    GRADIO_TEMP_DIR goes first; the cap then counts all that is in it. Raises CannotWrite.
    """
    given = env.get("GRADIO_TEMP_DIR")
    if given:
        folder = Path(given)
        check_folder(folder)
    else:
        folder = Path(tempfile.gettempdir()) / f"qformer-viz-{port}"
        with suppress(OSError):  # something else has that name
            folder.mkdir(mode=0o700, exist_ok=True)
        if not is_ours(folder):
            folder = another(folder)
    env["GRADIO_TEMP_DIR"] = str(folder)
    return folder


def another(folder: Path) -> Path:
    """A new folder beside one that cannot be used. Raises CannotWrite."""
    try:
        return Path(tempfile.mkdtemp(prefix="qformer-viz-", dir=folder.parent))
    except OSError as error:
        raise cannot_write(folder, error) from error


def is_ours(folder: Path) -> bool:
    """Whether nobody else of this machine can have put it there or write into it."""
    try:
        about = folder.lstat()
    except OSError:
        return False
    if not stat.S_ISDIR(about.st_mode):
        return False
    return not hasattr(os, "getuid") or (about.st_uid == os.getuid() and not about.st_mode & 0o022)


def trim(
    folder: Path,
    most_bytes: int,
    now: float | None = None,
    kept: Collection[str] = (),
    most_files: int = MOST_FILES,
) -> int:
    """Delete files of a folder, oldest first, until the rest takes at most `most_bytes`; returns what it takes then.

    Files of the last minute stay, unless the folder takes twice as much by them. So do those `kept`. Folders that have
    become empty go too. Safe under threads.
    """
    now = time.time() if now is None else now
    with _trimming:
        found = []
        for parent, _, names in os.walk(folder):
            for path in (Path(parent, name) for name in names):
                try:
                    about = path.lstat()
                except OSError:
                    continue  # it was deleted meanwhile
                if stat.S_ISREG(about.st_mode):
                    found.append((about.st_mtime, about.st_size, path))
        total, left = sum(size for _, size, _ in found), len(found)
        for modified, size, path in sorted(found):
            fold = 2 if now - modified < FRESH else 1
            if total <= fold * most_bytes and left <= fold * most_files:
                break
            if str(path) in kept:
                continue
            try:
                path.unlink(missing_ok=True)
                if path.parent != folder:
                    path.parent.rmdir()
            except OSError:
                pass  # another file is in that folder, or it is in use
            if not path.exists():
                total, left = total - size, left - 1
        return total


class Cap:
    """Keeps Gradio's folder within `most_bytes`: call it whenever something has been written there, with the files that
    must stay."""

    def __init__(self, most_bytes: int, every: float = 5) -> None:
        self.most_bytes, self.every = most_bytes, every
        self._lock = threading.Lock()
        self._last, self._due = -math.inf, math.inf
        self._timer: threading.Timer | None = None
        self._kept: Collection[str] = ()

    def __call__(self, kept: Collection[str] = ()) -> None:
        """Trim the folder in a thread of its own: at once, or soon if that was done a moment ago."""
        self._kept = kept
        self._plan(max(time.monotonic(), self._last + self.every))

    def _plan(self, due: float) -> None:
        with self._lock:
            if due >= self._due:
                return
            if self._timer is not None:
                self._timer.cancel()
            self._due = due
            self._timer = threading.Timer(max(due - time.monotonic(), 0), self._trim)
            self._timer.daemon = True
            self._timer.start()

    def _trim(self) -> None:
        with self._lock:
            self._last, self._due = time.monotonic(), math.inf
        if trim(Path(get_upload_folder()), self.most_bytes, kept=self._kept) > self.most_bytes:
            self._plan(time.monotonic() + FRESH)  # what is fresh now
