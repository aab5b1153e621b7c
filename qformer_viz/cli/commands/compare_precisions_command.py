"""`qformer-viz compare-precisions`: what a precision changes."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from qformer_viz.cli.arguments import PRECISIONS, model_arguments, precision, several
from qformer_viz.cli.command import Backend, Command


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    model_arguments(parser, quantization=False)
    parser.add_argument("--precision", choices=PRECISIONS, default="8bit", help="to judge [%(default)s]")
    parser.add_argument(
        "--against", choices=PRECISIONS, default="float32", help="the reference [%(default)s]"
    )
    parser.add_argument("--images", type=several, default=12, help="how many [%(default)s]")
    parser.add_argument("--question", default="what is in the picture?", help="asked of each; may be empty")
    parser.add_argument("--json", action="store_true", help="print every figure as JSON")


def run(backend: Backend, args: argparse.Namespace) -> dict[str, Any]:
    """What a precision changes, with the progress on stderr."""
    from qformer_viz.analysis import precision_comparison

    first, second = (
        backend.load(args.model, device=args.device, allow=tuple(args.allow), **precision(name))
        for name in (args.against, args.precision)
    )

    def on_progress(done: int) -> None:
        print(f"\rimage {done}", end="", file=sys.stderr, flush=True)

    found = precision_comparison.compare_precisions(
        first, second, backend.pictures(first, args.images), args.question, on_progress
    )
    print(file=sys.stderr)
    title = f"{first.name}: {args.precision} against {args.against}, {found.images} images"
    figures = {
        name: value.tolist() if hasattr(value, "tolist") else value for name, value in vars(found).items()
    }
    return {"text": f"{title}\n\n{precision_comparison.table(found)}"} | figures


COMMAND = Command(
    "compare-precisions",
    "what a precision changes: maps and words on the same images",
    arguments,
    run,
    aliases=("fidelity",),
    order=6,
)
