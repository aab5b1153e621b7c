"""The whole recipe: language model and ViT; then stage 1, stage 2 and the tuning on questions, each with a folder that
transformers loads.

Every stage continues from what it finds under `out` and prints its gate.
"""

from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoTokenizer, OPTForCausalLM

from . import align, bridge, instruct, language, vision
from .checkpoint import (
    DECODER,
    alignment_tokenizer,
    build_instruct,
    build_instruct_processor,
    build_model,
    build_retrieval,
    save_checkpoint,
    save_retrieval,
)
from .loop import Schedule, make_accelerator
from .probes import probe_vision
from .tokenizer import train_tokenizer

STAGES = ("lm", "vit", "align", "bridge", "instruct")


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
    """Run one of `STAGES`; returns its gate's figures, or where it saved its checkpoint below `out`."""
    out.mkdir(parents=True, exist_ok=True)
    accelerator = make_accelerator(precision)
    gate = _STAGES[stage](accelerator, the_tokenizer(out), out, scale)
    accelerator.print(f"{stage}: {gate}", flush=True)
    return gate


def _checks(scale: float) -> int:
    return max(4, round(400 * min(1.0, scale)))


def _scenes(scale: float) -> int:
    return max(2 * bridge.BATCH, round(bridge.SCENES * min(1.0, scale)))


def _language(accelerator, tokenizer, out: Path, scale: float) -> dict:
    schedules = (language.DRILL, language.READ, language.TALK)
    model = language.train_language(accelerator, tokenizer, out, *(_scaled(s, scale) for s in schedules))
    return {
        "written": language.read_accuracy(model, tokenizer, _checks(scale)),
        "piled": language.read_accuracy(model, tokenizer, _checks(scale), piled=True),
        "unseen wordings": language.read_accuracy(
            model, tokenizer, _checks(scale), piled=True, wording="unseen"
        ),
    }


def _vision(accelerator, tokenizer, out: Path, scale: float) -> dict:
    schedules = (
        vision.CROP_SCHEDULE,
        vision.SCENE_SCHEDULE,
        vision.MIXED_SCHEDULE,
        vision.LONG_SCHEDULE,
        vision.ROBUST_SCHEDULE,
    )
    vit = vision.train_vision(accelerator, out, *(_scaled(s, scale) for s in schedules))
    return probe_vision(vit, _checks(scale), max(4, _checks(scale) // 3))


def _align(accelerator, tokenizer, out: Path, scale: float) -> dict:
    tokenizer = alignment_tokenizer(tokenizer)
    source = assemble(the_tokenizer(out), out)
    features = bridge.cache_features(accelerator, source.vision_model, out, _scenes(scale))
    model = build_retrieval(tokenizer)
    model.vision_model.load_state_dict(source.vision_model.state_dict())
    bridge.initialise(model.qformer, model.query_tokens.data, features[: bridge.START_SCENES])
    align.initialise(model, source.language_model, tokenizer)
    align.train_alignment(accelerator, model, tokenizer, features, out, _scaled(align.SCHEDULE, scale))
    save_retrieval(model.cpu(), tokenizer, out / "blip2-emoji-itm")
    return {"saved": str(out / "blip2-emoji-itm")}


def _bridge(accelerator, tokenizer, out: Path, scale: float) -> dict:
    model = assemble(tokenizer, out)
    schedules = (_scaled(bridge.DICTATION, scale), _scaled(bridge.SCHEDULE, scale))
    bridge.train_bridge(
        accelerator, model, tokenizer, out, *schedules, _scenes(scale), aligned=_aligned(tokenizer, out)
    )
    save_checkpoint(model.cpu(), tokenizer, out / "blip2-emoji")
    return {"saved": str(out / "blip2-emoji")}


def _instruct(accelerator, tokenizer, out: Path, scale: float) -> dict:
    bridged = assemble(tokenizer, out)
    _load(bridge.Bridge(bridged), out / "bridge.pt")
    features = bridge.cache_features(accelerator, bridged.vision_model, out, _scenes(scale))
    model = build_instruct(tokenizer)
    instruct.start_from(model, bridged.cpu(), _aligned(tokenizer, out))
    processor = build_instruct_processor(tokenizer)
    instruct.train_instruct(accelerator, model, processor, features, out, _scaled(instruct.SCHEDULE, scale))
    save_checkpoint(model.cpu(), tokenizer, out / "instructblip-emoji")
    return {"saved": str(out / "instructblip-emoji")}


_STAGES = {"lm": _language, "vit": _vision, "align": _align, "bridge": _bridge, "instruct": _instruct}


def _aligned(tokenizer, out: Path):
    """The retrieval model of stage 1; its ViT is left fresh, for only the Q-Former is taken from it."""
    tokenizer = alignment_tokenizer(tokenizer)
    module = align.Alignment(build_retrieval(tokenizer), tokenizer.convert_tokens_to_ids(DECODER))
    _load(module, out / "align.pt", frozen=("model.vision_model.",))
    return module.model


def assemble(tokenizer, out: Path):
    """A BLIP-2 with the trained ViT and language model of `out` and a fresh bridge."""
    torch.manual_seed(bridge.SEED)
    model = build_model(tokenizer)
    language_model = OPTForCausalLM(language.language_config(tokenizer))
    _load(language_model, out / "lm.pt")
    model.language_model.load_state_dict(language_model.state_dict())
    learner = vision.PatchLearner()
    _load(learner, out / "vit_robust.pt")
    model.vision_model.load_state_dict(learner.vit.state_dict())
    return model


def _load(module: torch.nn.Module, checkpoint: Path, frozen: tuple[str, ...] = ()) -> None:
    """`frozen`: beginnings of names that were not trained and therefore not saved."""
    if not checkpoint.exists():
        raise FileNotFoundError(
            f"{checkpoint} is missing: run the stages before it first ({', '.join(STAGES)}, with --stage)"
        )
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    missing, unexpected = module.load_state_dict(state["module"], strict=False)
    # A tied head is the same tensor as the embeddings and is saved once.
    absent = [key for key in missing if key != "lm_head.weight" and not key.startswith(frozen or ("\0",))]
    if unexpected or absent:
        raise RuntimeError(
            f"{checkpoint} does not fit this recipe: missing {absent}, unexpected {unexpected}"
        )
