"""What can be checked of a checkpoint before its weights are read, which may take minutes: whether its processor, its
tokenizer and its configuration belong together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image
from transformers import AddedToken

from qformer_viz.errors import CheckpointError, QuestionError
from qformer_viz.runtime import input_placement
from qformer_viz.runtime.checkpoints import Checkpoint
from qformer_viz.runtime.families import family_of_type
from qformer_viz.runtime.prompt_format import with_chat_template
from qformer_viz.runtime.prompts import Prompter

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, ProcessorMixin

_SHAPES = ((64, 48), (48, 64))
"""Widths and heights of the pictures that a processor is tried with."""


def check(
    checkpoint: Checkpoint, processor: ProcessorMixin, config: PreTrainedConfig
) -> tuple[Checkpoint, dict[str, int]]:
    """Refuse a processor that does not fit its model; complete what an older version of transformers did not save.

    Args:
        checkpoint: how it is spoken to.
        processor: its `num_query_tokens` and its tokenizer's image token are set where they are missing.
        config: the model's.

    Returns:
        The checkpoint, and settings that the model's configuration lacks.

    Raises:
        CheckpointError: with what was found, what was expected and the fix.
    """
    check_picture_size(checkpoint.id, processor.image_processor, config.vision_config)
    _check_queries(checkpoint.id, processor, config)
    settings = settle_image_token(checkpoint.id, processor, config)
    config.update(settings)
    checkpoint = with_chat_template(checkpoint, processor.tokenizer)
    _check_prompts(checkpoint, processor, config)
    return checkpoint, settings


def check_picture_size(name: str, image_processor: ProcessorMixin, vision_config: PreTrainedConfig) -> None:
    """Refuse an image processor whose pictures have not the size that the ViT takes, or are no upright rectangles of
    what was given: tried, whatever its settings."""
    size = vision_config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    for shape in _SHAPES:
        try:
            pixels = image_processor([Image.new("RGB", shape)], return_tensors="pt")["pixel_values"]
        except (ValueError, TypeError, KeyError, RuntimeError) as error:
            raise CheckpointError(
                f"{name}: the image processor cannot prepare a picture of {shape[0]}×{shape[1]} ({error}). Save the "
                "processor that the model was trained with."
            ) from error
        made = tuple(pixels.shape[-2:])
        if made != (height, width):
            raise CheckpointError(
                f"{name}: the image processor turns a picture of {shape[0]}×{shape[1]} into one of "
                f"{made[1]}×{made[0]}, but the model's ViT takes {width}×{height} (vision_config.image_size in "
                f'config.json). Set "size": {{"height": {height}, "width": {width}}} in preprocessor_config.json, or '
                "in processor_config.json where there is one, or save the processor the model was trained with."
            )
    input_placement.check(name, image_processor)


def _check_prompts(checkpoint: Checkpoint, processor: ProcessorMixin, config: PreTrainedConfig) -> None:
    """Refuse prompts that no question can be put in: a chat template that fails, an image token in explorer.json."""
    prompter = Prompter(checkpoint, processor, config)
    try:
        prompter.caption(1)
        prompter.question("What is it?", [("", "A cat"), ("What is it?", "A cat.")], 1)
    except QuestionError as error:
        raise CheckpointError(f"{checkpoint.id} cannot be asked anything: {error}") from error


def _check_queries(name: str, processor: ProcessorMixin, config: PreTrainedConfig) -> None:
    """A processor that does not know the number of queries drops the image without a word."""
    if processor.num_query_tokens is None:
        processor.num_query_tokens = config.num_query_tokens
    if processor.num_query_tokens != config.num_query_tokens:
        raise CheckpointError(
            f"{name}: the processor inserts {processor.num_query_tokens} image placeholders but "
            f"the model has {config.num_query_tokens} queries. Save the processor again with "
            f"num_query_tokens={config.num_query_tokens}."
        )


def settle_image_token(name: str, processor: ProcessorMixin, config: PreTrainedConfig) -> dict[str, int]:
    """The index of the placeholder, where the configuration lacks it, as in folders from before transformers 4.46.

    The tokenizer gets the token where it is missing. Raises CheckpointError where tokenizer and configuration
    disagree, and where the language model has no row for the token.
    """
    kind = family_of_type(config.model_type).model_classes[config.model_type].token
    setting, token, tokenizer = f"{kind}_token_index", str(processor.image_token), processor.tokenizer
    if token not in tokenizer.get_vocab():
        tokenizer.add_tokens([AddedToken(token, normalized=False, special=True)], special_tokens=True)
    found, expected = tokenizer.convert_tokens_to_ids(token), getattr(config, setting, None)
    if expected is not None and found != expected:
        raise CheckpointError(
            f"{name}: the tokenizer's {kind} token has id {found}, the model's configuration says {expected}. Save the "
            f'processor the model was trained with beside it; if this is the one, set "{setting}": {found} in '
            "config.json."
        )
    rows = config.text_config.vocab_size
    if found >= rows:
        raise CheckpointError(
            f"{name} was saved before transformers 4.46: its tokenizer has no {token}, and the language model's {rows} "
            f"embeddings have no room for one (it would be number {found}). Add it once and save the folder again: "
            f"model.resize_token_embeddings({found + 1}, pad_to_multiple_of=64); model.config.{setting} = {found}; "
            f"model.save_pretrained(folder); and with the processor: processor.tokenizer.add_tokens(['{token}'], "
            "special_tokens=True); processor.save_pretrained(folder)."
        )
    return {} if expected is not None else {setting: found}
