"""Options that several commands share."""

import argparse
import os

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


def precision(name: str) -> dict[str, str | None]:
    """What `qformer_viz.load` is given for a name of PRECISIONS."""
    return {"quantization": name} if name.endswith("bit") else {"quantization": None, "dtype": name}


def image_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of a command about images."""
    parser.add_argument(
        "image",
        nargs="+",
        metavar="IMAGE",
        help="image files, folders of images, or - for standard input; of several, a line for each",
    )
    model_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
