"""`qformer-viz ablate`: what heads, layers and messages between queries are worth."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qformer_viz.atomic_files import write_text
from qformer_viz.cli.arguments import model_arguments, several
from qformer_viz.cli.command import Backend, Command, load

if TYPE_CHECKING:
    from PIL import Image


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    model_arguments(parser)
    parser.add_argument("--images", type=several, default=100, help="how many [%(default)s]")
    parser.add_argument(
        "--pictures", nargs="+", metavar="FILE", help="image files [images of the model's world]"
    )
    parser.add_argument(
        "--questions",
        nargs="*",
        default=["what is in the picture?", "how many objects are there?"],
        metavar="QUESTION",
        help="asked after the caption",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write every figure as JSON; model cards show it"
    )
    parser.add_argument("--json", action="store_true", help="print every figure as JSON")


def run(backend: Backend, args: argparse.Namespace) -> dict[str, Any]:
    """What single heads, layers and messages between queries are worth, with the progress on stderr."""
    from qformer_viz.analysis import ablation_study

    pipe = load(backend, args)
    images: Iterable[Image.Image]
    if args.pictures:
        images = (backend.decode(path).image for path in args.pictures)
    else:
        images = backend.unseen(pipe, args.images)

    def on_progress(done: int) -> None:
        print(f"\rimage {done}", end="", file=sys.stderr, flush=True)

    try:
        found = ablation_study.measure(pipe, images, args.questions, on_progress)
    finally:
        print(file=sys.stderr)
    found["table"] = ablation_study.table(found)
    if args.out:
        write_text(args.out, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return {"text": f"{pipe.name}, {found['images']} images, nats lost\n\n{found['table']}"} | found


COMMAND = Command(
    "ablate",
    "ablate heads, whole layers and messages between queries, and measure what the words lose",
    arguments,
    run,
    aliases=("inside",),
    order=10,
)
