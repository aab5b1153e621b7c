"""Retrieval and matching of the retrieval model, on fresh scenes.

Recall counts every caption that is true of an image as right. Matching is judged on hard negatives, half of the pairs
true: the most similar false caption or image of the pool, and captions with one thing made false. Intervals: 95 %
bootstrap over images.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from transformers import AutoConfig, Blip2ForImageTextRetrieval, Blip2Processor

from model import scene_text
from model.evaluation import SEED, SceneOptions, calibration, fresh_scenes, intervals
from model.stage1 import Stage1Losses
from qformer_viz.domains.emoji.scenes import UNSEEN_STYLES, Scene, render

POOL = 100
# The matching head ranks so many candidates of the contrastive order anew, as the paper does with 128 of 5000.
RERANKED = 16


class Matcher:
    """A saved `Blip2ForImageTextRetrieval` over ViT features that are computed once."""

    def __init__(self, folder: Path | str):
        self.model = Blip2ForImageTextRetrieval.from_pretrained(folder, dtype=torch.float32).eval()
        self.processor = Blip2Processor.from_pretrained(folder)
        self.trained = Stage1Losses(self.model, decoder_id=0)

    @torch.no_grad()
    def vision(self, images: Sequence) -> torch.Tensor:
        """RGB images to ViT features `[b, 257, d]`."""
        pixels = self.processor.image_processor(list(images), return_tensors="pt").pixel_values
        return self.model.vision_model(pixel_values=pixels).last_hidden_state

    def _encode(self, captions: Sequence[str]):
        encoded = self.processor.tokenizer(
            list(captions), padding=True, padding_side="right", return_tensors="pt"
        )
        return encoded.input_ids, encoded.attention_mask

    @torch.no_grad()
    def contrast(self, features: torch.Tensor, captions: Sequence[str]) -> torch.Tensor:
        """Cosine of each image's queries with each caption, `[i, j, q]`; equally many images and captions."""
        return self.trained.contrast(features, *self._encode(captions))

    @torch.no_grad()
    def match(self, features: torch.Tensor, captions: Sequence[str]) -> torch.Tensor:
        """Probability that caption i is true of image i, `[n]`."""
        parts = [
            self.trained.match(features[i : i + 100], *self._encode(captions[i : i + 100]))
            for i in range(0, len(captions), 100)
        ]
        return torch.cat(parts).softmax(-1)[:, 1]


def is_retrieval(folder: Path | str) -> bool:
    """Whether the folder holds a retrieval checkpoint."""
    return AutoConfig.from_pretrained(folder).architectures[0] == Blip2ForImageTextRetrieval.__name__


def evaluate_pool(matcher: Matcher, scenes: Sequence[Scene], rng: np.random.Generator) -> list[dict]:
    """One record per image of a pool: the ranks of true captions, and the pairs that were matched.

    "judged" holds (kind, right, probability given to the truth) of each pair.
    """
    features = matcher.vision([render(scene).image for scene in scenes])
    captions = [scene_text.caption(scene, rng) for scene in scenes]
    true = np.array([[scene_text.true_of(caption, scene) for caption in captions] for scene in scenes])
    every = matcher.contrast(features, captions)
    similar, winner = (part.numpy() for part in every.max(-1))
    records: list[dict[str, Any]] = [{"winner": int(winner[i, i])} for i in range(len(scenes))]
    for name, scores, positive in (("text_of_image", similar, true), ("image_of_text", similar.T, true.T)):
        order = np.argsort(-scores, 1)
        top = order[:, :RERANKED]
        rows = np.repeat(np.arange(len(scenes)), top.shape[1])
        images, texts = (rows, top.ravel()) if name == "text_of_image" else (top.ravel(), rows)
        chance = matcher.match(features[images], [captions[i] for i in texts]).numpy().reshape(top.shape)
        # As in the reference code: the matching score added to the similarity decides among the candidates.
        again = np.take_along_axis(top, np.argsort(-(chance + np.take_along_axis(scores, top, 1)), 1), 1)
        for row, record in enumerate(records):
            for label, ranks in (("contrastive", order), ("reranked", again)):
                hits = positive[row, ranks[row]]
                record[f"{name}_{label}_1"], record[f"{name}_{label}_5"] = bool(hits[0]), bool(hits[:5].any())
        hardest = np.where(positive, -np.inf, scores).argmax(1)
        images, texts = (np.arange(len(scenes)), hardest)[:: 1 if name == "text_of_image" else -1]
        wrong = matcher.match(features[images], [captions[i] for i in texts]).tolist()
        for record, p in zip(records, wrong, strict=True):
            record.setdefault("judged", []).append((f"hard_{name}", p < 0.5, 1 - p))
    edited = [scene_text.false_caption(scene, rng) for scene in scenes]
    for kind, said in (("true", captions), ("edited", [caption for caption, _ in edited])):
        for record, p, (_, change) in zip(
            records, matcher.match(features, said).tolist(), edited, strict=True
        ):
            p = p if kind == "true" else 1 - p
            record["judged"].append(("true" if kind == "true" else f"edited_{change}", p >= 0.5, p))
    return records


def summarise(records: Sequence[dict]) -> dict[str, float]:
    """Recalls, and accuracy of matching: balanced over true pairs and the false ones of a kind."""
    figures = {
        key: float(np.mean([record[key] for record in records]))
        for key in records[0]
        if key not in ("judged", "winner")
    }
    judged = [item for record in records for item in record["judged"]]

    def accuracy(start: str) -> float:
        return float(np.mean([right for kind, right, _ in judged if kind.startswith(start)] or [np.nan]))

    yes = accuracy("true")
    for name in ("hard", "edited", "edited_noun", "edited_count", "edited_relation"):
        figures[f"matching_{name}"] = (yes + accuracy(name)) / 2
    return figures


def evaluate_retrieval(folder: Path | str, scenes: int = 500, seed: int = SEED) -> dict:
    """Every figure of the retrieval model's card, as nested plain numbers."""
    matcher = Matcher(folder)
    rng = np.random.default_rng(seed + 5)

    def evaluated(count: int, seed: int, **options: Unpack[SceneOptions]) -> list[dict]:
        fresh = [scene for scene, _ in fresh_scenes(count, seed, asked=0, **options)]
        pools = [fresh[i : i + POOL] for i in range(0, len(fresh), POOL)]
        return [record for pool in pools for record in evaluate_pool(matcher, pool, rng)]

    records = evaluated(scenes, seed)
    pairs = [item for record in records for item in record["judged"]]
    winners = np.bincount([r["winner"] for r in records], minlength=matcher.model.config.num_query_tokens)
    unseen = {
        style: evaluated(POOL * max(1, scenes // (2 * POOL)), seed + 2, styles=(style,), nouns=nouns)
        for style, nouns in UNSEEN_STYLES.items()
    }
    return {
        "scenes": scenes,
        "pool": POOL,
        "seed": seed,
        "model": intervals(records, summarise),
        "calibration": calibration([max(p, 1 - p) for _, _, p in pairs], [right for _, right, _ in pairs]),
        "winners": winners.tolist(),
        "unseen_styles": {
            "all": intervals([record for found in unseen.values() for record in found], summarise),
            **{style: {k: round(v, 4) for k, v in summarise(r).items()} for style, r in unseen.items()},
        },
    }
