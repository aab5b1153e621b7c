"""Scenes with what an explanation should find in them: every object's cells, and the scene without it."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from .drawn import without
from .scenes import Rendered, Scene, random_scene, render

SEED, SIDE, COVER = 710_000, 14, 0.25


def masks(scene: Scene, drawn: Rendered) -> dict[str, np.ndarray]:
    """{noun: bool [16, 16]}, the cells that the object covers by a quarter, or the one that it covers most. Nouns shown
    once only, where anything of the object is to be seen."""
    often = Counter(item.noun for item in scene.objects)
    found = {}
    for index, item in enumerate(scene.objects):
        cover = drawn.masks[index].reshape(16, SIDE, 16, SIDE).mean((1, 3))
        if often[item.noun] == 1 and cover.any():
            found[item.noun] = cover >= min(COVER, cover.max())
    return found


def truths(count: int) -> Iterator[dict[str, Any]]:
    """Fresh scenes: `image`; `masks`, see there; `without` {noun: image}, re-rendered; `empty`, the background."""
    for seed in range(SEED, SEED + count):
        scene = random_scene(seed)
        drawn = render(scene)
        found: dict[str, Any] = {"image": drawn.image, "masks": masks(scene, drawn)}
        if not found["masks"]:
            continue
        at = {item.noun: index for index, item in enumerate(scene.objects)}
        found["without"] = {noun: render(without(scene, at[noun])).image for noun in found["masks"]}
        found["empty"] = render(replace(scene, objects=())).image
        yield found
