"""`qformer-viz bottleneck`: what passes the queries."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from qformer_viz.atomic_files import write_text
from qformer_viz.cli.arguments import model_arguments, several
from qformer_viz.cli.command import Backend, Command, load
from qformer_viz.runtime.families import find_family


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    model_arguments(parser)
    parser.add_argument("--scenes", type=several, default=3000, help="how many [%(default)s]")
    parser.add_argument(
        "--questions",
        nargs="*",
        default=[],
        metavar="QUESTION",
        help="asked as well of a Q-Former that reads them",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write every figure as JSON; model cards show it"
    )
    parser.add_argument("--json", action="store_true", help="print every figure as JSON")


def run(backend: Backend, args: argparse.Namespace) -> dict[str, Any]:
    """What passes the queries, with the progress on stderr."""
    from qformer_viz.analysis import bottleneck

    pipe = load(backend, args)
    questions = args.questions if find_family(pipe.family).reads_questions else []

    def on_progress(what: str, done: int) -> None:
        print(f"\r{what} {done}", end="", file=sys.stderr, flush=True)

    try:
        found = bottleneck.measure(pipe, backend.labelled(args.scenes), questions, on_progress)
    finally:
        print(file=sys.stderr)  # what comes next begins a line of its own
    if args.out:
        write_text(args.out, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return {"text": f"{pipe.name}, {found['images']} scenes\n\n{bottleneck.table(found)}"} | found


COMMAND = Command(
    "bottleneck",
    "what can be read off the patches, and what off the queries, over scenes that are known",
    arguments,
    run,
    order=9,
)
