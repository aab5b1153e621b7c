"""The loop all stages share: Muon and AdamW, warm-up and cosine, a progress line with time left, resumable checkpoints.

Batches are drawn from (seed, number), so a resumed run sees what an uninterrupted one would have seen, and processes
can draw them ahead where a GPU would wait. Under `accelerate launch` every process draws numbers of its own and the
gradients are averaged: n processes train on n times the batch.
"""

import contextlib
import json
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader, Dataset

from qformer_viz.runtime.loading import has_bfloat16

Batch = TypeVar("Batch")
Trained = TypeVar("Trained", bound=torch.nn.Module)

BETAS = (0.9, 0.98)
WEIGHT_DECAY = 0.05
# SDPA's backward pass is slow on CPU where sequences are short: with eager attention a step of the ViT takes 0.65 and
# one of the slot warm-up 0.6 of the time.
ATTENTION = "eager"
# Muon's rate, as a multiple of AdamW's.
MUON_RATE = 2.0
# Processes that draw for a GPU, and how many batches each is ahead.
DRAWING, AHEAD = 12, 4


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a stage learns; `save_every` in steps."""

    steps: int
    lr: float
    warmup: int = 100
    save_every: int = 200
    floor: float = 0.02

    def factor(self, step: int) -> float:
        if step < self.warmup:
            return (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def make_accelerator(precision: str = "auto") -> Accelerator:
    """Choose device and precision and say why. `precision`: auto, bf16 or fp32."""
    cuda = torch.cuda.is_available()
    fast = has_bfloat16(torch.device("cuda")) if cuda else _cpu_has_bf16()
    chosen = precision if precision != "auto" else "bf16" if fast else "fp32"
    accelerator = Accelerator(mixed_precision="bf16" if chosen == "bf16" else "no", cpu=not cuda)
    why_device = "a CUDA device is present" if cuda else "no CUDA device is present"
    why_precision = (
        "asked for" if precision != "auto" else f"bf16 arithmetic is {'' if fast else 'not '}native here"
    )
    accelerator.print(f"device {accelerator.device} ({why_device}), {chosen} ({why_precision})", flush=True)
    return accelerator


def _cpu_has_bf16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "amx_bf16" in flags or "avx512_bf16" in flags


def optimisers(module: torch.nn.Module, lr: float) -> list[torch.optim.Optimizer]:
    """Muon (Jordan 2024) for the matrices of linear layers, AdamW for all else: half the steps of AdamW alone here.

    Weight decay on matrices only. An output head that shares its matrix with the embeddings counts as embeddings.
    """
    embeddings = {id(m.weight) for m in module.modules() if isinstance(m, torch.nn.Embedding)}
    linear = {id(m.weight) for m in module.modules() if isinstance(m, torch.nn.Linear)} - embeddings
    learned = [p for p in module.parameters() if p.requires_grad]
    hidden = [p for p in learned if id(p) in linear]
    rest = [p for p in learned if id(p) not in linear]
    groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    chosen: list[torch.optim.Optimizer] = []
    if rest:
        chosen.append(torch.optim.AdamW(groups, lr=lr, betas=BETAS))
    if hidden:
        rate = MUON_RATE * lr
        chosen.append(
            torch.optim.Muon(hidden, lr=rate, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw")
        )
    return chosen


class _SinglePrecision(TorchFunctionMode):
    """`torch.optim.Muon` orthogonalises in bfloat16, which a CPU without such arithmetic imitates, at several times
    the cost of all else in a step. Within this it stays in the precision of the gradient."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.bfloat16:
            return args[0].clone()  # which Muon then scales in place
        return func(*args, **(kwargs or {}))


def orthogonalising(device: torch.device) -> contextlib.AbstractContextManager:
    """What steps of `optimisers` are to be taken in, on a device."""
    imitated = device.type == "cpu" and not _cpu_has_bf16()
    return _SinglePrecision() if imitated else contextlib.nullcontext()


class _Draws(Dataset):
    def __init__(self, draw: Callable[[int], Any]) -> None:
        self.draw = draw

    def __getitem__(self, number: int) -> Any:
        return self.draw(number)


def batches(draw: Callable[[int], Batch], numbers: range, accelerator: Accelerator) -> Iterator[Batch]:
    """draw(number) for every number in order: here, or for a GPU ahead of it, in processes of its own."""
    options: dict[str, Any] = {}
    if accelerator.device.type == "cuda":
        workers = min(DRAWING, len(os.sched_getaffinity(0)) - 1)
        if workers > 0:
            options = {"num_workers": workers, "prefetch_factor": AHEAD, "multiprocessing_context": "fork"}
    # A generator of its own, or it would draw from the one that the module draws from.
    options |= {"batch_size": None, "collate_fn": _as_it_is, "generator": torch.Generator()}
    return iter(DataLoader(_Draws(draw), sampler=numbers, **options))


