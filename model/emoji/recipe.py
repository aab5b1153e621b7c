"""The whole recipe: language model and ViT, then the bridge, then one folder that transformers loads.

Every stage continues from what it finds under `out` and prints its gate.
"""

from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoTokenizer, OPTForCausalLM

from . import bridge, language, vision
from .checkpoint import build_model, save_checkpoint
from .loop import Schedule, make_accelerator
from .probes import probe_vision
from .tokenizer import train_tokenizer

STAGES = ("lm", "vit", "bridge")


def _scaled(schedule: Schedule, scale: float) -> Schedule:
    steps = max(2, round(schedule.steps * scale))
    return replace(schedule, steps=steps, warmup=min(schedule.warmup, max(1, steps // 10)))


def the_tokenizer(out: Path):
    """Train the tokenizer once per output folder."""
    folder = out / "tokenizer"
    if not folder.exists():
        train_tokenizer().save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def train_stage(stage: str, out: Path, scale: float = 1.0, precision: str = "auto") -> dict:
    """Run one of `STAGES`; returns its gate's figures. `bridge` exports to `<out>/blip2-emoji`."""
    out.mkdir(parents=True, exist_ok=True)
    accelerator = make_accelerator(precision)
    tokenizer = the_tokenizer(out)
    checks = max(4, round(400 * min(1.0, scale)))
    if stage == "lm":
        schedules = (language.DRILL, language.READ, language.TALK)
        model = language.train_language(accelerator, tokenizer, out, *(_scaled(s, scale) for s in schedules))
        gate = {
            "written": language.read_accuracy(model, tokenizer, checks),
            "piled": language.read_accuracy(model, tokenizer, checks, piled=True),
        }
    elif stage == "vit":
        schedules = (vision.CROP_SCHEDULE, vision.SCENE_SCHEDULE, vision.MIXED_SCHEDULE, vision.LONG_SCHEDULE)
        vit = vision.train_vision(accelerator, out, *(_scaled(s, scale) for s in schedules))
        gate = probe_vision(vit, checks, max(4, checks // 3))
    else:
        model = assemble(tokenizer, out)
        scenes = max(2 * bridge.BATCH, round(bridge.SCENES * min(1.0, scale)))
        schedules = (bridge.DICTATION, bridge.SCHEDULE)
        bridge.train_bridge(
            accelerator, model, tokenizer, out, *(_scaled(s, scale) for s in schedules), scenes
        )
        save_checkpoint(model.cpu(), tokenizer, out / "blip2-emoji")
        gate = {"saved": str(out / "blip2-emoji")}
    accelerator.print(f"{stage}: {gate}", flush=True)
    return gate


def assemble(tokenizer, out: Path):
    """A BLIP-2 with the trained ViT and language model of `out` and a fresh bridge."""
    torch.manual_seed(bridge.SEED)
    model = build_model(tokenizer)
    language_model = OPTForCausalLM(language.language_config(tokenizer))
    _load(language_model, out / "lm.pt")
    model.language_model.load_state_dict(language_model.state_dict())
    learner = vision.PatchLearner()
    _load(learner, out / "vit_long.pt")
    model.vision_model.load_state_dict(learner.vit.state_dict())
    return model


def _load(module: torch.nn.Module, checkpoint: Path) -> None:
    if not checkpoint.exists():
        raise FileNotFoundError(f"{checkpoint} is missing: run that stage first (--stage lm, --stage vit)")
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    missing, unexpected = module.load_state_dict(state["module"], strict=False)
    # A tied head is the same tensor as the embeddings and is saved once.
    if unexpected or set(missing) - {"lm_head.weight"}:
        raise RuntimeError(
            f"{checkpoint} does not fit this recipe: missing {missing}, unexpected {unexpected}"
        )
