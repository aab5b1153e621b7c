"""What can be checked of a loaded checkpoint without asking it anything, for the doctor's report."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from qformer_viz.errors import CheckpointError, ImageError, QuestionError
from qformer_viz.media.decode_pool import unset_limits
from qformer_viz.runtime import weight_checks
from qformer_viz.runtime.checkpoints import Checkpoint
from qformer_viz.runtime.end_tokens import sources
from qformer_viz.runtime.folder_checks import check_picture_size
from qformer_viz.runtime.input_placement import Placement, Placer
from qformer_viz.runtime.prompts import Prompter

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

_SHAPES = {"square": (480, 480), "4:3": (640, 480), "3:1": (720, 240)}


class Finding(NamedTuple):
    """what was checked, whether it holds, and the figures or the reason."""

    what: str
    holds: bool
    detail: str


def findings(
    checkpoint: Checkpoint, model: PreTrainedModel, processor: ProcessorMixin, dtype: torch.dtype
) -> list[Finding]:
    """The checks of one loaded checkpoint.

    Args:
        checkpoint: how it is spoken to.
        model: the transformers model.
        processor: its image processor and its tokenizer.
        dtype: the precision of the language model.
    """
    return [
        _picture_size(checkpoint, model, processor),
        _grid(processor),
        _finite(model),
        _precision(checkpoint, model, str(dtype).removeprefix("torch.")),
        _ends(model, processor.tokenizer),
        _typed(checkpoint, model, processor),
        _uploads(),
    ]


def _uploads() -> Finding:
    """Not of the checkpoint but of this machine: what keeps a hostile upload in bounds."""
    detail = " ".join(unset_limits()) or "the system limits the memory and the time of what decodes them"
    return Finding("uploads are decoded within limits", True, detail)


def prompt_description(checkpoint: Checkpoint) -> str:
    """Where the prompt of a question comes from, and the prompt where it is a text of ours."""
    if checkpoint.chat:
        return "the tokenizer's chat template"
    source = "the checkpoint's own" if "question_prompt" in checkpoint.own_prompts else "that of its kind"
    return f"{source}: {checkpoint.question_prompt!r}"


def _picture_size(checkpoint: Checkpoint, model: PreTrainedModel, processor: ProcessorMixin) -> Finding:
    size = model.config.vision_config.image_size
    try:
        check_picture_size(checkpoint.id, processor.image_processor, model.config.vision_config)
    except CheckpointError as error:
        return Finding("pictures have the size that the ViT takes", False, str(error))
    return Finding("pictures have the size that the ViT takes", True, f"{size} pixels")


def _grid(processor: ProcessorMixin) -> Finding:
    """Where the patch grid lies on pictures of three shapes."""
    what, place = "the patch grid lies on the pixels it came from", Placer(processor.image_processor)
    try:
        if place.squashes:
            return Finding(what, True, "every picture is squashed whole into the square")
        places = [_lies(name, place(size)) for name, size in _SHAPES.items()]
    except (CheckpointError, ImageError) as error:
        return Finding(what, False, str(error))
    return Finding(what, True, "; ".join(places))


def _lies(name: str, placement: Placement) -> str:
    return (
        f"{name}: {placement.unseen:.0%} of the picture unseen, {placement.padding:.0%} of the input padding"
    )


def _finite(model: PreTrainedModel) -> Finding:
    bad = weight_checks.not_finite(model)
    detail = f"{len(bad)} with NaN or infinity: {', '.join(bad[:3])}" if bad else "no NaN, no infinity"
    return Finding("weights are finite", not bad, detail)


def _precision(checkpoint: Checkpoint, model: PreTrainedModel, precision: str) -> Finding:
    kind = model.config.text_config.model_type
    safe = precision in checkpoint.precisions
    detail = f"{kind} in {precision}" + ("" if safe else f"; safe are {', '.join(checkpoint.precisions)}")
    return Finding("the precision is safe for the language model", safe, detail)


def _ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Finding:
    named = sources(model, tokenizer)
    ends = sorted(frozenset().union(*named.values()))
    ends_named = [
        f"{tokenizer.convert_ids_to_tokens(end)!r} (id {end}: "
        f"{', '.join(name for name, ids in named.items() if end in ids)})"
        for end in ends
    ]
    detail = "; ".join(ends_named) or "no file names an end token; set eos_token_id in generation_config.json"
    return Finding("answers can end", bool(ends), detail)


def _typed(checkpoint: Checkpoint, model: PreTrainedModel, processor: ProcessorMixin) -> Finding:
    """A question that spells every special token must make no more of them than a plain one."""
    prompter = Prompter(checkpoint, processor, model.config)
    what = "a typed special token stays text"
    special = set(processor.tokenizer.all_special_ids) - {processor.tokenizer.unk_token_id}
    made = []
    try:
        for question in ("What is it?", *map(str, processor.tokenizer.all_special_tokens)):
            ids = prompter.question(question, (), 1).ids
            made.append((question, sum(token in special for token in ids)))
    except QuestionError as error:
        return Finding(what, False, str(error))
    expected = made[0][1]
    wrong = [question for question, count in made if count != expected]
    detail = (
        f"{', '.join(wrong[:3])} in a question makes special tokens" if wrong else f"{len(made) - 1} tried"
    )
    return Finding(what, not wrong, detail)
