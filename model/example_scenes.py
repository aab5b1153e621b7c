"""The example gallery: eight scenes as PNG, with the scenes themselves so that every mask can be drawn again."""

import json
from dataclasses import replace
from pathlib import Path

from qformer_viz.asset_folder import ASSETS
from qformer_viz.domains.emoji.scenes import Scene, layout_scene, render

EXAMPLES = ASSETS / "examples"

# file name: nouns, layout, style (None mixes the sets), background, seed
_GALLERY = {
    "cat-and-dog.png": (("cat", "dog"), "row", "noto", "gradient", 3),
    "three-bees.png": (("bee", "bee", "bee", "rose"), "scatter", "fluent-emoji", "clouds", 11),
    "breakfast.png": (("cup", "donut", "egg"), "row", "fluent-emoji", "plain", 5),
    "garage.png": (("car", "car", "bicycle", "bus"), "grid", "twemoji", "stripes", 2),
    "rocket-and-star.png": (("star", "rocket"), "column", "fluent-emoji-flat", "gradient", 21),
    "pond.png": (("duck", "frog", "turtle"), "scatter", None, "clouds", 8),
    "concert.png": (("guitar", "drum", "monkey"), "scatter", "emojione", "dots", 4),
    "birthday.png": (("cake", "gift", "balloon", "balloon"), "grid", None, "checks", 13),
}


def gallery() -> dict[str, Scene]:
    """The example scenes by file name, tilted a little so that they do not look typeset."""
    scenes = {}
    for name, (nouns, layout, style, background, seed) in _GALLERY.items():
        scene = layout_scene(nouns, layout, style, background, seed)
        tilts = (-8.0, 6.0, -4.0, 9.0)
        objects = tuple(replace(item, angle=tilt) for item, tilt in zip(scene.objects, tilts, strict=False))
        scenes[name] = replace(scene, objects=objects)
    return scenes


def write_examples(folder: Path = EXAMPLES) -> list[Path]:
    """Write the PNGs and `scenes.json` (file name to scene)."""
    folder.mkdir(parents=True, exist_ok=True)
    scenes = gallery()
    for name, scene in scenes.items():
        render(scene).image.save(folder / name, optimize=True)
    index = {name: scene.to_dict() for name, scene in scenes.items()}
    (folder / "scenes.json").write_text(json.dumps(index, indent=1) + "\n")
    return [folder / name for name in scenes]
