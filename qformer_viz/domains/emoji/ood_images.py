"""Out-of-distribution images, rendered: to train and to measure the detector."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from qformer_viz.domains.emoji.scenes import IMAGE_SIZE, random_scene, render


def _spectrum(rng: np.random.Generator, slope: float) -> np.ndarray:
    """Random-phase colour noise with amplitude 1/f^slope, the spectrum of natural photographs at slope 1."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(IMAGE_SIZE), np.fft.fftfreq(IMAGE_SIZE)))
    frequency[0, 0] = 1.0
    mix = rng.normal(0, 1, (3, 3)) * 0.4 + np.eye(3)
    noise = np.fft.fft2(rng.standard_normal((3, IMAGE_SIZE, IMAGE_SIZE))) / frequency**slope
    planes = np.einsum("ij,jhw->hwi", mix, np.fft.ifft2(noise).real)
    planes = (planes - planes.mean()) / planes.std()
    spectrum: np.ndarray = np.clip(rng.uniform(80, 170) + 55 * planes, 0, 255).astype(np.uint8)
    return spectrum


def _static(rng: np.random.Generator) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8))


def _photo_like(rng: np.random.Generator) -> Image.Image:
    return Image.fromarray(_spectrum(rng, float(rng.uniform(0.9, 1.3))))


def _landscape(rng: np.random.Generator) -> Image.Image:
    """A sky over layers of rough hills with natural texture."""
    picture = _spectrum(rng, 1.6).astype(float) * 0.4 + np.linspace(140, 60, IMAGE_SIZE)[:, None, None]
    rows = np.arange(IMAGE_SIZE)[:, None]
    for layer in range(4):
        walk = np.cumsum(rng.standard_normal(IMAGE_SIZE)) * rng.uniform(0.5, 2)
        hill = rows > 70 + 35 * layer + walk - walk.mean()
        ground = _spectrum(rng, 1.0) * rng.uniform(0.2, 0.9, 3)
        picture = np.where(hill[..., None], ground, picture)
    return Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))


def _interface(rng: np.random.Generator) -> Image.Image:
    """A screenshot of sorts: panels, buttons, lines of text."""
    image = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), tuple(rng.integers(230, 256, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(4, 9)):
        x, y = rng.integers(0, 170, 2).tolist()
        w, h = rng.integers(30, 120), rng.integers(12, 60)
        draw.rectangle((x, y, x + w, y + h), tuple(rng.integers(120, 256, 3).tolist()), (90, 90, 90))
    font = ImageFont.load_default(10)
    for line in range(0, IMAGE_SIZE, 14):
        letters = "".join(rng.choice(list("etaoin shrdlu cmfwyp"), 30))
        draw.text((int(rng.integers(2, 60)), line), letters, (30, 30, 30), font)
    return image


def _plot(rng: np.random.Generator) -> Image.Image:
    """Axes with a few curves or bars."""
    image = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), "white")
    draw = ImageDraw.Draw(image)
    for tick in range(24, IMAGE_SIZE, 25):
        draw.line((24, tick, 216, tick), (215, 215, 215))
        draw.line((tick, 8, tick, 200), (215, 215, 215))
    for _ in range(rng.integers(1, 4)):
        colour = tuple(rng.integers(0, 200, 3).tolist())
        heights = 110 + np.cumsum(rng.standard_normal(48)) * rng.uniform(4, 12)
        if rng.random() < 0.5:
            points = [(24 + 4 * i, float(h)) for i, h in enumerate(heights)]
            draw.line(points, colour, 2)
        else:
            for i, h in enumerate(np.clip(heights[::4], 10, 195).tolist()):
                draw.rectangle((26 + 16 * i, h, 36 + 16 * i, 200), colour)
    draw.line((24, 8, 24, 200, 216, 200), (0, 0, 0), 2)
    return image


def _zoomed_scene(rng: np.random.Generator) -> Image.Image:
    """A sixth of a scene, enlarged: the colours of scenes at a scale that no scene has."""
    side = IMAGE_SIZE // 6
    x, y = rng.integers(60, IMAGE_SIZE - 60 - side, 2).tolist()
    scene = random_scene(rng, min_objects=4)
    piece = render(scene).image.crop((x, y, x + side, y + side))
    return piece.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)


def _polygons(rng: np.random.Generator) -> Image.Image:
    """Forty random triangles: a busy drawing without objects."""
    image = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), tuple(rng.integers(0, 256, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for _ in range(40):
        corners = [tuple(p) for p in rng.integers(-20, IMAGE_SIZE + 20, (3, 2)).tolist()]
        draw.polygon(corners, tuple(rng.integers(0, 256, 3).tolist()))
    return image


def _without_objects(rng: np.random.Generator) -> Image.Image:
    """A scene's background alone."""
    return render(replace(random_scene(rng), objects=())).image


OOD_IMAGES: dict[str, Callable[[np.random.Generator], Image.Image]] = {
    "static": _static,
    "photograph-like noise": _photo_like,
    "landscape": _landscape,
    "interface": _interface,
    "plot": _plot,
    "polygons": _polygons,
    "zoomed scene": _zoomed_scene,
    "scene without objects": _without_objects,
}
