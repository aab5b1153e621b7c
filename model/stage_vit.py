"""Stage `vit`: a small ViT, first on single-object crops, then on full scenes.

Crops of 6 x 6 patches (position embeddings cropped at a random offset) teach what a noun looks like at an
eighth of the cost; scenes then teach where objects are. Every patch has targets of its own: the noun that covers it,
the offset of its object's centre and the object's size, so that instances differ; and its own row and column, for
otherwise the features lose it (linear probes fell to 0.13, chance is 0.06) and no Q-Former can learn where objects are.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from transformers import Blip2VisionConfig, Blip2VisionModel

from model.augment import augment_image, augment_object
from model.training_loop import ATTENTION, Schedule, run
from qformer_viz.domains.emoji.backgrounds import random_background
from qformer_viz.domains.emoji.scenes import (
    IMAGE_SIZE,
    NOUNS,
    STYLES,
    TEACHING_STYLES,
    Scene,
    SceneObject,
    patch_labels,
    random_scene,
    render,
)

GRID = 16
PATCH = IMAGE_SIZE // GRID
CROP = 6
HIDDEN = 192
CROP_BATCH, SCENE_BATCH = 96, 24
CROP_SCHEDULE = Schedule(steps=1000, lr=1e-3)
SCENE_SCHEDULE = Schedule(steps=700, lr=7e-4)
MIXED_SCHEDULE = Schedule(steps=950, lr=1e-3)
LONG_SCHEDULE = Schedule(steps=4000, lr=1e-3, save_every=50)
ROBUST_SCHEDULE = Schedule(steps=6000, lr=8e-4, warmup=200, save_every=100)
ARTWORK_SCHEDULE = Schedule(steps=6000, lr=8e-4, warmup=200, save_every=100)
# Shares of objects and of images that are augmented in `vit_robust` and after it.
AUGMENTED_OBJECTS, AUGMENTED_IMAGES = 0.5, 0.4
# Share of images in the artwork of the domain, and not in further artwork, in `vit_artwork`.
KNOWN_ARTWORK = 0.5
# Window side in patches and how many windows make a batch of about equal cost.
PLACE_SIZE = 1.2
PLACE = (GRID, GRID, 9, 9, 3)
WINDOWS = {6: 96, 8: 52, 10: 34, GRID: 13}
SEED = 23
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def vision_config() -> Blip2VisionConfig:
    return Blip2VisionConfig(
        hidden_size=HIDDEN,
        intermediate_size=4 * HIDDEN,
        num_hidden_layers=6,
        num_attention_heads=3,
        image_size=IMAGE_SIZE,
        patch_size=PATCH,
        # The library's default, 1e-10, cannot be trained from.
        initializer_range=0.02,
    )


@torch.no_grad()
def place_patches(vit: Blip2VisionModel) -> None:
    """Add 2-D sinusoids to the position embeddings: rows in one half of the width, columns in the other.

    The library's start, N(0, 0.02), is a fiftieth of what trained patch embeddings come to, and is lost under them.
    """
    quarter = HIDDEN // 4
    angles = torch.arange(GRID)[:, None] / 20 ** (torch.arange(quarter) / quarter)
    axis = torch.cat([angles.sin(), angles.cos()], 1)
    rows, columns = axis[:, None].expand(-1, GRID, -1), axis[None].expand(GRID, -1, -1)
    vit.embeddings.position_embedding[0, 1:] += PLACE_SIZE * torch.cat([rows, columns], -1).flatten(0, 1)


def to_pixels(images: list[np.ndarray]) -> torch.Tensor:
    """Uint8 `[h, w, 3]` images to normalised `[b, 3, h, w]`, exactly as the saved image processor does."""
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (stacked - mean) / std


class PatchLearner(nn.Module):
    """The ViT with its training heads; the heads are thrown away afterwards."""

    def __init__(self):
        super().__init__()
        self.vit = Blip2VisionModel(vision_config())
        self.vit.set_attn_implementation(ATTENTION)
        place_patches(self.vit)
        self.noun = nn.Linear(HIDDEN, len(NOUNS) + 1)
        self.geometry = nn.Linear(HIDDEN, 3)
        # Own row and column (16 each), the object's cell both ways (9 each), its size level (3).
        self.place = nn.Linear(HIDDEN, sum(PLACE))

    def encode(self, pixels: torch.Tensor, offset: tuple[int, int] = (0, 0)) -> torch.Tensor:
        """`[b, 1 + patches, d]`; a smaller image takes the position embeddings of a window at `offset`."""
        embeddings = self.vit.embeddings
        patches = embeddings.patch_embedding(pixels.to(embeddings.patch_embedding.weight.dtype))
        rows, columns = patches.shape[-2:]
        table = embeddings.position_embedding[0, 1:].view(GRID, GRID, HIDDEN)
        window = table[offset[0] : offset[0] + rows, offset[1] : offset[1] + columns].reshape(-1, HIDDEN)
        tokens = patches.flatten(2).transpose(1, 2) + window
        first = embeddings.class_embedding + embeddings.position_embedding[:, :1]
        tokens = torch.cat([first.expand(len(tokens), -1, -1), tokens], 1)
        return self.vit.post_layernorm(self.vit.encoder(inputs_embeds=tokens).last_hidden_state)

    def forward(self, pixels, labels, geometry, offset=(0, 0)):
        """Loss and figures. `labels` `[b, p]`: 0 background, else noun + 1; `geometry` `[b, p, 3]`."""
        features = self.encode(pixels, offset)[:, 1:]
        logits = self.noun(features).float()
        on_object = labels > 0
        # Most patches are background; without weights they drown the objects.
        weights = torch.where(on_object, 1.0, 0.3)
        each = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        noun_loss = (each * weights.flatten()).sum() / weights.sum()
        distance = nn.functional.smooth_l1_loss(
            self.geometry(features[on_object]).float(), geometry[on_object]
        )
        right = (logits.argmax(-1) == labels)[on_object].float().mean()
        own, cells, sizes = _places(geometry, offset)
        places = self.place(features).float().split(PLACE, -1)
        own_loss = sum(
            nn.functional.cross_entropy(p.flatten(0, 1), t.flatten())
            for p, t in zip(places, own, strict=False)
        )
        object_loss = sum(
            nn.functional.cross_entropy(p[on_object], t[on_object])
            for p, t in zip(places[2:], (*cells, sizes), strict=True)
        )
        cell_right = (places[2].argmax(-1) == cells[0])[on_object].float().mean()
        row_right = (places[0].argmax(-1) == own[0]).float().mean()
        figures = {
            "nouns_right": right,
            "geometry": distance,
            "row_right": row_right,
            "cell_right": cell_right,
        }
        loss = noun_loss + 2.0 * distance + 0.2 * own_loss + 0.25 * object_loss
        return loss, {key: value.detach() for key, value in figures.items()}


def _places(geometry: torch.Tensor, offset: tuple[int, int]):
    """From `geometry` `[b, p, 3]` of a window at `offset`: own row and column, object's column and row, size level."""
    grid = round(geometry.shape[1] ** 0.5)
    steps = torch.arange(grid, device=geometry.device)
    rows = (offset[0] + steps).repeat_interleave(grid).expand(len(geometry), -1)
    columns = (offset[1] + steps).repeat(grid).expand(len(geometry), -1)
    cells = [
        (((own + 0.5) * PATCH + 50 * geometry[..., axis]) * 9 / IMAGE_SIZE).long().clamp(0, 8)
        for axis, own in enumerate((columns, rows))
    ]
    sizes = (geometry[..., 2] * 50 > 55).long() + (geometry[..., 2] * 50 > 81).long()
    return (rows, columns), cells, sizes


