"""The example scenes that are shipped: images, titles and the scenes behind them."""

import json
from pathlib import Path
from typing import Any

from qformer_viz.asset_folder import ASSETS
from qformer_viz.domains.domain import Example
from qformer_viz.errors import CheckpointError

FOLDER = ASSETS / "examples"
INDEX = "scenes.json"
"""{file name: scene}, in the gallery's order; written by `python -m model examples`."""


def gallery_scenes() -> dict[str, dict[str, Any]]:
    """The scenes as `Scene.from_dict` takes them, by file name.

    Raises:
        CheckpointError: the index cannot be read.
    """
    try:
        found: dict[str, dict[str, Any]] = json.loads((FOLDER / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise incomplete("assets/examples", error) from error
    return found


def gallery_images() -> tuple[Example, ...]:
    """The images with their titles.

    Raises:
        CheckpointError: the index cannot be read, or an image is missing.
    """
    found = tuple(Example(FOLDER / name, Path(name).stem.replace("-", " ")) for name in gallery_scenes())
    if missing := [example.path.name for example in found if not example.path.is_file()]:
        raise incomplete("assets/examples", f"{', '.join(missing)} missing")
    return found


def incomplete(folder: str, why: object) -> CheckpointError:
    """The error for a folder of this repository that lacks files."""
    return CheckpointError(
        f"{folder} cannot be read ({why}). Get the repository complete: git checkout -- {folder}"
    )