def _as_it_is(batch: Any) -> Any:
    return batch


def run(
    name: str,
    accelerator: Accelerator,
    module: Trained,
    draw: Callable[[int], Batch],
    loss_of: Callable[[Trained, Batch], tuple[torch.Tensor, dict[str, torch.Tensor]]],
    schedule: Schedule,
    out: Path,
) -> Trained:
    """Train `module`; `draw(number)` makes a batch on the CPU, `loss_of(module, batch)` the loss and figures to log.

    Saves `<out>/<name>.pt` every so often and at the end, and continues from it if it is there;
    `<out>/<name>_curve.json` holds the figures by step, and the minutes spent so far, in however many sittings. A
    finished stage returns at once.
    """
    out.mkdir(parents=True, exist_ok=True)
    checkpoint, curve_file = out / f"{name}.pt", out / f"{name}_curve.json"
    module = module.to(accelerator.device)
    optimizers = optimisers(module, schedule.lr)
    plans = [torch.optim.lr_scheduler.LambdaLR(each, schedule.factor) for each in optimizers]
    start, curve, before = 0, [], 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        module.load_state_dict(state["module"], strict=False)
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for plan, saved in zip(plans, state["plans"], strict=True):
            plan.load_state_dict(saved)
        start, curve, before = state["step"], state["curve"], state.get("minutes", 0.0)
        accelerator.print(f"{name}: continuing at step {start} of {schedule.steps}", flush=True)
    optimizers = [accelerator.prepare(each) for each in optimizers]

    def minutes() -> float:
        return round(before + (time.monotonic() - began) / 60, 4)

    def save(step: int) -> None:
        if not accelerator.is_main_process:
            return
        learned = {k for k, p in module.named_parameters() if p.requires_grad}
        weights = {k: v for k, v in module.state_dict().items() if k in learned}
        state: dict[str, Any] = {
            "optimizers": [o.state_dict() for o in optimizers],
            "plans": [p.state_dict() for p in plans],
        }
        state |= {"module": weights, "step": step, "curve": curve, "minutes": minutes()}
        torch.save(state, checkpoint.with_suffix(".tmp"))
        os.replace(checkpoint.with_suffix(".tmp"), checkpoint)
        curve_file.write_text(json.dumps(curve))

    module.train()
    began, sums = time.monotonic(), defaultdict(list)
    every, own = accelerator.num_processes, accelerator.process_index
    numbers = range(start * every + own, schedule.steps * every + own, every)
    stepping = orthogonalising(accelerator.device)
    for step, batch in enumerate(batches(draw, numbers, accelerator), start):
        with accelerator.autocast():
            loss, figures = loss_of(module, batch)
        for optimizer in optimizers:
            optimizer.zero_grad()
        accelerator.backward(loss)
        average_gradients(accelerator, module)
        accelerator.clip_grad_norm_(module.parameters(), 1.0)
        with stepping:
            for optimizer in optimizers:
                optimizer.step()
            for plan in plans:
                plan.step()
        for key, value in {"loss": loss.detach(), **figures}.items():
            sums[key].append(value)
        if len(sums["loss"]) == 50 or step + 1 == schedule.steps:
            means = {key: round(float(sum(values)) / len(values), 4) for key, values in sums.items()}
            curve.append({"step": step + 1, "minutes": minutes(), **means})
            left = (time.monotonic() - began) / (step + 1 - start) * (schedule.steps - step - 1)
            shown = "  ".join(f"{key} {value:.3f}" for key, value in means.items())
            accelerator.print(
                f"{name} {step + 1}/{schedule.steps}  {shown}  {left / 60:.1f} min left", flush=True
            )
            sums.clear()
        if (step + 1) % schedule.save_every == 0 or step + 1 == schedule.steps:
            save(step + 1)
    accelerator.wait_for_everyone()
    spent = minutes() if start < schedule.steps else before
    accelerator.print(f"{name}: {schedule.steps} steps in {spent:.1f} min", flush=True)
    return module


def average_gradients(accelerator: Accelerator, module: torch.nn.Module) -> None:
    """The mean over all processes, in one message; losses here call parts of a module, which a wrapper would hide."""
    if accelerator.num_processes == 1:
        return
    learned = [p for p in module.parameters() if p.requires_grad]
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in learned]
    mean = accelerator.reduce(torch.cat([grad.flatten() for grad in grads]), "mean")
    for p, part in zip(learned, mean.split([p.numel() for p in learned]), strict=True):
        p.grad = part.view_as(p)
