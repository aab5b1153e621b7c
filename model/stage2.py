"""Stage 2: a Q-Former with 32 queries and a projection, between the frozen ViT and the frozen language model.

First the slot warm-up (see `slot_warmup`), then the loss of the language model itself, on captions and answers behind
the 32 projected queries. The ViT's features are computed once and kept on disk in float16; the text of a scene is drawn
anew in every epoch.
"""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from transformers import (
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
    Blip2VisionModel,
    PreTrainedTokenizerBase,
)

from model.augment import augment_object
from model.recipe_options import DEFAULT, Options
from model.slot_warmup import REGIONS, region, regional_description, slot_loss
from model.stage_language import CAPTIONS
from model.stage_vit import GRID, HIDDEN, PATCH, to_pixels
from model.training_loop import ATTENTION, Schedule, batches, run
from model.training_sequences import SequenceBuilder, answer_loss
from qformer_viz.domains.emoji.scenes import STYLES, TEACHING_STYLES, Scene, random_scene, render

BATCH = 48
SCENES = 20_000
WARMUP = Schedule(steps=1200, lr=1e-3, warmup=60)
SCHEDULE = Schedule(steps=2000, lr=4e-4, warmup=60)
# Scenes from which the queries' start is averaged.
START_SCENES = 3000
SEED = 37
TOKENS = 1 + GRID * GRID


def training_scene(index: int) -> Scene:
    """Scene number `index` of the training set; most have two objects or more.

    One in five is drawn with teaching artwork, so that less certain features occur.
    """
    styles = TEACHING_STYLES if index % 5 == 4 else STYLES
    return random_scene(np.random.default_rng([SEED, index]), min_objects=1 + (index % 4 > 0), styles=styles)


def augmented_scene(index: int) -> Scene:
    """Scene number `index` of a second set: augmented objects in teaching artwork, whose nouns
    the ViT encodes about as well as those of unseen artwork."""
    rng = np.random.default_rng([SEED, 1, index])
    scene = random_scene(rng, min_objects=1 + (index % 4 > 0), styles=TEACHING_STYLES)
    return replace(scene, objects=tuple(augment_object(item, rng) for item in scene.objects))


@torch.no_grad()
def cache_features(
    accelerator: Accelerator,
    vit: Blip2VisionModel,
    out: Path,
    scenes: int,
    batch: int = 64,
    draw: Callable[[int], Scene] = training_scene,
    name: str = "features",
) -> np.memmap:
    """Float16 `[scenes, 257, d]` on disk, made by the frozen ViT; continues where an earlier run stopped.

    `draw(index)`: the scene of a row; `name`: of the file below `out`.
    """
    with accelerator.main_process_first():
        return _cache_features(accelerator, vit, out, scenes, batch, draw, name)


def _cache_features(
    accelerator: Accelerator, vit: Blip2VisionModel, out: Path, scenes: int, batch: int, draw, name: str
) -> np.memmap:
    path, progress = out / f"{name}.f16", out / f"{name}.json"
    shape = (scenes, TOKENS, HIDDEN)
    done = json.loads(progress.read_text())["done"] if progress.exists() else 0
    if path.exists() and path.stat().st_size != 2 * int(np.prod(shape)):
        done = 0
    store = np.memmap(path, np.float16, "r+" if done else "w+", shape=shape)
    vit = vit.to(accelerator.device).eval()
    began, first = time.monotonic(), done

    def pictures(start: int) -> torch.Tensor:
        indices = range(start, min(scenes, start + batch))
        return to_pixels([np.asarray(render(draw(index)).image) for index in indices])

    for pixels in batches(pictures, range(done, scenes, batch), accelerator):
        end = done + len(pixels)
        with accelerator.autocast():
            features = vit(pixel_values=pixels.to(accelerator.device)).last_hidden_state
        store[done:end] = features.float().cpu().numpy()
        done = end
        if done % (batch * 20) == 0 or done == scenes:
            store.flush()
            progress.write_text(json.dumps({"done": done}))
            left = (time.monotonic() - began) / (done - first) * (scenes - done)
            accelerator.print(f"{name} {done}/{scenes}  {left / 60:.1f} min left", flush=True)
    return store


