"""The domain of every published checkpoint: photographs, of which a few are shipped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qformer_viz.asset_folder import ASSETS
from qformer_viz.domains.domain import Domain

FOLDER = ASSETS / "photographs"
PHOTO_COMMAND = "python app.py --model Salesforce/blip2-opt-2.7b --quantization 8bit"
"""Starts the program with a model for photographs."""


@dataclass(frozen=True)
class Photographs(Domain):
    """Photographs, or images of a kind that this program does not know."""

    name: str = "photographs"

    def reference_images(self) -> Iterator[Path]:
        """The shipped photographs."""
        yield from sorted(FOLDER.glob("*.jpg"))
