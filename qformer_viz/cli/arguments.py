"""The options of the command line, and those that it shares with app.py."""

import argparse
import os
from pathlib import Path

from qformer_viz.attribution import METHODS
from qformer_viz.attribution.explanation import DEFAULT
from qformer_viz.version import __version__

BUNDLED = "blip2-emoji"
PRECISIONS = ("float32", "bfloat16", "float16", "8bit", "4bit")


def model_arguments(parser: argparse.ArgumentParser, quantization: bool = True) -> None:
    """The options that choose a model, shared with app.py; environment variables give the defaults."""
    env = os.environ
    parser.add_argument(
        "--model",
        default=env.get("QFORMER_VIZ_MODEL", BUNDLED),
        metavar="NAME",
        help="a listed checkpoint, a folder, or a hub id named by --allow [QFORMER_VIZ_MODEL, %(default)s]",
    )
    if quantization:
        parser.add_argument(
            "--quantization",
            choices=["auto", "none", "8bit", "4bit"],
            default=env.get("QFORMER_VIZ_QUANTIZATION") or "auto",
            help="of the big weights, auto: as little as the free memory asks for; the Q-Former stays float "
            "[QFORMER_VIZ_QUANTIZATION, %(default)s]",
        )
    parser.add_argument(
        "--device",
        default=env.get("QFORMER_VIZ_DEVICE") or None,
        help="for example cpu or cuda:0 [QFORMER_VIZ_DEVICE, chosen by what is there]",
    )
    parser.add_argument(
        "--allow",
        nargs="*",
        default=(env.get("QFORMER_VIZ_ALLOW") or "").split(),
        metavar="HUB_ID",
        help="further hub ids that may be loaded; QFORMER_VIZ_ALLOW separates them by spaces",
    )


def several(text: str) -> int:
    """A number of images as an option: 1 or more."""
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of 1 or more")
    return int(text)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m qformer_viz", description="See inside Q-Former models, without the browser."
    )
    top.add_argument("--version", action="version", version=f"qformer-viz {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    caption = commands.add_parser("caption", help="describe an image")
    ask = commands.add_parser("ask", help="answer a question about an image")
    explain = commands.add_parser(
        "explain",
        help="write page, capture, explanation of every word, manifest and contact sheet to a folder",
    )
    for command in (caption, ask, explain):
        command.add_argument(
            "image",
            nargs="+",
            metavar="IMAGE",
            help="image files, folders of images, or - for standard input; of several, a line for each",
        )
        model_arguments(command)
        command.add_argument("--json", action="store_true", help="print the result as JSON")
    ask.add_argument("question", help="the question, in quotes")
    explain.add_argument("--question", help="asked after the caption; its answer is taken apart then")
    explain.add_argument(
        "--methods",
        nargs="*",
        choices=list(METHODS),
        default=[DEFAULT],
        metavar="NAME",
        help=f"that take the answer apart, of {', '.join(METHODS)}; none leaves it whole [{DEFAULT}]",
    )
    explain.add_argument(
        "--out",
        required=True,
        type=Path,
        metavar="DIR",
        help="folder to write to, made if needed; of several images it holds a folder for each",
    )
    listed = commands.add_parser(
        "checkpoints", help="list what can be loaded, its size in every precision, and what fits here"
    )
    listed.add_argument("--device", help="for example cpu or cuda:0 [chosen by what is there]")
    listed.add_argument("--json", action="store_true", help="print every figure as JSON")
    doctor = commands.add_parser(
        "doctor",
        help="load a checkpoint, check what can be checked, and print a report to paste into an issue",
    )
    model_arguments(doctor)
    doctor.add_argument("--image", help="an image file [a shipped photograph]")
    doctor.add_argument("--json", action="store_true", help="print the report as JSON")
    precise = commands.add_parser(
        "fidelity", help="what a precision changes: maps and words on the same images"
    )
    model_arguments(precise, quantization=False)
    precise.add_argument("--precision", choices=PRECISIONS, default="8bit", help="to judge [%(default)s]")
    precise.add_argument(
        "--against", choices=PRECISIONS, default="float32", help="the reference [%(default)s]"
    )
    precise.add_argument("--images", type=several, default=12, help="how many [%(default)s]")
    precise.add_argument("--question", default="what is in the picture?", help="asked of each; may be empty")
    precise.add_argument("--json", action="store_true", help="print every figure as JSON")
    compare = commands.add_parser(
        "compare",
        help="what another checkpoint changes, a fine-tuned one for instance: maps, states and words",
    )
    model_arguments(compare)
    compare.add_argument(
        "--against",
        default=BUNDLED,
        metavar="NAME",
        help="the reference, a checkpoint as above [%(default)s]",
    )
    compare.add_argument(
        "--pictures", nargs="+", metavar="FILE", help="image files [images of the reference's world]"
    )
    compare.add_argument(
        "--images", type=several, default=24, help="how many, without --pictures [%(default)s]"
    )
    compare.add_argument(
        "--question", default="", help="asked in place of a caption, and read by an InstructBLIP"
    )
    compare.add_argument("--json", action="store_true", help="print every figure as JSON")
    truth = commands.add_parser(
        "faithfulness", help="measure all methods over scenes of the bundled world whose objects are known"
    )
    model_arguments(truth)
    truth.add_argument("--scenes", type=several, default=300, help="how many [%(default)s]")
    truth.add_argument(
        "--sanity",
        action="store_true",
        help="instead, whether the map changes when what was learned is replaced by noise (20 scenes do)",
    )
    truth.add_argument(
        "--methods",
        nargs="+",
        choices=list(METHODS),
        metavar="NAME",
        help="only these, of " + ", ".join(METHODS),
    )
    truth.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="write means and intervals as JSON; model cards are drawn from it",
    )
    truth.add_argument("--json", action="store_true", help="print every figure as JSON")
    passed = commands.add_parser(
        "bottleneck",
        help="what can be read off the patches, and what off the queries, over scenes that are known",
    )
    model_arguments(passed)
    passed.add_argument("--scenes", type=several, default=3000, help="how many [%(default)s]")
    passed.add_argument(
        "--questions",
        nargs="*",
        default=[],
        metavar="QUESTION",
        help="asked as well of a Q-Former that reads them",
    )
    passed.add_argument(
        "--out", type=Path, metavar="FILE", help="write every figure as JSON; model cards show it"
    )
    passed.add_argument("--json", action="store_true", help="print every figure as JSON")
    within = commands.add_parser(
        "inside",
        help="inside the Q-Former: what single heads, whole layers and the talk between queries are worth to the words",
    )
    model_arguments(within)
    within.add_argument("--images", type=several, default=100, help="how many [%(default)s]")
    within.add_argument(
        "--pictures", nargs="+", metavar="FILE", help="image files [images of the model's world]"
    )
    within.add_argument(
        "--questions",
        nargs="*",
        default=["what is in the picture?", "how many objects are there?"],
        metavar="QUESTION",
        help="asked after the caption",
    )
    within.add_argument(
        "--out", type=Path, metavar="FILE", help="write every figure as JSON; model cards show it"
    )
    within.add_argument("--json", action="store_true", help="print every figure as JSON")
    return top
