"""Says whether an image looks like the world the bundled model knows, from the ViT features it already has.

A linear probe on two summaries of the 256 patch features, their mean and their standard deviation over patches, taught
to tell scenes from drawn images of other kinds (outlier exposure: Hendrycks et al. 2019). The threshold is a quantile
measured on fresh scenes. Each kind is measured by a probe that was taught all the others; photographs teach none. (The
Mahalanobis distance to scenes alone, tried before, missed 4 in 10 photographs with a ViT that no noise disturbs.)
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from qformer_viz.asset_folder import ASSETS
from qformer_viz.domains.emoji.ood_images import OOD_IMAGES
from qformer_viz.domains.emoji.scenes import IMAGE_SIZE, random_scene, render

ASSET = ASSETS / "blip2-emoji"
PHOTOGRAPHS = ASSETS / "photographs"
STATISTICS = "familiar.safetensors"
FALSE_ALARMS = 0.01
PENALTY = 1e-3
SEED = 77


@dataclass(frozen=True)
class Familiarity:
    """`strangeness` is a log-odds; `familiar` is `strangeness <= threshold`."""

    strangeness: float
    threshold: float
    familiar: bool


def summary(vision_features: torch.Tensor) -> torch.Tensor:
    """`[..., 257, d]`, CLS first, to `[..., 2 d]` in float32."""
    patches = vision_features[..., 1:, :].float()
    return torch.cat([patches.mean(-2), patches.std(-2)], -1)


@dataclass(frozen=True)
class Familiar:
    """The fitted probe: weight `[2 d]`, bias `[]`, threshold."""

    weight: torch.Tensor
    bias: torch.Tensor
    threshold: float

    def strangeness(self, summaries: torch.Tensor) -> torch.Tensor:
        """Log-odds that summaries `[..., 2 d]` are none of scenes."""
        return summaries @ self.weight + self.bias

    def __call__(self, vision_features: torch.Tensor) -> Familiarity:
        """For one image's ViT output, `[257, d]` or `[1, 257, d]`."""
        if vision_features.numel() != vision_features.shape[-2] * vision_features.shape[-1]:
            raise ValueError(
                f"expected the features of one image, [257, d], got {tuple(vision_features.shape)}"
            )
        found = float(self.strangeness(summary(vision_features.detach())).reshape(()))
        # Features that are not numbers are nothing the model has seen.
        return Familiarity(found, self.threshold, math.isfinite(found) and found <= self.threshold)


def fit(scenes: torch.Tensor, ood_images: torch.Tensor, held_out: torch.Tensor) -> Familiar:
    """Logistic regression on summaries `[n, 2 d]`, both classes of equal weight; the threshold is of other scenes."""
    points = torch.cat([scenes, ood_images]).double()
    strange = torch.arange(len(points)) >= len(scenes)
    centre, spread = points.mean(0), points.std(0).clamp_min(1e-6)
    points = (points - centre) / spread
    share = torch.where(strange, 0.5 / len(ood_images), 0.5 / len(scenes)).double()
    found = torch.zeros(points.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([found], max_iter=300, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        solver.zero_grad()
        odds = points @ found[:-1] + found[-1]
        wrong = torch.nn.functional.binary_cross_entropy_with_logits(
            odds, strange.double(), share, reduction="sum"
        )
        total = wrong + PENALTY * found[:-1].square().sum()
        total.backward()
        return total

    solver.step(loss)
    weight = found.detach()[:-1] / spread
    unset = Familiar(weight.float(), (found.detach()[-1] - centre @ weight).float(), math.inf)
    threshold = float(torch.quantile(unset.strangeness(held_out), 1 - FALSE_ALARMS))
    return Familiar(unset.weight, unset.bias, threshold)


def save_familiar(familiar: Familiar, folder: Path, measured: dict) -> None:
    """The probe as safetensors, with what was measured in its metadata."""
    metadata = {"threshold": repr(familiar.threshold), "measured": json.dumps(measured)}
    save_file({"weight": familiar.weight, "bias": familiar.bias}, folder / STATISTICS, metadata)


@cache
def load_ood_detector(folder: Path | str = ASSET) -> Familiar:
    """Read the probe that lies beside the weights."""
    path = Path(folder) / STATISTICS
    with safe_open(path, "pt") as file:
        threshold = float(file.metadata()["threshold"])
    return Familiar(**load_file(path), threshold=threshold)


def photographs() -> list[Image.Image]:
    """Every photograph under `assets/photographs`, whole and its four quarters, square."""
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
    strange: int = 150,
) -> tuple[Familiar, dict]:
    """Fit on scenes and strangers, set the threshold on others, measure on a third set, on every kind of stranger
    (by a probe that was not taught the kind) and on photographs (which teach none).

    `features_of` maps images to ViT features `[n, 257, d]`. Returns the probe and the measured shares.
    """

    def summaries(draw: Callable[[np.random.Generator], Image.Image], seed: int, count: int) -> torch.Tensor:
        rng = np.random.default_rng([SEED, seed])
        sizes = [min(50, count - start) for start in range(0, count, 50)]
        return torch.cat([summary(features_of([draw(rng) for _ in range(size)])) for size in sizes])

    def scene(rng: np.random.Generator) -> Image.Image:
        return render(random_scene(rng)).image

    scenes, held_out, third = (summaries(scene, i, n) for i, n in enumerate((fitting, fresh, fresh)))
    ood_images = {name: summaries(draw, 10 + i, strange) for i, (name, draw) in enumerate(OOD_IMAGES.items())}

    def share(familiar: Familiar, summaries: torch.Tensor) -> float:
        return round(float((familiar.strangeness(summaries) > familiar.threshold).float().mean()), 4)

    familiar = fit(scenes, torch.cat(list(ood_images.values())), held_out)
    detected = {"photographs": share(familiar, summary(features_of(photographs())))}
    for name, own in ood_images.items():
        others = torch.cat([rest for other, rest in ood_images.items() if other != name])
        detected[name] = share(fit(scenes, others, held_out), own)
    return familiar, {"false_alarms": share(familiar, third), "detected": detected}
