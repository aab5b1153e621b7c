"""Ground truth of rendered scenes: the patches of every object, the scene without it, and labels for probes."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from PIL import Image

from qformer_viz.domains.domain import GroundTruth, Labels
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


def masks(scene: Scene, rendered: Rendered) -> dict[str, np.ndarray]:
    """The patches of every object whose noun is shown once and that is visible at all.

    Returns:
        {noun: bool `[16, 16]`}: patches of which the object covers a quarter, or the one of which it covers most.
    """
    often = Counter(item.noun for item in scene.objects)
    found = {}
    for index, item in enumerate(scene.objects):
        cover = rendered.masks[index].reshape(16, SIDE, 16, SIDE).mean((1, 3))
        if often[item.noun] == 1 and cover.any():
            found[item.noun] = cover >= min(COVER, cover.max())
    return found


def ground_truth_scenes(count: int) -> Iterator[GroundTruth]:
    """Ground truth of `count` fresh scenes, less those that show no noun once.

    Masks are those of `masks`; `without` and `empty` are rendered again.
    """
    for seed in range(SEED, SEED + count):
        scene = random_scene(seed)
        rendered = render(scene)
        known = masks(scene, rendered)
        if not known:
            continue
        at = {item.noun: index for index, item in enumerate(scene.objects)}
        yield GroundTruth(
            image=rendered.image,
            masks=known,
            without={noun: render(without(scene, at[noun])).image for noun in known},
            empty=render(replace(scene, objects=())).image,
        )


def labels(scene: Scene) -> Labels:
    """What a scene shows, as labels for probes.

    Returns:
        nouns bool `[64]`; number of objects less one; places bool `[9]`, the zones that hold an object's centre, row by
        row; first and size, the noun and the size level of the leftmost object; artwork bool `[5]`, the sets that
        objects are drawn in; background, its kind.
    """
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


def labelled_scenes(count: int) -> Iterator[tuple[Image.Image, Labels]]:
    """`count` fresh scenes: image and labels."""
    for seed in range(LABELLED_SEED, LABELLED_SEED + count):
        scene = random_scene(seed)
        yield render(scene).image, labels(scene)
