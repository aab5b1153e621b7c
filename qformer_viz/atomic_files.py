"""Files that are there whole or not at all: written under a temporary name in the same folder, then renamed."""

import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qformer_viz.errors import CannotWrite

_FIXES = {
    errno.ENOSPC: "make room on the disk, or choose a folder on another one",
    errno.EDQUOT: "make room in your quota, or choose a folder on another disk",
    errno.EFBIG: "choose a folder on a disk that takes larger files",
    errno.ENOENT: "make the folder first",
    errno.ENOTDIR: "choose a folder; a part of the path is a file",
    errno.EISDIR: "name a file in that folder",
    errno.ENAMETOOLONG: "choose a shorter name",
}
_ANY_FIX = "choose a folder that may be written to, and close programs that have the file open"


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """A temporary path to write to. It gets the name `path` when the block ends, and is removed when the block fails.

    A reader of `path` meets the file that was there before or the new one, whole, even if the process is killed.

    Args:
        path: where the file shall be; its folder exists. A link is followed; the mode of a file that is
            replaced is kept.
    Yields:
        The temporary path: an empty file in the same folder, with the same suffix. Only write to it in the block.
    Raises:
        CannotWrite: a full disk, a folder that may not be written to, a path that is no ordinary file.
    """
    path = Path(path)
    final, temporary = _places(path)
    try:
        _begin(final, temporary)
        yield temporary
        # On some file systems a full disk shows only here; and a rename must not reach the disk before the content.
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        if final.exists():
            shutil.copymode(final, temporary)
        os.replace(temporary, final)
    except OSError as error:
        if error.filename not in (None, str(temporary), str(final)):
            raise  # about another file, which the block wanted
        raise cannot_write(path, error) from error
    finally:
        if temporary.parent.is_dir():
            temporary.unlink(missing_ok=True)


def check_file(path: str | Path) -> None:
    """Raise CannotWrite where `atomic_write(path)` would fail to begin: to tell before a long computation."""
    final, temporary = _places(Path(path))
    try:
        _begin(final, temporary)
        temporary.unlink()
    except OSError as error:
        raise cannot_write(Path(path), error) from error


def check_folder(path: str | Path) -> None:
    """Make the folder if needed; raise CannotWrite where no file can be written in it."""
    _, temporary = _places(make_folder(path) / "check")
    try:
        temporary.touch()
        temporary.unlink()
    except OSError as error:
        raise cannot_write(Path(path), error) from error


def make_folder(path: str | Path) -> Path:
    """Make a folder and those above it, where they are missing; returns the path. Raises CannotWrite."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise CannotWrite(f"{path.name}, which is a file", "a folder", "choose another name") from error
    except OSError as error:
        raise cannot_write(path, error) from error
    return path


def _places(path: Path) -> tuple[Path, Path]:
    """(where links lead, a name beside it that nobody has)."""
    final = Path(os.path.realpath(path))
    return final, final.with_name(f".{final.stem[:40]}.{secrets.token_hex(6)}.part{final.suffix[:20]}")


def _begin(final: Path, temporary: Path) -> None:
    if final.exists() and not final.is_file():
        code = errno.EISDIR if final.is_dir() else errno.EINVAL
        raise OSError(code, os.strerror(code), str(final))
    temporary.touch(exist_ok=False)


def cannot_write(path: Path, error: OSError) -> CannotWrite:
    """The message for a file or folder that cannot be written. It holds the name without the folders above it, for a
    server's own folders are nobody's business."""
    why = error.strerror or str(error)
    fix = _FIXES.get(error.errno or 0, _ANY_FIX)
    return CannotWrite(f"{path.name}, which cannot be written ({why})", "a place that can be written to", fix)


def write_text(path: str | Path, text: str) -> Path:
    """Write text as UTF-8, whole or not at all; returns the path. Raises CannotWrite."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def write_json(path: str | Path, value: object, indent: int | None = None) -> Path:
    """Write a value as JSON in UTF-8, whole or not at all; returns the path. Raises CannotWrite."""
    return write_text(path, json.dumps(value, ensure_ascii=False, indent=indent))
