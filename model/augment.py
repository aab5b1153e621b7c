"""Augmentation for the training of the ViT: colours and texture change, positions do not.

Unseen artwork differs from the known sets mostly in palette, outline and shading.
"""

from dataclasses import replace

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from qformer_viz.domains.emoji.scenes import SceneObject

# Share of augmented objects that are bent too.
BENT = 0.7


def augment_image(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change the appearance of an image in one or two ways.

    Args:
        image: uint8 `[h, w, 3]`.
        rng: chooses the changes and their strength.
    """
    picture = Image.fromarray(image)
    for name in rng.choice(len(_AUGMENTATIONS), size=1 + int(rng.random() < 0.4), replace=False):
        picture = _AUGMENTATIONS[name](picture, rng)
    return np.asarray(picture)


def _edges(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    edges = ImageOps.invert(picture.convert("L").filter(ImageFilter.FIND_EDGES)).convert("RGB")
    return Image.blend(edges, picture, float(rng.uniform(0.0, 0.6)))


def _grey(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageEnhance.Color(picture).enhance(float(rng.uniform(0.0, 0.35)))


def _invert(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageOps.invert(picture)


def _posterise(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageOps.posterize(picture, int(rng.integers(1, 4)))


def _contrast(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageEnhance.Contrast(picture).enhance(float(rng.choice((0.4, 0.6, 1.6, 2.2))))


def _tint(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    factors = rng.uniform(0.55, 1.3, 3)
    return Image.fromarray(np.clip(np.asarray(picture) * factors, 0, 255).astype(np.uint8))


def _swap(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    return Image.fromarray(np.asarray(picture)[..., rng.permutation(3)])


def _blur(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    return picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.5, 1.6))))


def _noise(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    pixels = np.asarray(picture) + rng.normal(0, rng.uniform(5, 30), (*picture.size[::-1], 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _erase(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    picture = picture.copy()
    for _ in range(int(rng.integers(1, 5))):
        left, top = (int(v) for v in rng.integers(0, picture.width, 2))
        width, height = (int(v) for v in rng.integers(4, 26, 2))
        colour = tuple(int(v) for v in rng.integers(0, 256, 3))
        picture.paste(colour, (left, top, left + width, top + height))
    return picture


_AUGMENTATIONS = (_edges, _grey, _invert, _posterise, _contrast, _tint, _swap, _blur, _noise, _erase)


def augment_object(item: SceneObject, rng: np.random.Generator) -> SceneObject:
    """The object in a random colour, tilted more and mostly bent, so that the ViT learns shape, not colour."""
    return replace(
        item,
        hue=float(rng.uniform(-180, 180)),
        saturation=float(rng.uniform(0.0, 1.6)),
        brightness=float(rng.uniform(0.5, 1.4)),
        angle=float(rng.uniform(-35, 35)),
        warp=int(rng.integers(1, 2**31)) if rng.random() < BENT else 0,
    )
