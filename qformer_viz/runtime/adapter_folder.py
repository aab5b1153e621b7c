"""Folders that hold an adapter of PEFT: what it is, and the base model that it was trained on. Loads no torch."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from qformer_viz.errors import CheckpointError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@dataclass(frozen=True)
class Adapter:
    """An adapter's folder, the name of the base model that it was trained on, PEFT's name of its kind, such as LORA,
    and the names of further adapters in folders within."""

    folder: Path
    base: str
    kind: str
    others: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.folder.name

    def __str__(self) -> str:
        return f"{self.name} ({self.kind}) on {Path(self.base).name}"


def find_adapter(folder: Path) -> Adapter | None:
    """The adapter that a folder holds, or None.

    Raises:
        CheckpointError: for one that cannot be read, or whose weights are not safetensors.
    """
    path = folder / CONFIG
    if not path.is_file():
        return None
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        base, kind = about.get("base_model_name_or_path"), about.get("peft_type")
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{folder.name}/{CONFIG} cannot be read: {error}. Save the adapter again."
        ) from error
    if not isinstance(base, str) or not base or not isinstance(kind, str):
        raise CheckpointError(
            f"{folder.name}/{CONFIG} names no base model (base_model_name_or_path) or no kind (peft_type). Write the "
            "name or folder of the model that the adapter was trained on there."
        )
    if not (folder / WEIGHTS).is_file():
        raise CheckpointError(
            f"The adapter {folder.name!r} has no {WEIGHTS}, and nothing but safetensors is read. Save it again with "
            "save_pretrained (safe_serialization=True)."
        )
    others = sorted(found.parent.name for found in folder.glob(f"*/{CONFIG}"))
    return Adapter(folder, base, kind, tuple(others))


def base_of(adapter: Adapter) -> str:
    """Name or folder of an adapter's base model: as it is written, or beside or within the adapter's folder.

    Raises:
        CheckpointError: for a folder that is not there any more.
    """
    here = adapter.folder
    for place in (Path(adapter.base), here / adapter.base, here.parent / Path(adapter.base).name):
        if place.is_dir() and place.resolve() != here.resolve():
            return str(place.resolve())
    if os.path.isabs(adapter.base) or adapter.base.startswith("."):
        raise CheckpointError(
            f"The adapter {adapter.name!r} was trained on {Path(adapter.base).name!r}, whose folder is not there any "
            f"more. Put that folder beside the adapter's, or write where it is into {adapter.name}/{CONFIG} "
            "(base_model_name_or_path)."
        )
    return adapter.base
