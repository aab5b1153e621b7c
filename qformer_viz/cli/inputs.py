"""What the command line is given to look at: image files, the images of folders, or one image on standard input."""

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from qformer_viz.errors import NoImage

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm"),
    *(".mp4", ".webm", ".mov", ".mkv", ".avi"),
)
"""The files of a folder that are looked at; a file that is named is looked at whatever its suffix."""

STDIN, MOST = "-", 1 << 28


@dataclass(frozen=True)
class Source:
    """One image to come: how it is called in the output, the folder for what is written of it, and where it is."""

    name: str
    folder: str
    place: str

    def read(self) -> str | bytes:
        """What is handed to the decoder: a path or a `data:` URL, or the bytes of standard input."""
        return sys.stdin.buffer.read(MOST) if self.place == STDIN else self.place


def several(arguments: Sequence[str]) -> bool:
    """Whether they ask for one line an image: more than one, or a folder."""
    return len(arguments) > 1 or os.path.isdir(arguments[0])


def listed(arguments: Sequence[str]) -> list[Source]:
    """The images that the arguments name, in order, those of a folder by name. Raises NoImage, before any is read."""
    if list(arguments).count(STDIN) > 1:
        raise NoImage("two images on standard input", "one", "write - once")
    found: list[Source] = []
    for place in (each for argument in arguments for each in _places(argument)):
        if place == STDIN:
            name, stem = "standard input", "stdin"
        elif place.startswith("data:"):
            name, stem = "data", "data"
        else:
            name, stem = place, Path(place).stem
        found.append(Source(name, _unused(stem, {each.folder.casefold() for each in found}), place))
    return found


def _places(argument: str) -> Iterator[str]:
    # Of `os.path`, which takes a name that is too long for one that is not there.
    if argument == STDIN or argument.startswith("data:") or os.path.isfile(argument):
        yield argument
        return
    if not os.path.isdir(argument):
        raise NoImage(
            f"no file {argument}", "an image file, a folder, or - for standard input", "check the path"
        )
    images = sorted(
        each
        for each in Path(argument).iterdir()
        if each.suffix.lower() in SUFFIXES and each.is_file() and not each.name.startswith(".")
    )
    if not images:
        raise NoImage(
            f"no image in the folder {argument}",
            f"files that end in {', '.join(SUFFIXES)}",
            "name another folder",
        )
    yield from map(str, images)


def _unused(stem: str, taken: set[str]) -> str:
    """A folder's name that no other image has, also where upper and lower case are the same."""
    names = (stem if number == 1 else f"{stem}-{number}" for number in range(1, len(taken) + 2))
    return next(name for name in names if name.casefold() not in taken)
