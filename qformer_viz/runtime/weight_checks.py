"""What a checkpoint's weights must be before anything is asked of them: complete, all used, and finite."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from qformer_viz.errors import CheckpointError

HARMLESS = re.compile(
    # Buffers that older versions of transformers saved and newer ones compute: positions, rotary frequencies, masks.
    r"(^|\.)(position_ids|token_type_ids|inv_freq|original_inv_freq|masked_bias|num_batches_tracked)$"
    r"|\.(attn|attention|self_attn)\.bias$"
)
"""Names of surplus tensors that hold nothing learned."""
_LAYER = re.compile(r"^(.*?\.\d+)\.")


def check(name: str, model: torch.nn.Module, info: Mapping[str, Iterable[Any]]) -> None:
    """Refuse weights that are missing, surplus or not finite.

    Args:
        name: of the checkpoint, for the message.
        model: as it was loaded.
        info: what `from_pretrained(output_loading_info=True)` says of the loading.

    Raises:
        CheckpointError: with the names of the tensors and the fix.
    """
    _check_complete(name, info)
    _check_surplus(name, info)
    bad = not_finite(model)
    if bad:
        raise CheckpointError(
            f"{name} holds {len(bad)} tensors with values that are not numbers (NaN) or infinite: {_some(bad)}. Every "
            "answer of such a model is empty. Fetch the file again, or go back to a state of the training before its "
            "loss became NaN."
        )


def not_finite(model: torch.nn.Module) -> list[str]:
    """Names of the tensors that hold a NaN or an infinity.

    One pass over the weights at the speed of memory, without a copy (`aminmax` hands a NaN on): 0.2 to 0.4 ns a
    number on one core. Of weights in 8 or 4 bit, which are whole numbers, their scales.
    """
    names, flags = [], []
    for name, tensor in _floats(model):
        if tensor.device.type != "meta" and tensor.numel():
            if tensor.element_size() == 1:
                tensor = tensor.float()  # torch finds no extremes of float8
            names.append(name)
            flags.append(torch.stack(torch.aminmax(tensor.detach())).isfinite().all())
    if len({flag.device for flag in flags}) == 1:
        flags = list(torch.stack(flags).cpu())  # one transfer from a GPU instead of hundreds
    return [name for name, finite in zip(names, flags, strict=True) if not finite]


def _floats(model: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point():
            yield name, tensor
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        # LLM.int8 moves the scales of its rows to the layer at the first pass.
        for owner in (weight, getattr(module, "state", None)):
            scales = getattr(owner, "SCB", None)
            if isinstance(scales, Tensor):
                yield f"{name}.weight (scales)", scales
        state = getattr(weight, "quant_state", None)
        nested = getattr(state, "state2", None)
        for scales in (
            getattr(state, "absmax", None),
            getattr(state, "offset", None),
            getattr(nested, "absmax", None),
        ):
            if isinstance(scales, Tensor) and scales.is_floating_point():
                yield f"{name}.weight (scales)", scales


def _check_complete(name: str, info: Mapping[str, Iterable[Any]]) -> None:
    """transformers fills absent weights with random numbers and only logs it."""
    for kind in ("missing_keys", "mismatched_keys"):
        keys = sorted(str(key) for key in info.get(kind, ()))
        if keys:
            raise CheckpointError(
                f"{name} lacks {len(keys)} of the weights its configuration asks for "
                f"({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''}; {kind.replace('_', ' ')}). Get "
                "the checkpoint complete."
            )


def _check_surplus(name: str, info: Mapping[str, Iterable[Any]]) -> None:
    """A model of 4 layers made from a file with 6 talks nonsense, and transformers only logs it."""
    keys = sorted(str(key) for key in info.get("unexpected_keys", ()) if not HARMLESS.search(str(key)))
    if keys:
        layers = [match.group(1) + ".*" if (match := _LAYER.match(key)) else key for key in keys]
        raise CheckpointError(
            f"{name} holds {len(keys)} tensors that a model of its configuration has no place for: {_some(layers)}. "
            "Its config.json and its weights do not belong together: a number of layers is too small, or a part has "
            "another name. Use the config.json that was saved with these weights."
        )


def _some(names: Iterable[str], limit: int = 4) -> str:
    """The first few different names."""
    names = list(dict.fromkeys(names))
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
