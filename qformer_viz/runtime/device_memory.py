"""What a checkpoint takes in each precision, what is free where it would go, and the precision that fits."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from qformer_viz.errors import OutOfDeviceMemory
from qformer_viz.runtime.checkpoints import CHECKPOINTS

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

FLOAT = ("qformer", "query_tokens", "language_projection", "lm_head")
"""Parts that are never quantised: the Q-Former's maps come from float queries and keys, and generation fails with a
quantised lm_head."""

SHARE = {"8bit": 1.0, "4bit": 0.5 + 1 / 64 + 4 / (64 * 256)}
"""Bytes a quantised weight takes: LLM.int8; NF4 with its doubly quantised scales, one a block of 64."""

RESERVE, SPARE = 0.5e9, 1.05
"""Kept free beside the weights for activations, caches and fragments: bytes, and a factor on the weights."""

Choice = tuple[torch.dtype, "str | None", str]
"""(precision, quantization, why)."""


@dataclass(frozen=True)
class Plan:
    """How to load: precision, quantization, the bytes of the weights (None: too small to matter), and the reason."""

    precision: torch.dtype
    quantization: str | None
    weights: int | None
    reason: str


def weight_bytes(
    model_class: type[PreTrainedModel],
    config: PreTrainedConfig,
    precision: torch.dtype,
    quantization: str | None = None,
) -> int:
    """Bytes of a model's weights once loaded, counted on the meta device: nothing is allocated."""
    with torch.device("meta"):
        model = model_class._from_config(config)
    single = model._keep_in_fp32_modules or set()
    linear = {
        id(module.weight)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not among(name, FLOAT) and not among(name, single)
    }
    total = 0.0
    for name, weight in model.named_parameters():
        # transformers keeps some parts in single precision under float16, and only there.
        size: float = 4 if precision == torch.float16 and among(name, single) else precision.itemsize
        if quantization is not None and id(weight) in linear:
            size = SHARE[quantization]
            total += 4 * weight.shape[0] if quantization == "8bit" else 0
        total += size * weight.numel()
    return round(total)


def among(name: str, parts: Collection[str]) -> bool:
    """Whether a dotted name has a part that begins as one of these, which is how transformers matches them."""
    return any(part.startswith(tuple(parts)) for part in name.split("."))


def plan(
    name: str,
    choices: Sequence[Choice],
    size: Callable[..., int],
    place: torch.device,
    free: float,
    kinds: Sequence[str] = tuple(SHARE),
) -> Plan:
    """The first of the choices that fits into what is free. size(precision, quantization) -> bytes of weights; kinds:
    the quantizations that may be advised.

    Raises MemoryError_ with the figures, and with what would fit.
    """
    for precision, quantization, why in choices:
        weights = size(precision, quantization)
        if _needed(weights) <= free:
            room = "" if free == float("inf") else f", {_gb(free)} free"
            return Plan(precision, quantization, weights, f"{why}; {_gb(weights)} of weights{room}")
    precision, quantization, _ = choices[0]
    needed = _gb(_needed(size(precision, quantization)))
    raise OutOfDeviceMemory(
        f"{name} needs {needed} in {quantization or _title(precision)} (weights and room to work), and {place} has "
        f"{_gb(free)} free. {_advice(size, kinds, free)}"
    )


def _advice(size: Callable[..., int], kinds: Sequence[str], free: float) -> str:
    for title, quantization in (("bfloat16", None), *((kind, kind) for kind in kinds)):
        needed = _needed(size(torch.bfloat16, quantization))
        if needed <= free:
            asked = f'quantization="{quantization}"' if quantization else 'dtype="bfloat16"'
            option = f" (--quantization {quantization})" if quantization else ""
            return f"It would fit in {title}, {_gb(needed)}: load it with {asked}{option}."
    least = min(_needed(size(torch.bfloat16, kind)) for kind in (None, *kinds))
    return (
        f"It fits in no precision (the least is {_gb(least)}): free memory, or choose a smaller checkpoint."
    )


def _needed(weights: float) -> float:
    return SPARE * weights + RESERVE


def _gb(count: float) -> str:
    return f"{count / 1e9:.1f} GB"


def _title(precision: torch.dtype) -> str:
    return str(precision).removeprefix("torch.")


def free(place: torch.device) -> float:
    """Bytes that are free for a model on a device."""
    if place.type == "cuda":
        if os.environ.get("SPACES_ZERO_GPU"):
            return float("inf")  # lent by the call; it cannot be asked before
        return float(torch.cuda.mem_get_info(place)[0])
    if place.type == "mps":
        return float(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    import psutil

    return min(float(psutil.virtual_memory().available), _container())


def _container(root: Path = Path("/sys/fs/cgroup")) -> float:
    """What the container still allows (cgroup version 2), or infinity. Cached files count as free."""
    try:
        limit, used = (root / "memory.max").read_text(), float((root / "memory.current").read_text())
        cached = sum(
            float(line.split()[1])
            for line in (root / "memory.stat").read_text().splitlines()
            if line.startswith(("inactive_file ", "active_file "))
        )
        return float("inf") if limit.strip() == "max" else float(limit) - used + cached
    except (OSError, ValueError, IndexError):
        return float("inf")


def physical() -> float:
    """Bytes of main memory that this machine has."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return 8e9


def listing(free: float) -> list[dict[str, Any]]:
    """Every listed checkpoint: id, family, GB of its weights by safe precision, whether this project has run them
    (`verified`), and the precision that "auto" would find room for in `free` bytes, or None.

    What fits is told from the list; loading counts again, and refuses with the figures.
    """
    rows = []
    for entry in CHECKPOINTS.values():
        sizes = {precision: entry.memory(precision) for precision in entry.precisions}
        room = [
            name
            for name, size in sizes.items()
            if name != "float16" and size is not None and _needed(1e9 * size) <= free
        ]
        row = {"id": entry.id, "family": entry.family, "gigabytes": sizes, "verified": entry.verified}
        rows.append(row | {"fits": room[0] if room else None})
    return rows
