"""Ablation of the recipe: every option of `recipe_options` trained at the same small budget, one table.

    python -m model ablate --source runs/emoji

ViT, language model and cached features are those of `--source`; stage 1, slot warm-up and stage 2 run again for every
variant, much shorter than in the recipe (variants with the same stage 1 share it). Figures compare variants with one
another, not with the shipped model.
"""

import hashlib
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model import recipe, stage2
from model.checkpoint_assembly import save_retrieval, stage1_tokenizer
from model.evaluation import answer_scenes, fresh_scenes, intervals, summarise, vision_features
from model.inference import BatchInference
from model.recipe_options import DEFAULT, Options
from model.retrieval_evaluation import POOL, Matcher, evaluate_pool
from model.retrieval_evaluation import summarise as summarise_retrieval
from model.training_loop import Schedule, make_accelerator
from qformer_viz.domains.emoji.scenes import render

STAGE_1 = Schedule(steps=120, lr=6e-4, warmup=20)
WARMUP = Schedule(steps=160, lr=1e-3, warmup=20)
STAGE_2 = Schedule(steps=120, lr=4e-4, warmup=20)
SCENES = 150
SEED = 61_000

# What stage 1 alone does differently shows in stage 2 only if that starts from it.
_FROM_STAGE_1 = Options(start="stage-1")

VARIANTS: dict[str, Options] = {
    "recipe": DEFAULT,
    "recipe, no dictation": Options(slot_warmup=False),
    "stage 2 from stage 1": _FROM_STAGE_1,
    "… no dictation": replace(_FROM_STAGE_1, slot_warmup=False),
    "… contrastive only": replace(_FROM_STAGE_1, losses=("contrastive",)),
    "… without contrastive": replace(_FROM_STAGE_1, losses=("matching", "generation")),
    "… without matching": replace(_FROM_STAGE_1, losses=("contrastive", "generation")),
    "… without generation": replace(_FROM_STAGE_1, losses=("contrastive", "matching")),
    "… masking: random": replace(_FROM_STAGE_1, masking="random"),
    "… masking: block": replace(_FROM_STAGE_1, masking="block"),
    "… masking: attention": replace(_FROM_STAGE_1, masking="attention"),
    "… masking: semantic": replace(_FROM_STAGE_1, masking="semantic"),
    "… diversity 0.1": replace(_FROM_STAGE_1, diversity=0.1),
    "8 queries": Options(queries=8),
    "16 queries": Options(queries=16),
    "64 queries": Options(queries=64),
    "cross-attention in every layer": Options(cross_every=1),
    "cross-attention in every third layer": Options(cross_every=3),
    "cross-attention in the first layer": Options(cross_every=6),
    "frozen random queries": Options(freeze="queries"),
    "control: frozen random Q-Former": Options(losses=(), freeze="qformer"),
    "control: one patch a region, linear map": Options(losses=(), bridge="grid"),
    "control: average pooling, linear map": Options(losses=(), bridge="average"),
    "control: wrong images": Options(shuffled=True),
}

# What is published on the same question; most of it was never published for BLIP-2.
LITERATURE: dict[str, str] = {
    "stage 2 from stage 1": "BLIP-2 (figure 5): without stage 1, opt-based models lose most of their zero-shot VQA",
    "64 queries": "BLIP-2 reports 32 only",
    "control: average pooling, linear map": "DeCo (arXiv 2405.20985): average pooling beats a Q-Former",
    "… masking: random": "not part of BLIP-2",
    "… diversity 0.1": "not part of BLIP-2",
}


def ablate(
    source: Path, out: Path, only: list[str] | None = None, scale: float = 1.0, precision: str = "auto"
) -> str:
    """Train and measure the variants that are not there yet; returns the table of all that are."""
    unknown = set(only or ()) - set(VARIANTS)
    if unknown:
        raise ValueError(f"unknown variants {sorted(unknown)}; choose from {', '.join(VARIANTS)}")
    out.mkdir(parents=True, exist_ok=True)
    for name in only or VARIANTS:
        record = out / f"{_slug(name)}.json"
        if not record.exists():
            figures = train_variant(VARIANTS[name], source, out / _slug(name), scale, precision)
            record.write_text(json.dumps({"name": name, **figures}, indent=1) + "\n")
    return table(out)


