"""Says whether an image looks like the world the bundled model knows, from the ViT features it already has.

Two summaries of the 256 patch features, their mean and their standard deviation over patches, side by side; the
Mahalanobis distance of these to training-like scenes. The threshold is a quantile measured on fresh scenes.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from .scenes import IMAGE_SIZE, random_scene, render

ASSET = Path(__file__).resolve().parents[2] / "assets" / "blip2-emoji"
STATISTICS = "familiar.safetensors"
FALSE_ALARMS = 0.01
SEED = 77


@dataclass(frozen=True)
class Familiarity:
    """`distance` grows with strangeness; `familiar` is `distance <= threshold`."""

    distance: float
    threshold: float
    familiar: bool


def summary(vision_features: torch.Tensor) -> torch.Tensor:
    """`[..., 257, d]`, CLS first, to `[..., 2 d]` in float32."""
    patches = vision_features[..., 1:, :].float()
    return torch.cat([patches.mean(-2), patches.std(-2)], -1)


@dataclass(frozen=True)
class Familiar:
    """The fitted criterion: centre `[2 d]`, whitening `[2 d, 2 d]`, threshold."""

    centre: torch.Tensor
    whiten: torch.Tensor
    threshold: float

    def distances(self, summaries: torch.Tensor) -> torch.Tensor:
        """Root mean squared whitened deviation of summaries `[n, 2 d]`; about 1 for scenes."""
        return ((summaries - self.centre) @ self.whiten).pow(2).mean(-1).sqrt()

    def __call__(self, vision_features: torch.Tensor) -> Familiarity:
        """For one image's ViT output, `[257, d]` or `[1, 257, d]`."""
        if vision_features.numel() != vision_features.shape[-2] * vision_features.shape[-1]:
            raise ValueError(
                f"expected the features of one image, [257, d], got {tuple(vision_features.shape)}"
            )
        distance = float(self.distances(summary(vision_features.detach())).reshape(()))
        # Features that are not numbers are nothing the model has seen.
        return Familiarity(distance, self.threshold, math.isfinite(distance) and distance <= self.threshold)


def fit(scenes: torch.Tensor, held_out: torch.Tensor) -> Familiar:
    """From summaries `[n, 2 d]` of scenes; the threshold comes from those of other scenes."""
    points = scenes.double()
    centre = points.mean(0)
    covariance = torch.cov(points.T)
    # Directions that scenes hardly use would otherwise decide alone.
    floor = 0.01 * covariance.diagonal().mean()
    values, vectors = torch.linalg.eigh(covariance)
    whiten = (vectors / (values + floor).sqrt()).float()
    unset = Familiar(centre.float(), whiten, math.inf)
    threshold = float(torch.quantile(unset.distances(held_out), 1 - FALSE_ALARMS))
    return Familiar(unset.centre, unset.whiten, threshold)


def save_familiar(familiar: Familiar, folder: Path, measured: dict) -> None:
    """Statistics as safetensors, with what was measured in its metadata."""
    tensors = {"centre": familiar.centre, "whiten": familiar.whiten.contiguous()}
    metadata = {"threshold": repr(familiar.threshold), "measured": json.dumps(measured)}
    save_file(tensors, folder / STATISTICS, metadata)


@cache
def load_familiar(folder: Path | str = ASSET) -> Familiar:
    """Read the statistics that lie beside the weights."""
    path = Path(folder) / STATISTICS
    with safe_open(path, "pt") as file:
        threshold = float(file.metadata()["threshold"])
    tensors = load_file(path)
    return Familiar(tensors["centre"], tensors["whiten"], threshold)


def familiarity(vision_features: torch.Tensor, folder: Path | str = ASSET) -> Familiarity:
    """Judge one image from its ViT output `[257, d]` or `[1, 257, d]` (`last_hidden_state`)."""
    return load_familiar(folder)(vision_features.cpu())


# ---- images from elsewhere, to measure detection on


def _spectrum(rng: np.random.Generator, slope: float) -> np.ndarray:
    """Random-phase colour noise with amplitude 1/f^slope, the spectrum of natural photographs at slope 1."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(IMAGE_SIZE), np.fft.fftfreq(IMAGE_SIZE)))
    frequency[0, 0] = 1.0
    mix = rng.normal(0, 1, (3, 3)) * 0.4 + np.eye(3)
    noise = np.fft.fft2(rng.standard_normal((3, IMAGE_SIZE, IMAGE_SIZE))) / frequency**slope
    planes = np.einsum("ij,jhw->hwi", mix, np.fft.ifft2(noise).real)
    planes = (planes - planes.mean()) / planes.std()
    return np.clip(rng.uniform(80, 170) + 55 * planes, 0, 255).astype(np.uint8)


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
        draw.text((rng.integers(2, 60), line), letters, (30, 30, 30), font)
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
    """A sixth of a scene, blown up: the world's own colours at a scale it never has."""
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


STRANGERS: dict[str, Callable[[np.random.Generator], Image.Image]] = {
    "static": _static,
    "photograph-like noise": _photo_like,
    "landscape": _landscape,
    "interface": _interface,
    "plot": _plot,
    "polygons": _polygons,
    "zoomed scene": _zoomed_scene,
}


def measure(
    features_of: Callable[[list[Image.Image]], torch.Tensor], fitting: int = 1500, fresh: int = 1000
) -> tuple:
    """Fit on scenes, set the threshold on others, and measure on a third set and on every kind of stranger.

    `features_of` maps images to ViT features `[n, 257, d]`. Returns the criterion and the measured shares.
    """

    def scenes(seed: int, count: int) -> torch.Tensor:
        rng = np.random.default_rng([SEED, seed])
        chunks = []
        for start in range(0, count, 50):
            images = [render(random_scene(rng)).image for _ in range(min(50, count - start))]
            chunks.append(summary(features_of(images)))
        return torch.cat(chunks)

    familiar = fit(scenes(0, fitting), scenes(1, fresh))
    alarms = familiar.distances(scenes(2, fresh)) > familiar.threshold
    detected = {}
    for index, (name, draw) in enumerate(STRANGERS.items()):
        rng = np.random.default_rng([SEED, 10 + index])
        distances = familiar.distances(summary(features_of([draw(rng) for _ in range(40)])))
        detected[name] = round(float((distances > familiar.threshold).float().mean()), 3)
    return familiar, {"false_alarms": round(float(alarms.float().mean()), 4), "detected": detected}
