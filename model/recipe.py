"""The stages of the recipe: language model and ViT; the ViT's features of all scenes; then stage 1, stage 2 and the
tuning on questions, each with a folder that transformers loads.

Every stage continues from what it finds under `out` and prints its gate.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from transformers import (
    AutoTokenizer,
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
    Blip2VisionModel,
    OPTForCausalLM,
    PreTrainedTokenizerBase,
)

from model import stage1, stage2, stage_instruct, stage_language, stage_vit
from model.checkpoint_assembly import (
    build_instruct,
    build_instruct_processor,
    build_model,
    build_retrieval,
    save_checkpoint,
    save_retrieval,
    stage1_tokenizer,
)
from model.recipe_options import DEFAULT, Options
from model.tokenizer import train_tokenizer
from model.training_loop import Schedule, make_accelerator
from model.vit_probes import probe_vision

# What each stage trains, one after the other, by the names of its checkpoint and its curve. Those are names of saved
# files, so two of them are still the former names of stages.
SCHEDULES = {
    "lm": {
        "lm_drill": stage_language.DRILL,
        "lm_read": stage_language.READ,
        "lm": stage_language.MIXED,
        "lm_captions": stage_language.DESCRIBE,
    },
    "vit": {
        "vit_crops": stage_vit.CROP_SCHEDULE,
        "vit_scenes": stage_vit.SCENE_SCHEDULE,
        "vit_mixed": stage_vit.MIXED_SCHEDULE,
        "vit_long": stage_vit.LONG_SCHEDULE,
        "vit_robust": stage_vit.ROBUST_SCHEDULE,
        "vit_artwork": stage_vit.ARTWORK_SCHEDULE,
    },
    "features": {},
    "stage1": {"align": stage1.SCHEDULE, "align_strange": stage1.AUGMENTED},
    "stage2": {"dictation": stage2.WARMUP, "bridge": stage2.SCHEDULE},
    "instruct": {"instruct": stage_instruct.SCHEDULE},
}
STAGES = tuple(SCHEDULES)
ALIASES = {"align": "stage1", "bridge": "stage2"}
"""Former names of stages, which the command line still takes."""


def scaled(schedule: Schedule, scale: float, least: int = 2) -> Schedule:
    """The schedule at another length, of `least` steps or more."""
    steps = max(least, round(schedule.steps * scale))
    return replace(schedule, steps=steps, warmup=min(schedule.warmup, max(1, steps // 10)))


def load_tokenizer(out: Path) -> PreTrainedTokenizerBase:
    """Train the tokenizer once per output folder."""
    folder = out / "tokenizer"
    if not folder.exists():
        train_tokenizer().save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def train_stage(
    stage: str,
    out: Path,
    scale: float = 1.0,
    precision: str = "auto",
    options: Options = DEFAULT,
    least: int = 2,
) -> dict:
    """Run one stage and keep the figures of its gate in `<out>/<stage>_gate.json`.

    Args:
        stage: one of `STAGES`, or a former name of `ALIASES`.
        out: folder of the run.
        scale: factor on steps and scenes.
        precision: auto, bf16 or fp32.
        options: what the recipe does otherwise.
        least: steps that every schedule has at least.

    Returns:
        The figures of its gate, or where it saved its checkpoint.

    Raises:
        FileNotFoundError: a stage before it has not been run.
    """
    stage = ALIASES.get(stage, stage)
    out.mkdir(parents=True, exist_ok=True)
    accelerator = make_accelerator(precision)
    with accelerator.main_process_first():
        tokenizer = load_tokenizer(out)
    schedules = [scaled(schedule, scale, least) for schedule in SCHEDULES[stage].values()]
    gate = _RUN_STAGE[stage](accelerator, tokenizer, out, schedules, scale, options)
    accelerator.wait_for_everyone()
    accelerator.print(f"{stage}: {gate}", flush=True)
    if accelerator.is_main_process:
        (out / f"{stage}_gate.json").write_text(json.dumps(gate) + "\n")
    return gate


def _checks(scale: float) -> int:
    return max(4, round(400 * min(1.0, scale)))


def scenes_at(scale: float) -> int:
    """How many scenes are cached at a scale of the recipe."""
    return max(2 * stage2.BATCH, round(stage2.SCENES * min(1.0, scale)))


def _language(
    accelerator: Accelerator,
    tokenizer: PreTrainedTokenizerBase,
    out: Path,
    schedules: list[Schedule],
    scale: float,
    options: Options,
):
    drill, read, mixed, captions = schedules
    model = stage_language.train_language(accelerator, tokenizer, out, drill, read, mixed, captions)
    return {
        "written": stage_language.description_accuracy(model, tokenizer, _checks(scale)),
        "piled": stage_language.description_accuracy(model, tokenizer, _checks(scale), piled=True),
        "unseen wordings": stage_language.description_accuracy(
            model, tokenizer, _checks(scale), piled=True, wording="unseen"
        ),
    }


def _vision(
    accelerator: Accelerator,
    tokenizer: PreTrainedTokenizerBase,
    out: Path,
    schedules: list[Schedule],
    scale: float,
    options: Options,
):
    vit = stage_vit.train_vision(accelerator, out, *schedules)
    return probe_vision(vit, _checks(scale), max(4, _checks(scale) // 3))


def _features(
    accelerator: Accelerator,
    tokenizer: PreTrainedTokenizerBase,
    out: Path,
    schedules: list[Schedule],
    scale: float,
    options: Options,
):
    vit = assemble(tokenizer, out, options).vision_model
    cached = [_plain(accelerator, vit, out, scale)]
    if options.losses:
        cached.append(_augmented(accelerator, vit, out, scale))
    return {"scenes": [len(each) for each in cached]}


def _plain(accelerator: Accelerator, vit: Blip2VisionModel, out: Path, scale: float):
    return stage2.cache_features(accelerator, vit, out, scenes_at(scale))


def _augmented(accelerator: Accelerator, vit: Blip2VisionModel, out: Path, scale: float):
    count = max(stage1.BATCH, round(stage1.AUGMENTED_SCENES * min(1.0, scale)))
    return stage2.cache_features(accelerator, vit, out, count, draw=stage2.augmented_scene, name="strange")


def _stage1(
    accelerator: Accelerator,
    tokenizer: PreTrainedTokenizerBase,
    out: Path,
    schedules: list[Schedule],
    scale: float,
    options: Options,
):
    if not options.losses:
        return {"left out": "no loss was chosen"}
    source = assemble(tokenizer, out, options)
    features = _plain(accelerator, source.vision_model, out, scale)
    augmented = _augmented(accelerator, source.vision_model, out, scale)
    schedule, then = schedules
    more = (augmented, then)
    model = run_stage1(accelerator, source, tokenizer, features, out, schedule, options, more)
    if accelerator.is_main_process:
        save_retrieval(model.cpu(), stage1_tokenizer(tokenizer), out / "blip2-emoji-itm")
    return {"saved": str(out / "blip2-emoji-itm")}


def run_stage1(
    accelerator: Accelerator,
    source: Blip2ForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    features: np.ndarray,
    out: Path,
    schedule: Schedule,
    options: Options,
    augmented: tuple[np.ndarray, Schedule] | None = None,
) -> Blip2ForImageTextRetrieval:
    """Stage 1 on the ViT and the words of `source`; returns the retrieval model. `augmented`: see `train_stage1`."""
    tokenizer = stage1_tokenizer(tokenizer)
    model = build_retrieval(tokenizer, options.queries, options.cross_every)
    model.vision_model.load_state_dict(source.vision_model.state_dict())
    start = features[: stage2.START_SCENES]
    stage2.initialise(model.qformer, model.query_tokens.data, start, options.freeze != "none")
    stage1.initialise(model, source.language_model, tokenizer)
    return stage1.train_stage1(
        accelerator, model, tokenizer, features, out, schedule, augmented, options=options
    )


def _stage2(
    accelerator: Accelerator,
    tokenizer: PreTrainedTokenizerBase,
    out: Path,
    schedules: list[Schedule],
    scale: float,
    options: Options,
):
    if options.bridge != "qformer":
        raise ValueError("only a Q-Former makes a BLIP-2; compare other maps with `python -m model ablate`")
    model = assemble(tokenizer, out, options)
    stage1_model = load_stage1(out) if options.start == "stage-1" else None
    warmup, schedule = schedules
    stage2.train_stage2(
        accelerator,
        model,
        tokenizer,
        out,
        warmup,
        schedule,
        scenes_at(scale),
        stage1_model=stage1_model,
        options=options,
    )
    if accelerator.is_main_process:
        save_checkpoint(model.cpu(), tokenizer, out / "blip2-emoji")
    return {"saved": str(out / "blip2-emoji")}


def _instruct(
    accelerator: Accelerator,
    tokenizer: PreTrainedTokenizerBase,
    out: Path,
    schedules: list[Schedule],
    scale: float,
    options: Options,
):
    if options != DEFAULT:
        return {"left out": "the options concern the other stages"}
    blip2 = assemble(tokenizer, out)
    _load(stage2.Bridge(blip2), out / "bridge.pt")
    features = _plain(accelerator, blip2.vision_model, out, scale)
    model = build_instruct(tokenizer)
    stage_instruct.start_from(model, blip2.cpu(), load_stage1(out))
    processor = build_instruct_processor(tokenizer)
    (schedule,) = schedules
    stage_instruct.train_instruct(accelerator, model, processor, features, out, schedule)
    if accelerator.is_main_process:
        save_checkpoint(model.cpu(), tokenizer, out / "instructblip-emoji")
    return {"saved": str(out / "instructblip-emoji")}


_RUN_STAGE = {
    "lm": _language,
    "vit": _vision,
    "features": _features,
    "stage1": _stage1,
    "stage2": _stage2,
    "instruct": _instruct,
}


def load_stage1(out: Path) -> Blip2ForImageTextRetrieval:
    """The retrieval model of stage 1, as it was saved."""
    folder = out / "blip2-emoji-itm"
    if not folder.exists():
        raise FileNotFoundError(f"{folder} is missing: run the stages before it first ({', '.join(STAGES)})")
    return Blip2ForImageTextRetrieval.from_pretrained(folder, dtype=torch.float32)


def assemble(
    tokenizer: PreTrainedTokenizerBase, out: Path, options: Options = DEFAULT
) -> Blip2ForConditionalGeneration:
    """A BLIP-2 with the trained ViT and language model of `out` and a fresh Q-Former."""
    torch.manual_seed(stage2.SEED)
    model = build_model(tokenizer, options.queries, options.cross_every)
    language_model = OPTForCausalLM(stage_language.language_config(tokenizer))
    _load(language_model, out / "lm_captions.pt")
    model.language_model.load_state_dict(language_model.state_dict())
    learner = stage_vit.PatchLearner()
    _load(learner, out / "vit_artwork.pt")
    model.vision_model.load_state_dict(learner.vit.state_dict())
    return model


def _load(module: torch.nn.Module, checkpoint: Path) -> None:
    if not checkpoint.exists():
        raise FileNotFoundError(
            f"{checkpoint} is missing: run the stages before it first ({', '.join(STAGES)}, with --stage)"
        )
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    missing, unexpected = module.load_state_dict(state["module"], strict=False)
    # A tied head is the same tensor as the embeddings and is saved once.
    if unexpected or set(missing) - {"lm_head.weight"}:
        raise RuntimeError(
            f"{checkpoint} does not fit this recipe: missing {missing}, unexpected {unexpected}"
        )
