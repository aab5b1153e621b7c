"""The whole recipe in one go: stages that do not need one another run side by side, each in a process of its own.

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
WAVES = (("lm", "vit"), ("features",), ("align", "bridge"), ("instruct",))


def waves(options: Options, threads: int, processes: int) -> list[tuple[str, ...]]:
    """The order of the stages, those of one tuple side by side. One after another where there is one thread, where
    `processes` of `accelerate launch` train together, and where stage 2 starts from what stage 1 leaves."""
    if threads < 2 or processes > 1:
        return [(stage,) for stage in recipe.STAGES]
    order = []
    for wave in WAVES:
        apart = options.start == "stage-1" and "bridge" in wave
        order += [(stage,) for stage in wave] if apart else [wave]
    return order


def train_all(out: Path, scale: float, precision: str, options: Options, threads: int = 0) -> None:
    """Every stage, continuing from what is there. `threads`: shared by what runs at once; 0: torch's own.

    A stage that fails stops those beside it, which continue at the next start, and raises `SystemExit`.
    """
    threads = threads or torch.get_num_threads()
    for wave in waves(options, threads, int(os.environ.get("WORLD_SIZE", "1"))):
        train_wave(wave, threads, out, scale, precision, options)


def train_wave(wave: tuple[str, ...], threads: int, out: Path, *how) -> None:
    """The stages of one wave, with equal shares of the threads; `how`: the rest of what `recipe.train_stage` takes."""
    share = max(1, threads // len(wave))
    if len(wave) == 1:
        _train(share, wave[0], out, *how)
        return
    out.mkdir(parents=True, exist_ok=True)
    recipe.the_tokenizer(out)
    _side_by_side({stage: (share, stage, out, *how) for stage in wave})


def _train(threads: int, *arguments) -> None:
    torch.set_num_threads(threads)
    recipe.train_stage(*arguments)


def _side_by_side(runs: dict[str, tuple]) -> None:
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
