"""`qformer-viz compare`: what another checkpoint changes."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from qformer_viz.cli.arguments import BUNDLED, model_arguments, several
from qformer_viz.cli.command import Backend, Command, load
from qformer_viz.runtime.families import find_family


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    model_arguments(parser)
    parser.add_argument(
        "--against",
        default=BUNDLED,
        metavar="NAME",
        help="the reference, a checkpoint as above [%(default)s]",
    )
    parser.add_argument(
        "--pictures", nargs="+", metavar="FILE", help="image files [images of the reference's world]"
    )
    parser.add_argument(
        "--images", type=several, default=24, help="how many, without --pictures [%(default)s]"
    )
    parser.add_argument(
        "--question", default="", help="asked in place of a caption, and read by an InstructBLIP"
    )
    parser.add_argument("--json", action="store_true", help="print every figure as JSON")


def run(backend: Backend, args: argparse.Namespace) -> dict[str, Any]:
    """What another checkpoint changes, with the progress on stderr. One model is in memory at a time."""
    from qformer_viz.analysis.model_comparison import compare_models, figures, table

    pictures = [backend.decode(path).image for path in args.pictures or ()]

    def look(name: str) -> tuple[list[Any], list[str]]:
        pipe = load(backend, argparse.Namespace(**vars(args) | {"model": name}))
        pictures.extend(() if pictures else backend.pictures(pipe, args.images))
        question = args.question if find_family(pipe.family).reads_questions else ""
        captures, said = [], []
        for encoded in pipe.encode_each(pictures, question or None):
            captures.append(encoded.capture)
            answer = pipe.ask(encoded, args.question) if args.question else pipe.caption(encoded)
            said.append(answer.text)
            line = f"\r{name}: image {len(said)} of {len(pictures)}"
            print(line, end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        return captures, said

    names = (args.against, args.model)  # as they were typed: two folders may hold models of one name
    captures, said = zip(*map(look, names), strict=True)
    found = compare_models(*captures)
    same = sum(one == other for one, other in zip(*said, strict=True))
    what = "answer" if args.question else "caption"
    text = f"{names[1]} against {names[0]}, {found.images} images\n\n{table(found)}\n"
    text += f"The same {what} for {same} of {found.images} images."
    return {"text": text, "models": names, "said": said} | figures(found)


COMMAND = Command(
    "compare",
    "what another checkpoint changes, a fine-tuned one for instance: maps, states and words",
    arguments,
    run,
    order=7,
)
