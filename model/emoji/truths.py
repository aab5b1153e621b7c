"""Scenes with what an explanation should find in them: every object's cells, and the scene without it."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from .scenes import random_scene, render

SEED, SIDE, COVER = 710_000, 14, 0.25


def truths(count: int) -> Iterator[dict[str, Any]]:
    """Fresh scenes: `image`; `masks` {noun: bool [16, 16]}, cells that the object covers by a quarter, or the one that
    it covers most; `without` {noun: image}, re-rendered; `empty`, the background. Nouns shown once only, where
    anything of the object is to be seen."""
    for seed in range(SEED, SEED + count):
        scene = random_scene(seed)
        drawn = render(scene)
        often = Counter(item.noun for item in scene.objects)
        found: dict[str, Any] = {"image": drawn.image, "masks": {}, "without": {}}
        for index, item in enumerate(scene.objects):
            if often[item.noun] > 1:
                continue
            cover = drawn.masks[index].reshape(16, SIDE, 16, SIDE).mean((1, 3))
            if not cover.any():
                continue
            found["masks"][item.noun] = cover >= min(COVER, cover.max())
            others = scene.objects[:index] + scene.objects[index + 1 :]
            found["without"][item.noun] = render(replace(scene, objects=others)).image
        found["empty"] = render(replace(scene, objects=())).image
        if found["masks"]:
            yield found
