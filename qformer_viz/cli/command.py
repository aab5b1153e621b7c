"""What a command is, and what commands share."""

from __future__ import annotations

import argparse
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from qformer_viz.cli import commands

if TYPE_CHECKING:
    from PIL import Image

    from qformer_viz.domains.domain import GroundTruth, Labels
    from qformer_viz.media.image_decoder import Decoded
    from qformer_viz.runtime.pipeline import Pipeline
    from qformer_viz.types import Answer, EncodedImage, ImageSource


def _absent(*_: object) -> NoReturn:
    raise NotImplementedError("This backend lacks a part that the command needs.")


@dataclass(frozen=True)
class Backend:
    """load(name, quantization, device, allow) -> pipeline; errors carry a message meant for the user;
    truths(scenes) -> the scenes of the benchmark, with `image`, `masks`, `without` and `empty` each;
    pictures(pipe, count) -> images of the model's world, and unseen(pipe, count) others than its means are taken over,
    where there are any; `photograph`, one that is shipped; checkpoints(device) -> (a row for each that can be loaded,
    free bytes); labelled(scenes) -> (image, {label: value}) of each."""

    load: Callable[..., Pipeline]
    decode: Callable[[ImageSource], Decoded]
    errors: tuple[type[Exception], ...]
    truths: Callable[[int], Iterable[GroundTruth]] = _absent
    pictures: Callable[[Pipeline, int], Iterable[Image.Image]] = _absent
    photograph: Path | None = None
    checkpoints: Callable[[str | None], tuple[list[dict[str, Any]], float]] = _absent
    labelled: Callable[[int], Iterable[tuple[Image.Image, Labels]]] = _absent
    unseen: Callable[[Pipeline, int], Iterable[Image.Image]] = _absent


@dataclass(frozen=True)
class Command:
    """One command; a module of `qformer_viz.cli.commands` defines it as `COMMAND`.

    arguments     adds its options to a parser
    run           (backend, args) -> its result: `text`, and what --json prints
    run_on_image  (pipe, encoded, args) -> the same for one image, in place of `run`
    aliases       older names that work as well
    order         its place in --help
    """

    name: str
    help: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[Backend, argparse.Namespace], dict[str, Any]] | None = None
    run_on_image: Callable[[Pipeline, EncodedImage, argparse.Namespace], dict[str, Any]] | None = None
    aliases: tuple[str, ...] = ()
    order: int = 100


@cache
def all_commands() -> dict[str, Command]:
    """Every command by its name and its aliases, in the order of --help."""
    names = [each.name for each in pkgutil.iter_modules(commands.__path__)]
    found = [import_module(f"{commands.__name__}.{name}").COMMAND for name in names]
    ordered = sorted(found, key=lambda command: (command.order, command.name))
    return {name: command for command in ordered for name in (command.name, *command.aliases)}


def load(backend: Backend, args: argparse.Namespace) -> Pipeline:
    """The pipeline that the options ask for."""
    quantization = None if args.quantization == "none" else args.quantization
    return backend.load(args.model, quantization=quantization, device=args.device, allow=tuple(args.allow))


def answer_facts(pipe: Pipeline, answer: Answer) -> dict[str, Any]:
    """An answer as the result of a command."""
    return {
        "text": answer.text or "(no words: the model ended its answer at once)",
        "finish": answer.finish,
        "tokens": list(answer.tokens),
        "logprobs": list(answer.logprobs),
        "model": pipe.name,
    }