class Bridge(nn.Module):
    """Queries, Q-Former and projection of a BLIP-2: what this stage trains."""

    def __init__(self, model: Blip2ForConditionalGeneration):
        super().__init__()
        self.query_tokens = model.query_tokens
        self.qformer = model.qformer
        self.projection = model.language_projection

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Vision features `[b, 257, d]` to the language model's prefix `[b, 32, d]`."""
        queries = self.query_tokens.expand(len(features), -1, -1)
        read = self.qformer(query_embeds=queries, encoder_hidden_states=features, return_dict=True)
        return self.projection(read.last_hidden_state)


def similarity_penalty(queries: torch.Tensor) -> torch.Tensor:
    """Mean squared cosine between different queries of an image, centred over the queries; `[b, q, d]`."""
    centred = nn.functional.normalize(queries.float() - queries.float().mean(1, keepdim=True), dim=-1)
    cosine = centred @ centred.transpose(1, 2)
    count = queries.shape[1]
    return (cosine.square().sum((1, 2)) - count).mean() / (count * (count - 1))


class PatchBridge(nn.Module):
    """A linear map for a Q-Former, from as many patches as there are queries: one of each region, or its mean."""

    def __init__(self, model: Blip2ForConditionalGeneration, kind: str):
        super().__init__()
        self.kind = kind
        self.regions = REGIONS[model.query_tokens.shape[1]]
        self.projection = nn.Linear(HIDDEN, model.language_projection.out_features)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """As `Bridge.forward`."""
        columns, rows = self.regions
        patches = features[:, 1:].transpose(1, 2).unflatten(2, (GRID, GRID))
        if self.kind == "average":
            picked = nn.functional.adaptive_avg_pool2d(patches, (rows, columns))
        else:
            picked = patches[..., GRID // rows // 2 :: GRID // rows, GRID // columns // 2 :: GRID // columns]
        return self.projection(picked.flatten(2).transpose(1, 2))


def freeze(model: Blip2ForConditionalGeneration | Blip2ForImageTextRetrieval, options: Options) -> None:
    """Keep the queries, or the whole Q-Former, as they are."""
    if options.freeze != "none":
        model.query_tokens.requires_grad_(False)
    if options.freeze == "qformer":
        model.qformer.requires_grad_(False)


@torch.no_grad()
def initialise(qformer, query_tokens: torch.Tensor, features: np.ndarray, random: bool = False) -> None:
    """A start from which a Q-Former learns in minutes.

    The library's N(0, 0.02) is too small for matrices of this width: nothing gets through six layers. Every query
    starts as the average feature `features` `[n, 257, d]` of its region's patches, and cross-attention with equal
    matrices for queries and keys, so that it attends there first. All of it is trained.
    `random`: queries start at N(0, 1) instead.
    """
    for module in qformer.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
    mean = torch.from_numpy(features.astype(np.float32).mean(0))[1:]
    mean = mean - mean.mean(0)
    centres = [(step + 0.5) * PATCH for step in range(GRID)]
    count = query_tokens.shape[1]
    owner = torch.tensor([region(x, y, count) for y in centres for x in centres])
    queries = torch.stack([mean[owner == query].mean(0) for query in range(count)])
    query_tokens.copy_(torch.randn_like(queries) if random else queries / queries.std(-1, keepdim=True))
    for layer in qformer.encoder.layer:
        if layer.has_cross_attention:
            attention = layer.crossattention.attention
            attention.query.weight.normal_(std=1.5 * HIDDEN**-0.5)
            attention.key.weight.copy_(attention.query.weight)


@torch.no_grad()
def copy_queries(model: Blip2ForConditionalGeneration, stage1_model: Blip2ForImageTextRetrieval) -> None:
    """Start the queries and the Q-Former of `model` as those of stage 1; the text branch is left behind."""
    model.query_tokens.copy_(stage1_model.query_tokens)
    kept = model.qformer.state_dict()
    model.qformer.load_state_dict({k: v for k, v in stage1_model.qformer.state_dict().items() if k in kept})


def train_stage2(
    accelerator: Accelerator,
    model: Blip2ForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    out: Path,
    warmup: Schedule = WARMUP,
    schedule: Schedule = SCHEDULE,
    scenes: int = SCENES,
    batch: int = BATCH,
    stage1_model: Blip2ForImageTextRetrieval | None = None,
    options: Options = DEFAULT,
    features: np.ndarray | None = None,
) -> nn.Module:
    """Train and return the bridge of `model` (a `Blip2ForConditionalGeneration` that holds the trained ViT and OPT).

    `stage1_model`: the retrieval model of stage 1 to start from; None starts with queries that attend to a region each.
    `features`: the cached ones. The projection starts at zero: at any other start its first outputs lie far from all
    words, and correcting that makes the queries alike.
    """
    if features is None:
        features = cache_features(accelerator, model.vision_model, out, scenes)
    if stage1_model is None:
        initialise(model.qformer, model.query_tokens.data, features[:START_SCENES], options.freeze != "none")
    else:
        copy_queries(model, stage1_model)
    freeze(model, options)
    model.qformer.set_attn_implementation(ATTENTION)
    nn.init.zeros_(model.language_projection.weight)
    model.to(accelerator.device)
    model.vision_model.requires_grad_(False)
    language_model = model.language_model.requires_grad_(False).eval()
    words = language_model.get_input_embeddings().weight
    builder = SequenceBuilder(tokenizer, caption_share=1.0, captions=CAPTIONS, wording="all")

    def draw(step: int, stage: int) -> tuple[list[int], torch.Tensor]:
        epoch, place = divmod(step * batch, scenes)
        order = np.random.default_rng([SEED, stage, epoch]).permutation(scenes)
        chosen = np.sort(np.take(order, range(place, place + batch), mode="wrap"))
        seen = torch.from_numpy(features[chosen])
        return chosen.tolist(), seen.roll(1, 0) if options.shuffled else seen

    @cache
    def described(index: int) -> list[list[int]]:
        slots = regional_description(training_scene(index), model.query_tokens.shape[1])
        ids = [[builder.encode(f" {word}")[0] for word in slot] for slot in slots]
        return [row + [-1] * (4 - len(row)) for row in ids]

    def warmup_batch(step: int):
        chosen, seen = draw(step, 3)
        return seen, torch.tensor([described(i) for i in chosen])

    def warmup_loss(bridge, batch):
        seen, wanted = (part.to(accelerator.device) for part in batch)
        loss, right = slot_loss(bridge(seen.float()), wanted, words)
        return loss, {"words_right": right}

    def answer_batch(step: int):
        chosen, seen = draw(step, 1)
        scenes = [training_scene(i) for i in chosen]
        return seen, builder.batch(scenes, np.random.default_rng([SEED, 2, step]))

    def answer_batch_loss(bridge, batch):
        seen, rows = (part.to(accelerator.device) for part in batch)
        prefix = bridge(seen.float())
        loss, right = answer_loss(language_model, prefix, rows)
        if options.diversity:
            loss = loss + options.diversity * similarity_penalty(prefix)
        return loss, {"tokens_right": right}

    bridge = Bridge(model) if options.bridge == "qformer" else PatchBridge(model, options.bridge)
    bridge.to(accelerator.device)
    if options.slot_warmup:
        run("dictation", accelerator, bridge, warmup_batch, warmup_loss, warmup, out)
    run("bridge", accelerator, bridge, answer_batch, answer_batch_loss, schedule, out)
    model.eval()
    return bridge.eval()
