"""Pictures of a model's domain that its reference activations are taken over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from qformer_viz.asset_folder import ASSETS

SCENES, SEED = 64, 31_000
PHOTOGRAPHS = ASSETS / "photographs"


def reference_images(world: str) -> Iterator[Image.Image | Path]:
    """Fresh random scenes for a model of the rendered world, the shipped photographs for any other."""
    if world != "emoji scenes":
        yield from sorted(PHOTOGRAPHS.glob("*.jpg"))
        return
    from qformer_viz.domains.emoji.scenes import random_scene, render

    for seed in range(SEED, SEED + SCENES):
        yield render(random_scene(seed)).image
