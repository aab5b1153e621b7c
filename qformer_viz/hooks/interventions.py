"""Activations inside a running Q-Former, recorded or replaced: outputs of heads, keys and values of queries.

These are the only hooks that change a pass. They are set for one pass in the device queue and removed when its block
ends. They work whatever computes the attention (eager, SDPA, ...).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from qformer_viz.errors import CompiledError

if TYPE_CHECKING:
    from transformers import Blip2QFormerModel


class QFormerActivations(NamedTuple):
    """Activations inside the Q-Former, heads side by side in D.

    own [L, s, D], cross [l, q, D]     what the heads of self- and cross-attention hand to their layer's projection
    keys [L, s, D], values [L, s, D]   of self-attention;
                                       s is the queries, then the tokens of text that an InstructBLIP's Q-Former reads
    """

    own: Tensor
    cross: Tensor
    keys: Tensor
    values: Tensor


@contextlib.contextmanager
def record_activations(qformer: Blip2QFormerModel) -> Iterator[dict[str, list[Tensor]]]:
    """The fields of `QFormerActivations` in this pass, for each image of the batch: lists over layers of [b, s or q,
    D]."""
    found: dict[str, list[Tensor]] = {name: [] for name in QFormerActivations._fields}

    def read(name: str, layer: int, said: Tensor) -> Tensor:
        found[name].append(said)
        return said

    with _changing(qformer, {name: partial(read, name) for name in found}):
        yield found


def replace_heads(
    qformer: Blip2QFormerModel, own: Tensor, cross: Tensor, reference: QFormerActivations
) -> contextlib.AbstractContextManager[None]:
    """In row n of a batch, replace the outputs of the heads in own [n, L, h] and cross [n, l, h] (bool)."""

    def replace(chosen: Tensor, instead: Tensor, layer: int, said: Tensor) -> Tensor:
        heads = chosen.shape[-1]
        rows = chosen[:, layer, None, :, None].to(said.device)
        parts, others = (each.unflatten(-1, (heads, -1)) for each in (said, instead[layer].to(said)))
        return torch.where(rows, others, parts).flatten(-2)

    return _changing(
        qformer,
        {"own": partial(replace, own, reference.own), "cross": partial(replace, cross, reference.cross)},
    )


def replace_query_messages(
    qformer: Blip2QFormerModel, chosen: Tensor, reference: QFormerActivations
) -> contextlib.AbstractContextManager[None]:
    """In row n of a batch, replace keys and values of the queries in chosen [n, q] (bool) in self-attention."""

    def replace(instead: Tensor, layer: int, said: Tensor) -> Tensor:
        rows = F.pad(chosen, (0, said.shape[1] - chosen.shape[1]))
        return torch.where(rows[..., None].to(said.device), instead[layer].to(said), said)

    return _changing(
        qformer, {"keys": partial(replace, reference.keys), "values": partial(replace, reference.values)}
    )


@contextlib.contextmanager
def _changing(
    qformer: Blip2QFormerModel, changes: Mapping[str, Callable[[int, Tensor], Tensor]]
) -> Iterator[None]:
    """change(layer, what is said there) for some fields of `QFormerActivations`; cross-attention has layers of its
    own count."""
    _refuse_compiled(qformer)
    layers = qformer.encoder.layer
    own = [layer.attention.attention for layer in layers]
    where = {
        "own": own,
        "cross": [layer.crossattention.attention for layer in layers if layer.has_cross_attention],
        "keys": [attention.key for attention in own],
        "values": [attention.value for attention in own],
    }

    def hook(change: Callable[[Tensor], Tensor], module: Any, args: Any, output: Any) -> Any:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    handles = []
    try:
        for name, change in changes.items():
            for layer, module in enumerate(where[name]):
                handles.append(module.register_forward_hook(partial(hook, partial(change, layer))))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _refuse_compiled(qformer: Blip2QFormerModel) -> None:
    """A warm compiled module calls no hooks, and one that is compiled now would keep them: either would be silent."""
    for module in qformer.modules():
        if module._compiled_call_impl is not None or "_orig_mod" in module._modules:
            raise CompiledError(
                f"Found a Q-Former compiled by torch.compile (in {type(module).__name__}); expected one that runs as "
                "it was written, for what its heads and queries say is read and replaced. Fix: load the model again, "
                "and compile nothing of its Q-Former."
            )
