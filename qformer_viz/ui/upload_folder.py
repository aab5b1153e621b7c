"""The folder of uploads and exports: this program's own, and never larger than its cap."""

import os
import stat
import tempfile
import threading
import time
from collections.abc import MutableMapping
from pathlib import Path

from gradio.utils import get_upload_folder

FRESH = 60
"""Seconds for which a file is left alone: it may be on its way to a visitor."""

_trimming = threading.Lock()


def own_folder(port: int, env: MutableMapping[str, str]) -> Path:
    """The folder for what visitors upload and what is made for them; noted in `env`, where Gradio looks for it.

    Gradio's default is one folder for all its apps of this machine, whose files a cap must not touch. The operator's
    GRADIO_TEMP_DIR goes first; the cap then counts all that is in it.
    """
    given = env.get("GRADIO_TEMP_DIR")
    folder = Path(given) if given else Path(tempfile.gettempdir()) / f"qformer-viz-{port}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not given and not is_ours(folder):
        folder = Path(tempfile.mkdtemp(prefix="qformer-viz-"))
    env["GRADIO_TEMP_DIR"] = str(folder)
    return folder


def is_ours(folder: Path) -> bool:
    """Whether nobody else of this machine can have put it there or write into it."""
    about = folder.lstat()
    if not stat.S_ISDIR(about.st_mode):
        return False
    return not hasattr(os, "getuid") or (about.st_uid == os.getuid() and not about.st_mode & 0o022)


def trim(folder: Path, most_bytes: int, now: float | None = None) -> int:
    """Delete files of a folder, oldest first, until the rest takes at most `most_bytes`; returns what it takes then.

    Files of the last minute stay. Folders that have become empty go too. Safe under threads.
    """
    now = time.time() if now is None else now
    with _trimming:
        found = []
        for path in folder.rglob("*"):
            try:
                about = path.lstat()
            except OSError:
                continue  # it was deleted meanwhile
            if stat.S_ISREG(about.st_mode):
                found.append((about.st_mtime, about.st_size, path))
        total = sum(size for _, size, _ in found)
        for modified, size, path in sorted(found):
            if total <= most_bytes or now - modified < FRESH:
                break
            try:
                path.unlink(missing_ok=True)
                if path.parent != folder:
                    path.parent.rmdir()
            except OSError:
                pass  # another file is in that folder, or it is in use
            total -= size if not path.exists() else 0
        return total


class Cap:
    """Keeps Gradio's folder within `most_bytes`: call it whenever something has been written there."""

    def __init__(self, most_bytes: int, every: float = 5) -> None:
        self.most_bytes, self.every = most_bytes, every
        self._last = 0.0

    def __call__(self) -> None:
        """Trim the folder, in a thread of its own, unless that was done a moment ago."""
        now = time.monotonic()
        if now - self._last >= self.every:
            self._last = now
            threading.Thread(
                target=trim, args=(Path(get_upload_folder()), self.most_bytes), daemon=True
            ).start()
