"""Scenes with what should be found in them: every object's cells, the scene without it, and what a probe may read."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from qformer_viz.domains.emoji.backgrounds import BACKGROUNDS
from qformer_viz.domains.emoji.scene_registry import without
from qformer_viz.domains.emoji.scenes import (
    NOUNS,
    SIZE_LEVELS,
    STYLES,
    ZONES,
    Rendered,
    Scene,
    random_scene,
    render,
    size_level,
    zone,
)

SEED, SIDE, COVER = 710_000, 14, 0.25
LABELLED_SEED = 930_000


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


def labels(scene: Scene) -> dict[str, Any]:
    """What a scene shows, for probes: `nouns` bool [64], `number` of objects less one, `places` bool [9], the thirds of
    the picture where an object's centre lies, row by row; `first` and `size`, noun and size of the leftmost object;
    `artwork` bool [5], the sets that objects are drawn in; `background`, its kind."""
    first = min(scene.objects, key=lambda item: item.x)
    return {
        "nouns": np.isin(NOUNS, [item.noun for item in scene.objects]),
        "number": len(scene.objects) - 1,
        "places": np.isin(np.ravel(ZONES), [zone(item) for item in scene.objects]),
        "first": NOUNS.index(first.noun),
        "size": list(SIZE_LEVELS).index(size_level(first.size)),
        "artwork": np.isin(STYLES, [item.style for item in scene.objects]),
        "background": BACKGROUNDS.index(scene.background.kind),
    }


def labelled(count: int) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Fresh scenes: image and labels."""
    for seed in range(LABELLED_SEED, LABELLED_SEED + count):
        scene = random_scene(seed)
        yield render(scene).image, labels(scene)
