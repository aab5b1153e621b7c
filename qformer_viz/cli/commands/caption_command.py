"""`qformer-viz caption`: describe images."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from qformer_viz.cli.arguments import image_arguments
from qformer_viz.cli.command import Command, answer_facts

if TYPE_CHECKING:
    from qformer_viz.runtime.pipeline import Pipeline
    from qformer_viz.types import EncodedImage


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    image_arguments(parser)


def run(pipe: Pipeline, encoded: EncodedImage, args: argparse.Namespace) -> dict[str, Any]:
    """The caption, as `answer_facts`."""
    return answer_facts(pipe, pipe.caption(encoded))


COMMAND = Command("caption", "describe an image", arguments, run_on_image=run, order=1)