def crop_batch(step: int, batch: int = CROP_BATCH):
    """One object per 84-pixel image, at any scale that the scenes have, and a little off centre."""
    rng = np.random.default_rng([SEED, 1, step])
    side = CROP * PATCH
    images, labels, geometry = [], [], []
    for _ in range(batch):
        item = random_scene(rng, max_objects=1).objects[0]
        size = float(rng.uniform(40, 104))
        x, y = rng.uniform(side * 0.3, side * 0.7, 2).tolist()
        item = SceneObject(**{**vars(item), "x": x, "y": y, "size": size})
        scene = Scene((item,), random_background(rng))
        rendered = render(scene, side)
        images.append(np.asarray(rendered.image))
        nouns, distances = _targets(scene, patch_labels(rendered, CROP))
        labels.append(nouns)
        geometry.append(distances)
    offset = tuple(int(v) for v in rng.integers(0, GRID - CROP + 1, 2))
    return to_pixels(images), *_flat(labels, geometry), offset


def scene_batch(step: int, batch: int = SCENE_BATCH):
    """Full scenes: pixels `[b, 3, 224, 224]`, labels `[b, 256]`, geometry `[b, 256, 3]`."""
    rng = np.random.default_rng([SEED, 2, step])
    images, labels, geometry = [], [], []
    for _ in range(batch):
        scene = random_scene(rng, min_objects=2)
        rendered = render(scene)
        images.append(np.asarray(rendered.image))
        nouns, distances = _targets(scene, patch_labels(rendered, GRID))
        labels.append(nouns)
        geometry.append(distances)
    return to_pixels(images), *_flat(labels, geometry), (0, 0)


