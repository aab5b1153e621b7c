"""The images over which a model's queries are averaged, so that one can be replaced by what it says of any image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from model.checkpoints import ASSETS

SCENES, SEED = 64, 31_000
PHOTOGRAPHS = ASSETS / "photographs"


def reference_images(world: str) -> Iterator[Any]:
    """Fresh random scenes for a model of the rendered world, the shipped photographs for any other."""
    if world != "emoji scenes":
        yield from sorted(PHOTOGRAPHS.glob("*.jpg"))
        return
    from model.emoji.scenes import random_scene, render

    for seed in range(SEED, SEED + SCENES):
        yield render(random_scene(seed)).image
