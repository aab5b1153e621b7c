"""Where a saved model lies when the folder that was given only holds it: output of a Trainer, a cache of the hub."""

from __future__ import annotations

import re
from pathlib import Path

_PLACES = ("*", "snapshots/*", "models--*/snapshots/*", "hub/models--*/snapshots/*")
_FILES = ("config.json", "adapter_config.json")


def models_inside(folder: Path) -> list[str]:
    """Folders within `folder` that hold a saved model or an adapter, as paths from it: the one that a hub cache calls
    current first, then the latest `checkpoint-N`."""
    found = {path.parent for place in _PLACES for file in _FILES for path in folder.glob(f"{place}/{file}")}
    return [path.relative_to(folder).as_posix() for path in sorted(found, key=_rank)]


def advice(folder: Path) -> str:
    """One sentence on what to give instead of a folder that is no saved model itself."""
    inside = models_inside(folder)
    if not inside:
        return "Give the folder that save_pretrained wrote."
    names = ", ".join(f"{folder.name}/{name}" for name in inside[:3])
    more = f" and {len(inside) - 3} more" if len(inside) > 3 else ""
    return f"It holds {'one' if len(inside) == 1 else len(inside)} inside: give {names}{more}."


def _rank(path: Path) -> tuple[bool, int, str]:
    """Sorts what is current and recent first."""
    current = path.parent.parent / "refs" / "main"
    is_current = current.is_file() and current.read_text(encoding="utf-8").strip() == path.name
    step = re.fullmatch(r"checkpoint-(\d+)", path.name)
    return not is_current, -int(step.group(1)) if step else 0, str(path)
