"""Stage `bridge`: a Q-Former with 32 queries and a projection, between the frozen ViT and the frozen language model.

The loss is the language model's own, on captions and answers behind the 32 projected queries. The ViT's
features are computed once and kept on disk in float16; the text of a scene is drawn afresh in every epoch.
"""

import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from .loop import Schedule, run
from .scenes import random_scene, render
from .sequences import SequenceBuilder, answer_loss
from .vision import GRID, HIDDEN, to_pixels

BATCH = 48
SCENES = 20_000
SCHEDULE = Schedule(steps=2400, lr=1e-3, warmup=150)
SEED = 37
TOKENS = 1 + GRID * GRID


def training_scene(index: int):
    """Scene number `index` of the training set; two objects or more in most, for there is more to say."""
    return random_scene(np.random.default_rng([SEED, index]), min_objects=1 + (index % 4 > 0))


@torch.no_grad()
def cache_features(accelerator, vit, out: Path, scenes: int, batch: int = 64) -> np.memmap:
    """Float16 `[scenes, 257, d]` on disk, made by the frozen ViT; continues where an earlier run stopped."""
    path, progress = out / "features.f16", out / "features.json"
    shape = (scenes, TOKENS, HIDDEN)
    done = json.loads(progress.read_text())["done"] if progress.exists() else 0
    if path.exists() and path.stat().st_size != 2 * int(np.prod(shape)):
        done = 0
    store = np.memmap(path, np.float16, "r+" if done else "w+", shape=shape)
    vit = vit.to(accelerator.device).eval()
    began, first = time.monotonic(), done
    while done < scenes:
        end = min(scenes, done + batch)
        pixels = to_pixels([np.asarray(render(training_scene(i)).image) for i in range(done, end)])
        with accelerator.autocast():
            features = vit(pixel_values=pixels.to(accelerator.device)).last_hidden_state
        store[done:end] = features.float().cpu().numpy()
        done = end
        if done % (batch * 20) == 0 or done == scenes:
            store.flush()
            progress.write_text(json.dumps({"done": done}))
            left = (time.monotonic() - began) / (done - first) * (scenes - done)
            accelerator.print(f"features {done}/{scenes}  {left / 60:.1f} min left", flush=True)
    return store


class Bridge(nn.Module):
    """Queries, Q-Former and projection of a BLIP-2: what this stage trains."""

    def __init__(self, model):
        super().__init__()
        self.query_tokens = model.query_tokens
        self.qformer = model.qformer
        self.projection = model.language_projection

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Vision features `[b, 257, d]` to the language model's prefix `[b, 32, d]`."""
        queries = self.query_tokens.expand(len(features), -1, -1)
        read = self.qformer(query_embeds=queries, encoder_hidden_states=features, return_dict=True)
        return self.projection(read.last_hidden_state)


def train_bridge(
    accelerator, model, tokenizer, out: Path, schedule: Schedule = SCHEDULE, scenes: int = SCENES, batch: int = BATCH
):
    """Train the bridge of `model` (a `Blip2ForConditionalGeneration` that holds the trained ViT and OPT)."""
    features = cache_features(accelerator, model.vision_model, out, scenes)
    model.to(accelerator.device)
    model.vision_model.requires_grad_(False)
    language_model = model.language_model.requires_grad_(False).eval()
    builder = SequenceBuilder(tokenizer)

    def loss_of(bridge, step: int):
        epoch, place = divmod(step * batch, scenes)
        order = np.random.default_rng([SEED, 1, epoch]).permutation(scenes)
        chosen = np.take(order, range(place, place + batch), mode="wrap")
        rng = np.random.default_rng([SEED, 2, step])
        rows = builder.batch([training_scene(i) for i in chosen], rng)
        seen = torch.from_numpy(features[np.sort(chosen)][np.argsort(np.argsort(chosen))]).float()
        prefix = bridge(seen.to(accelerator.device))
        loss, right = answer_loss(language_model, prefix, rows.to(prefix.device))
        return loss, {"tokens_right": right}

    run("bridge", accelerator, Bridge(model), loss_of, schedule, out)
    return model.eval()