def train_variant(options: Options, source: Path, out: Path, scale: float, precision: str = "auto") -> dict:
    """Stage 1, slot warm-up and stage 2 of one variant, measured on scenes that none of them has seen."""
    accelerator = make_accelerator(precision)
    tokenizer = recipe.load_tokenizer(source)
    model = recipe.assemble(tokenizer, source, options)
    features = stage2.cache_features(
        accelerator, model.vision_model, source, recipe.scenes_at(min(1.0, scale))
    )
    stage_1, warmup, stage_2 = (recipe.scaled(s, scale) for s in (STAGE_1, WARMUP, STAGE_2))
    began, stage1_model = time.monotonic(), None
    figures: dict[str, Any] = {}
    sheet = fresh_scenes(max(4, round(SCENES * min(1.0, scale))), SEED)
    if options.losses:
        key = repr(replace(options, start="", slot_warmup=True)).encode()
        shared = out.parent / f"stage-1-{hashlib.sha256(key).hexdigest()[:12]}"
        stage1_model = recipe.run_stage1(
            accelerator, model, tokenizer, features, shared, stage_1, options
        ).cpu()
        save_retrieval(stage1_model, stage1_tokenizer(tokenizer), shared / "itm")
        stage1_model.float()
        figures |= _retrieved(shared / "itm", [scene for scene, _ in sheet[:POOL]])
    trained = stage2.train_stage2(
        accelerator, model, tokenizer, out, warmup, stage_2, len(features),
        stage1_model=stage1_model if options.start == "stage-1" else None, options=options, features=features,
    )  # fmt: skip
    figures["minutes"] = round((time.monotonic() - began) / 60, 1)
    inference = BatchInference.from_model(model.cpu().float(), tokenizer)
    seen = vision_features(inference, [render(scene).image for scene, _ in sheet])
    with torch.no_grad():
        slots = trained.cpu().float()(seen)
    results = answer_scenes(inference, sheet, lambda i, prompts: slots[i].expand(len(prompts), -1, -1))
    return figures | intervals(results, summarise)


def _retrieved(folder: Path, scenes: list) -> dict:
    records = evaluate_pool(Matcher(folder), scenes, np.random.default_rng(SEED))
    winners = np.bincount([record["winner"] for record in records])
    found = intervals(records, summarise_retrieval)
    kept = ("image_of_text_contrastive_1", "image_of_text_reranked_1", "matching_hard", "matching_edited")
    return {name: found[name] for name in kept} | {"winners": int((winners > 0).sum())}


COLUMNS = {
    "noun_f1": "caption nouns, F1",
    "exact": "answers exact",
    "image_of_text_contrastive_1": "text to image, R@1",
    "image_of_text_reranked_1": "re-ranked",
    "matching_hard": "matching",
    "matching_edited": "matching, edited captions",
}


def table(out: Path) -> str:
    """All variants measured so far as Markdown, in the order of `VARIANTS`, with 95 % intervals."""
    lines = [
        f"| variant | {' | '.join(COLUMNS.values())} | winning queries | published |",
        "|---" * (len(COLUMNS) + 3) + "|",
    ]
    for name in VARIANTS:
        record = out / f"{_slug(name)}.json"
        if record.exists():
            found = json.loads(record.read_text())
            cells = [_cell(found[key]) if key in found else "–" for key in COLUMNS]
            lines.append(
                f"| {name} | {' | '.join(cells)} | {found.get('winners', '–')} | {LITERATURE.get(name, '–')} |"
            )
    return "\n".join(lines)


def _cell(figure: dict) -> str:
    return f"{figure['value']:.3f} ({figure['low']:.2f} to {figure['high']:.2f})"


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)
