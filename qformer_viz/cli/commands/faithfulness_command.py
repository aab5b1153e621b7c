"""`qformer-viz faithfulness`: how true the maps of every method are."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qformer_viz.atomic_files import write_text
from qformer_viz.attribution import METHODS
from qformer_viz.cli.arguments import model_arguments, several
from qformer_viz.cli.command import Backend, Command, load
from qformer_viz.evaluation import weight_randomization


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    model_arguments(parser)
    parser.add_argument("--scenes", type=several, default=300, help="how many [%(default)s]")
    parser.add_argument(
        "--sanity",
        action="store_true",
        help="instead, whether the map changes when what was learned is replaced by noise (20 scenes do)",
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=list(METHODS),
        metavar="NAME",
        help="only these, of " + ", ".join(METHODS),
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="write means and intervals as JSON; model cards are drawn from it",
    )
    parser.add_argument("--json", action="store_true", help="print every figure as JSON")


def run(backend: Backend, args: argparse.Namespace) -> dict[str, Any]:
    """The table of truth, with the progress on stderr."""
    import torch

    from qformer_viz.evaluation import benchmark

    pipe = load(backend, args)

    def scenes() -> Any:
        for number, truth in enumerate(backend.truths(args.scenes), 1):
            print(f"\rscene {number} of {args.scenes}", end="", file=sys.stderr)
            masks = {noun: torch.from_numpy(mask) for noun, mask in truth["masks"].items()}
            yield benchmark.Truth(truth["image"], masks, truth["without"], truth["empty"])
        print(file=sys.stderr)

    if args.sanity:
        rows = weight_randomization.sanity(pipe, list(scenes()))
        lines = ["| re-initialised | Spearman to the original map |", "|---|---|"]
        lines += [
            "| {} | {:.3f} ({:.2f} to {:.2f}) |".format(t, *benchmark.interval(v)) for t, v in rows.items()
        ]
        return {"text": "\n".join(lines), "rows": rows}
    result = benchmark.run(pipe, scenes(), args.methods)
    cases = len(next(iter(result.rows.values()))["pointing"]) if result.rows else 0
    text = f"{cases} certified words of {args.scenes} scenes, {pipe.name}"
    text += f"\n\n{benchmark.table(result)}\n\n{benchmark.facts(result)}"
    found = {
        "text": text,
        "scenes": args.scenes,
        "cases": cases,
        "counted": {measure: len(images) for measure, images in result.images.items()},
        "summary": benchmark.summary(result),
        "measures": benchmark.MEASURES,
    }
    if args.out:
        write_text(args.out, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return found | asdict(result)


COMMAND = Command(
    "faithfulness",
    "measure all methods over scenes of the bundled world whose objects are known",
    arguments,
    run,
    order=8,
)
