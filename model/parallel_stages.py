"""The whole recipe: stages that do not need one another run in parallel, each in a process of its own.

Models this small cannot keep many cores or a GPU busy. On two cores the gain is 3 % (tests/benchmarks/training.py).
"""

import multiprocessing
import os
from multiprocessing.connection import wait
from pathlib import Path

import torch

from model import recipe
from model.recipe_options import Options

# Each needs only what stands before it.
PARALLEL = (("lm", "vit"), ("features",), ("stage1", "stage2"), ("instruct",))


def stage_groups(options: Options, threads: int, processes: int) -> list[tuple[str, ...]]:
    """The order of the stages, those of one tuple in parallel. One after another where there is one thread, where
    `processes` of `accelerate launch` train together, and where stage 2 starts from what stage 1 leaves."""
    if threads < 2 or processes > 1:
        return [(stage,) for stage in recipe.STAGES]
    order: list[tuple[str, ...]] = []
    for group in PARALLEL:
        in_turn = options.start == "stage-1" and "stage2" in group
        order += [(stage,) for stage in group] if in_turn else [group]
    return order


def train_all(out: Path, scale: float, precision: str, options: Options, threads: int = 0) -> None:
    """Every stage, continuing from what is there. `threads`: shared by what runs at once; 0: torch's own.

    A stage that fails stops those beside it, which continue at the next start, and raises `SystemExit`.
    """
    threads = threads or torch.get_num_threads()
    for group in stage_groups(options, threads, int(os.environ.get("WORLD_SIZE", "1"))):
        train_group(group, threads, out, scale, precision, options)


def train_group(group: tuple[str, ...], threads: int, out: Path, *how) -> None:
    """The stages of one group, with equal shares of the threads; `how`: the rest of what `recipe.train_stage` takes."""
    share = max(1, threads // len(group))
    if len(group) == 1:
        _train(share, group[0], out, *how)
        return
    out.mkdir(parents=True, exist_ok=True)
    recipe.load_tokenizer(out)
    _in_parallel({stage: (share, stage, out, *how) for stage in group})


def _train(threads: int, *arguments) -> None:
    torch.set_num_threads(threads)
    recipe.train_stage(*arguments)


def _in_parallel(runs: dict[str, tuple]) -> None:
    # A fork of a process that holds CUDA or threads of its own would not do.
    context = multiprocessing.get_context("spawn")
    running = [context.Process(target=_train, args=run, name=stage) for stage, run in runs.items()]
    for process in running:
        process.start()
    try:
        while running:
            done = wait([process.sentinel for process in running])
            for process in [process for process in running if process.sentinel in done]:
                process.join()
                running.remove(process)
                if process.exitcode:
                    raise SystemExit(
                        f"the stage {process.name} failed; see above. The next start continues there"
                    )
    finally:
        for process in running:
            process.terminate()
            process.join()
