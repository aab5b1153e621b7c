"""Recognises rendered scenes by their pixels, so that their objects are known and can be removed or moved."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace

from PIL import Image

from qformer_viz.domains.emoji.scenes import IMAGE_SIZE, Scene, render

KEPT = 256


class SceneRegistry:
    """The last scenes rendered, and those of the gallery. Safe under threads; holds descriptions, not images.

    Args:
        always: scenes that are recognised without having been rendered here.
    """

    def __init__(self, always: Iterable[Scene] = ()) -> None:
        self._always = list(always)
        self._recent: OrderedDict[str, Scene] = OrderedDict()
        self._fixed: dict[str, Scene] | None = None
        self._lock = threading.Lock()

    def draw(self, scene: Scene) -> Image.Image:
        """Render the scene, RGB 224 x 224; from now on `recall` recognises the image."""
        image = render(scene).image
        with self._lock:
            self._recent[_digest(image)] = scene
            while len(self._recent) > KEPT:
                self._recent.popitem(last=False)
        return image

    def recall(self, image: Image.Image) -> Scene | None:
        """The scene with exactly these pixels; None if it is not known."""
        if image.size != (IMAGE_SIZE, IMAGE_SIZE):
            return None
        with self._lock:
            if self._fixed is None:
                self._fixed = {_digest(render(scene).image): scene for scene in self._always}
            digest = _digest(image)
            return self._recent.get(digest) or self._fixed.get(digest)


def without(scene: Scene, index: int) -> Scene:
    """The scene without one of its objects."""
    return replace(scene, objects=scene.objects[:index] + scene.objects[index + 1 :])


def moved(scene: Scene, index: int, x: float, y: float) -> Scene:
    """The scene with the centre of one object at x, y, from 0 to 1; the object stays inside and comes to the front."""
    item = scene.objects[index]
    half = item.size / 2
    inside_x, inside_y = (min(max(side * IMAGE_SIZE, half), IMAGE_SIZE - half) for side in (x, y))
    at = replace(item, x=inside_x, y=inside_y)
    return replace(scene, objects=(*without(scene, index).objects, at))


def crossing(scene: Scene, steps: int) -> list[Scene]:
    """Scenes of a video: the first object crosses the image from left to right, at its own height, in front."""
    height = scene.objects[0].y / IMAGE_SIZE
    return [moved(scene, 0, (step + 0.5) / steps, height) for step in range(steps)]


def names(scene: Scene) -> tuple[str, ...]:
    """A name for every object: its noun, numbered where there are several."""
    nouns = [item.noun for item in scene.objects]
    return tuple(
        noun if nouns.count(noun) == 1 else f"{noun} {nouns[: index + 1].count(noun)}"
        for index, noun in enumerate(nouns)
    )


def _digest(image: Image.Image) -> str:
    return hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()
