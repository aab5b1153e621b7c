"""Folders whose weights were saved in 8 or 4 bit: which kind, what can be asked of them, and parts back in float."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from transformers.integrations.bitsandbytes import dequantize_bnb_weight

from qformer_viz.errors import CheckpointError
from qformer_viz.runtime.device_memory import FLOAT, among

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

AUTO = "auto"


def saved_kind(name: str, config: PreTrainedConfig) -> str | None:
    """ "8bit" or "4bit" where a configuration says that its weights were saved so by bitsandbytes, else None.

    Raises CheckpointError for weights that another method has quantised.
    """
    about = getattr(config, "quantization_config", None)
    if about is None:
        return None
    settings = about if isinstance(about, dict) else about.to_dict()
    for kind in ("8bit", "4bit"):
        if settings.get(f"load_in_{kind}"):
            return kind
    method = settings.get("quant_method", "an unknown method")
    raise CheckpointError(
        f"The weights of {name} were quantised by {method}; expected bitsandbytes in 8 or 4 bit, or none. Load the "
        "checkpoint that it was made of."
    )


def check_asked(name: str, saved: str, asked: str | None) -> str | None:
    """The quantization to run weights in that were saved in 8 or 4 bit: as saved, or None for float.

    Raises CheckpointError where another one was asked for.
    """
    if asked in (AUTO, saved):
        return saved
    if asked is None:
        return None
    raise CheckpointError(
        f"The weights of {name} were saved in {saved} and cannot become {asked}. Load them as they are "
        f'(quantization="{saved}" or "auto"), in float (quantization=None), or the checkpoint they were made of in '
        f"{asked}."
    )


def to_float(model: nn.Module, precision: torch.dtype, parts: Collection[str] | None = FLOAT) -> nn.Module:
    """Replace quantised linear layers by float ones with the weights that they stand for, in place.

    Args:
        model: a transformers model with layers of bitsandbytes.
        precision: of the new weights.
        parts: beginnings of the names of the parts; None for the whole model, which is then none of bitsandbytes.
    Returns:
        The same model.
    """
    import bitsandbytes

    kinds = (bitsandbytes.nn.Linear8bitLt, bitsandbytes.nn.Linear4bit)
    for name, layer in list(model.named_modules()):
        if not isinstance(layer, kinds) or (parts is not None and not among(name, parts)):
            continue
        weight = dequantize_bnb_weight(layer.weight, getattr(layer, "state", None)).to(precision)
        plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        plain.weight = nn.Parameter(weight, requires_grad=False)
        if layer.bias is not None:
            plain.bias = nn.Parameter(layer.bias.data.to(precision), requires_grad=False)
        model.set_submodule(name, plain.train(layer.training))
    if parts is None:
        cast(Any, model).hf_quantizer.remove_quantization_config(model)
    return model