def mixed_batch(
    step: int, windows: dict[int, int] = WINDOWS, robust: bool = False, further_artwork: bool = False
):
    """Windows of 6 to 16 patches, cut from full scenes around one of their objects, at a random place.

    Most patches of a full scene show background; windows spend the time on objects and their neighbours.
    `robust` changes appearances strongly (module `augment_image`); `further_artwork` draws on `TEACHING_STYLES` too.
    """
    rng = np.random.default_rng([SEED, 3 + robust + further_artwork, step])
    grid = int(rng.choice(list(windows)))
    side = grid * PATCH
    images, labels, geometry = [], [], []
    for _ in range(windows[grid]):
        styles = TEACHING_STYLES if further_artwork and rng.random() >= KNOWN_ARTWORK else STYLES
        scene = random_scene(rng, min_objects=2, styles=styles)
        if robust:
            painted = tuple(
                augment_object(o, rng) if rng.random() < AUGMENTED_OBJECTS else o for o in scene.objects
            )
            scene = replace(scene, objects=painted)
        if grid < GRID:
            around = scene.objects[rng.integers(len(scene.objects))]
            left, top = (v - float(rng.uniform(0.25, 0.75)) * side for v in (around.x, around.y))
            moved = tuple(replace(item, x=item.x - left, y=item.y - top) for item in scene.objects)
            scene = replace(scene, objects=moved)
        rendered = render(scene, side)
        image = np.asarray(rendered.image)
        images.append(augment_image(image, rng) if robust and rng.random() < AUGMENTED_IMAGES else image)
        nouns, distances = _targets(scene, patch_labels(rendered, grid))
        labels.append(nouns)
        geometry.append(distances)
    offset = tuple(int(v) for v in rng.integers(0, GRID - grid + 1, 2))
    return to_pixels(images), *_flat(labels, geometry), offset


def _flat(labels, geometry):
    batch = len(labels)
    flat = torch.from_numpy(np.stack(labels)).reshape(batch, -1)
    return flat, torch.from_numpy(np.stack(geometry)).reshape(batch, -1, 3)


def _targets(scene: Scene, owners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Noun labels `[gh, gw]` and, per patch, its object's centre offset and size, in units of 50 pixels."""
    nouns = np.array([NOUNS.index(item.noun) + 1 for item in scene.objects] + [0])
    where = np.array([(item.x, item.y, item.size) for item in scene.objects] + [(0, 0, 0)], np.float32)
    target = where[owners]
    middle = (np.arange(len(owners), dtype=np.float32) + 0.5) * PATCH
    target[..., 0] -= middle[None, :]
    target[..., 1] -= middle[:, None]
    return nouns[owners], target / 50


def train_vision(
    accelerator: Accelerator,
    out: Path,
    crops: Schedule = CROP_SCHEDULE,
    scenes: Schedule = SCENE_SCHEDULE,
    mixed: Schedule = MIXED_SCHEDULE,
    long: Schedule = LONG_SCHEDULE,
    robust: Schedule = ROBUST_SCHEDULE,
    artwork: Schedule = ARTWORK_SCHEDULE,
) -> Blip2VisionModel:
    """Returns the trained `Blip2VisionModel`."""
    torch.manual_seed(SEED)
    learner = PatchLearner()

    def loss_of(module, batch):
        *tensors, offset = batch
        return module(*(tensor.to(accelerator.device) for tensor in tensors), offset)

    for name, draw, schedule in (
        ("vit_crops", crop_batch, crops),
        ("vit_scenes", scene_batch, scenes),
        ("vit_mixed", mixed_batch, mixed),
        # A second round from a high rate: one was not enough for the small drawings.
        ("vit_long", lambda step: mixed_batch(mixed.steps + step), long),
        ("vit_robust", partial(mixed_batch, robust=True), robust),
        ("vit_artwork", partial(mixed_batch, robust=True, further_artwork=True), artwork),
    ):
        learner = run(name, accelerator, learner, draw, loss_of, schedule, out)
    return learner.vit
