"""Renders emoji scenes for the page and recognises those that it rendered."""

from collections.abc import Mapping, Sequence

import torch
from PIL import Image

from qformer_viz.domains.domain import KnownScene, SceneMaker
from qformer_viz.domains.emoji.ground_truth import masks
from qformer_viz.domains.emoji.scene_registry import SceneRegistry, crossing, moved, names, without
from qformer_viz.domains.emoji.scenes import (
    LAYOUTS,
    MAX_OBJECTS,
    NOUNS,
    STYLES,
    Scene,
    SceneData,
    layout_scene,
    render,
)
from qformer_viz.media.video import FRAMES


def make_scene_maker(gallery: Mapping[str, SceneData]) -> SceneMaker:
    """A renderer that also recognises the scenes of the gallery.

    Args:
        gallery: what `example_gallery.gallery_scenes` returns.
    """
    registry = SceneRegistry(map(Scene.from_dict, gallery.values()))

    def draw(nouns: Sequence[str], layout: str, style: str | None) -> Image.Image:
        return registry.draw(layout_scene(nouns, layout, style))

    def video(nouns: Sequence[str], layout: str, style: str | None) -> list[Image.Image]:
        return [render(scene).image for scene in crossing(layout_scene(nouns, layout, style), FRAMES)]

    def recall(image: Image.Image) -> KnownScene | None:
        scene = registry.recall(image)
        if scene is None:
            return None
        return KnownScene(
            objects=names(scene),
            masks={noun: torch.from_numpy(mask) for noun, mask in masks(scene, render(scene)).items()},
            without=lambda index: registry.draw(without(scene, index)),
            moved=lambda index, x, y: registry.draw(moved(scene, index, x, y)),
        )

    return SceneMaker(NOUNS, LAYOUTS, STYLES, draw, MAX_OBJECTS, recall, video)
