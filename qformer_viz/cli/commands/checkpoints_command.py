"""`qformer-viz checkpoints`: what can be loaded, and what fits here."""

from __future__ import annotations

import argparse
from typing import Any

from qformer_viz.cli.command import Backend, Command


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("--device", help="for example cpu or cuda:0 [chosen by what is there]")
    parser.add_argument("--json", action="store_true", help="print every figure as JSON")


def run(backend: Backend, args: argparse.Namespace) -> dict[str, Any]:
    """The list of checkpoints, as a table in Markdown."""
    rows, free = backend.checkpoints(args.device)
    shown = ("float32", "bfloat16", "8bit", "4bit")
    lines = [
        f"| checkpoint | kind | {' | '.join(shown)} | fits into {free / 1e9:.1f} GB | run by this project |",
        "|---" * (len(shown) + 4) + "|",
    ]
    for row in rows:
        sizes = (row["gigabytes"].get(precision) for precision in shown)
        cells = ["–" if size is None else f"{size:.2f}" for size in sizes]
        row_cells = [
            row["id"],
            row["family"],
            *cells,
            row["fits"] or "no",
            "yes" if row["verified"] else "no",
        ]
        lines.append(f"| {' | '.join(row_cells)} |")
    return {"text": "\n".join(lines), "checkpoints": rows, "free_bytes": free}


COMMAND = Command(
    "checkpoints",
    "list what can be loaded, its size in every precision, and what fits here",
    arguments,
    run,
    order=4,
)
