"""`qformer-viz doctor`: whether a checkpoint works here."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from qformer_viz.cli.arguments import model_arguments
from qformer_viz.cli.command import Backend, Command, load


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    model_arguments(parser)
    parser.add_argument("--image", help="an image file [a shipped photograph]")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(backend: Backend, args: argparse.Namespace) -> dict[str, Any]:
    """Whether the checkpoint works here, as a report to paste."""
    from qformer_viz.evaluation import doctor

    photograph = args.image or backend.photograph
    assert photograph is not None, "a backend without a photograph is given an image"
    image = backend.decode(photograph).image
    report = doctor.examine(lambda: load(backend, args), image)
    return {"text": report.text(), "healthy": report.healthy} | asdict(report)


COMMAND = Command(
    "doctor",
    "load a checkpoint, check what can be checked, and print a report to paste into an issue",
    arguments,
    run,
    order=5,
)
