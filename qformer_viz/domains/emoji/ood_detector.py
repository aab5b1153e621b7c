"""Detects images that are out of distribution for a bundled model, from the ViT features of the image.

A linear probe on two summaries of the 256 patch features: their mean and their standard deviation over patches. It is
trained to tell scenes from rendered images of other kinds (outlier exposure, Hendrycks et al. 2019). The threshold is a
quantile of the scores of fresh scenes. Each kind is measured by a probe that was trained on all the others; no probe is
trained on photographs. (The Mahalanobis distance to scenes alone missed 4 in 10 photographs with a ViT that was trained
with noise.)
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from qformer_viz.asset_folder import ASSETS
from qformer_viz.domains.emoji.ood_images import OOD_IMAGES
from qformer_viz.domains.emoji.scenes import IMAGE_SIZE, random_scene, render
from qformer_viz.domains.photographs import FOLDER as PHOTOGRAPHS

ASSET = ASSETS / "blip2-emoji"
STATISTICS = "familiar.safetensors"
FALSE_ALARMS = 0.01
PENALTY = 1e-3
SEED = 77

Measured = dict[str, Any]
"""What `measure` found, as metrics.json holds it: false_alarms, and detected by kind."""


@dataclass(frozen=True)
class OODResult:
    """The score of one image.

    score            log-odds that the image is no scene, in nats
    threshold        highest score that counts as in distribution
    in_distribution  `score <= threshold`; False for a score that is not finite
    """

    score: float
    threshold: float
    in_distribution: bool


def summary(vision_features: torch.Tensor) -> torch.Tensor:
    """Mean and standard deviation over patches.

    Args:
        vision_features: `[..., 257, d]`, CLS first.

    Returns:
        float32 `[..., 2 d]`.
    """
    patches = vision_features[..., 1:, :].float()
    return torch.cat([patches.mean(-2), patches.std(-2)], -1)


@dataclass(frozen=True)
class OODDetector:
    """The fitted probe: weight `[2 d]`, bias `[]`, threshold in nats."""

    weight: torch.Tensor
    bias: torch.Tensor
    threshold: float

    def scores(self, summaries: torch.Tensor) -> torch.Tensor:
        """Log-odds `[...]`, in nats, that summaries `[..., 2 d]` are not those of scenes."""
        return summaries @ self.weight + self.bias

    def __call__(self, vision_features: torch.Tensor) -> OODResult:
        """Score one image by its ViT output, `[257, d]` or `[1, 257, d]`.

        Raises:
            ValueError: the features are of several images.
        """
        if vision_features.numel() != vision_features.shape[-2] * vision_features.shape[-1]:
            raise ValueError(
                f"expected the features of one image, [257, d], got {tuple(vision_features.shape)}"
            )
        found = float(self.scores(summary(vision_features.detach())).reshape(()))
        # Features that are not finite are out of distribution.
        return OODResult(found, self.threshold, math.isfinite(found) and found <= self.threshold)


def fit(scenes: torch.Tensor, ood_images: torch.Tensor, held_out: torch.Tensor) -> OODDetector:
    """Logistic regression with both classes of equal weight.

    Args:
        scenes: summaries `[n, 2 d]` of scenes to train on.
        ood_images: summaries `[m, 2 d]` of other images to train on.
        held_out: summaries `[k, 2 d]` of further scenes, which set the threshold: `FALSE_ALARMS` of them exceed it.
    """
    points = torch.cat([scenes, ood_images]).double()
    outside = torch.arange(len(points)) >= len(scenes)
    centre, spread = points.mean(0), points.std(0).clamp_min(1e-6)
    points = (points - centre) / spread
    share = torch.where(outside, 0.5 / len(ood_images), 0.5 / len(scenes)).double()
    found = torch.zeros(points.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([found], max_iter=300, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        solver.zero_grad()
        odds = points @ found[:-1] + found[-1]
        wrong = torch.nn.functional.binary_cross_entropy_with_logits(
            odds, outside.double(), share, reduction="sum"
        )
        total = wrong + PENALTY * found[:-1].square().sum()
        total.backward()
        return total

    solver.step(loss)
    weight = found.detach()[:-1] / spread
    unset = OODDetector(weight.float(), (found.detach()[-1] - centre @ weight).float(), math.inf)
    threshold = float(torch.quantile(unset.scores(held_out), 1 - FALSE_ALARMS))
    return OODDetector(unset.weight, unset.bias, threshold)


def save_ood_detector(detector: OODDetector, folder: Path, measured: Measured) -> None:
    """Write the probe as safetensors, with the measured shares in the metadata."""
    metadata = {"threshold": repr(detector.threshold), "measured": json.dumps(measured)}
    save_file({"weight": detector.weight, "bias": detector.bias}, folder / STATISTICS, metadata)


@cache
def load_ood_detector(folder: Path | str = ASSET) -> OODDetector:
    """Read the probe that lies beside the weights."""
    path = Path(folder) / STATISTICS
    with safe_open(path, "pt") as file:
        threshold = float(file.metadata()["threshold"])
    return OODDetector(**load_file(path), threshold=threshold)


def photograph_crops() -> list[Image.Image]:
    """Every shipped photograph, whole and its four quarters, each resized to 224 x 224."""
    pictures = []
    for path in sorted(PHOTOGRAPHS.glob("*.jpg")):
        whole = Image.open(path).convert("RGB")
        w, h = whole.size
        boxes = [(0, 0, w, h)] + [(x, y, x + w // 2, y + h // 2) for x in (0, w // 2) for y in (0, h // 2)]
        pictures += [whole.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC, box) for box in boxes]
    return pictures


def measure(
    features_of: Callable[[list[Image.Image]], torch.Tensor],
    fitting: int = 1500,
    fresh: int = 1000,
    outside: int = 150,
) -> tuple[OODDetector, Measured]:
    """Fit a probe and measure it: on fresh scenes, on every kind of other image and on photographs.

    Each kind is measured by a probe that was not trained on it. Nothing is trained on photographs.

    Args:
        features_of: images to ViT features `[n, 257, d]`.
        fitting: scenes to train on.
        fresh: scenes that set the threshold, and again as many that measure false alarms.
        outside: images of every other kind to train on.

    Returns:
        The probe, and {"false_alarms": share of scenes, "detected": {kind: share}}.
    """

    def summaries(draw: Callable[[np.random.Generator], Image.Image], seed: int, count: int) -> torch.Tensor:
        rng = np.random.default_rng([SEED, seed])
        sizes = [min(50, count - start) for start in range(0, count, 50)]
        return torch.cat([summary(features_of([draw(rng) for _ in range(size)])) for size in sizes])

    def scene(rng: np.random.Generator) -> Image.Image:
        return render(random_scene(rng)).image

    scenes, held_out, third = (summaries(scene, i, n) for i, n in enumerate((fitting, fresh, fresh)))
    ood_images = {name: summaries(draw, 10 + i, outside) for i, (name, draw) in enumerate(OOD_IMAGES.items())}

    def share(detector: OODDetector, summaries: torch.Tensor) -> float:
        return round(float((detector.scores(summaries) > detector.threshold).float().mean()), 4)

    detector = fit(scenes, torch.cat(list(ood_images.values())), held_out)
    detected = {"photographs": share(detector, summary(features_of(photograph_crops())))}
    for name, own in ood_images.items():
        others = torch.cat([rest for other, rest in ood_images.items() if other != name])
        detected[name] = share(fit(scenes, others, held_out), own)
    return detector, {"false_alarms": share(detector, third), "detected": detected}
