"""Which tokens end an answer. Files disagree about it, so every end that one of them names counts.

Vicuna's configuration says 1, its generation configuration and its tokenizer say 2; a tuned model may have a new end
in its tokenizer only. An answer that runs past its end is empty text behind hidden tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TOKENIZER, GENERATION, CONFIGURATION = "tokenizer", "generation configuration", "configuration"


def sources(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> dict[str, frozenset[int]]:
    """The ends that each of a checkpoint's files names, by the name of the file.

    Args:
        model: a BLIP-2 or InstructBLIP with its `language_model`.
        tokenizer: the language model's, or None.

    Returns:
        Token ids with a row in the language model's embeddings. A default of the library's configuration class, which
        no file names, counts only where the tokenizer calls that token special.
    """
    language = model.language_model
    text, rows = language.config, language.get_input_embeddings().weight.shape[0]
    whole = getattr(model.generation_config, "eos_token_id", None)
    generation = _ids(language.generation_config.eos_token_id, whole)
    configured = _ids(text.eos_token_id)
    if tokenizer is not None:
        default = getattr(type(text), "eos_token_id", None)
        chance = _ids(default) - set(tokenizer.all_special_ids)
        generation, configured = generation - chance, configured - chance
    named = {
        GENERATION: generation,
        CONFIGURATION: configured,
        TOKENIZER: _ids(getattr(tokenizer, "eos_token_id", None)),
    }
    return {name: frozenset(token for token in ids if 0 <= token < rows) for name, ids in named.items()}


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> frozenset[int]:
    """Every token that ends an answer: the union of `sources`."""
    return frozenset().union(*sources(model, tokenizer).values())


def _ids(*values: int | Iterable[int] | None) -> set[int]:
    found: set[int] = set()
    for value in values:
        if value is not None:
            found |= {value} if isinstance(value, int) else set(value)
    return found
