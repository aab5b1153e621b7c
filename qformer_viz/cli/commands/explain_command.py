"""`qformer-viz explain`: write what a browser shows of an answer to a folder."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qformer_viz.atomic_files import atomic_write, make_folder, write_json
from qformer_viz.attribution import METHODS
from qformer_viz.attribution.explanation import DEFAULT, attribute, captured, prepare
from qformer_viz.cli.arguments import image_arguments
from qformer_viz.cli.command import Command
from qformer_viz.runtime.families import find_family
from qformer_viz.view import contact_sheets

if TYPE_CHECKING:
    from qformer_viz.runtime.pipeline import Pipeline
    from qformer_viz.types import Answer, Attribution, EncodedImage


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    image_arguments(parser)
    parser.add_argument("--question", help="asked after the caption; its answer is taken apart then")
    parser.add_argument(
        "--methods",
        nargs="*",
        choices=list(METHODS),
        default=[DEFAULT],
        metavar="NAME",
        help=f"that take the answer apart, of {', '.join(METHODS)}; none leaves it whole [{DEFAULT}]",
    )
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        metavar="DIR",
        help="folder to write to, made if needed; of several images it holds a folder for each",
    )


def run(pipe: Pipeline, encoded: EncodedImage, args: argparse.Namespace) -> dict[str, Any]:
    """Write the five files, the explanation only where there is one; the text lists them."""
    from qformer_viz.runtime.map_placement import of
    from qformer_viz.view import archive
    from qformer_viz.view.notebook import show

    answer = pipe.caption(encoded)
    turns = [("", answer.text)]
    if args.question:
        encoded = pipe.encode(encoded, args.question) if find_family(pipe.family).reads_questions else encoded
        answer = pipe.ask(encoded, args.question, turns)
        turns.append((args.question, answer.text))
    why = _explanations(pipe, encoded, answer, args.methods) if answer.text else []
    capture, about = captured(encoded), pipe.describe()
    manifest = archive.manifest(
        capture,
        about,
        image_sha256=encoded.sha256,
        question=turns[-1][0] or None,
        answer=turns[-1][1],
        placements=encoded.placements,
    )
    make_folder(args.out)
    files = {
        name: args.out / name
        for name in ("page.html", "capture.npz", "manifest.json", "contact_sheet.png", "attributions.json")
    }
    show(encoded, pipe=pipe, why=why, turns=turns).save(files["page.html"])
    archive.save_npz(capture, files["capture.npz"], manifest)
    write_json(files["manifest.json"], manifest, indent=2)
    with atomic_write(files["contact_sheet.png"]) as temporary:
        contact_sheets.contact_sheet(capture, encoded.image, placement=of(encoded)).save(temporary)
    if why:
        archive.save_attributions(why, files["attributions.json"], manifest)
    else:
        files.pop("attributions.json").unlink(missing_ok=True)  # of an earlier answer
    return {"text": "\n".join(map(str, files.values())), "files": [str(path) for path in files.values()]} | {
        "manifest": manifest
    }


def _explanations(
    pipe: Pipeline, encoded: EncodedImage, answer: Answer, methods: Sequence[str]
) -> list[Attribution]:
    """The answer by every method, with the progress on stderr."""
    if not methods:
        return []
    found, context = [], prepare(pipe, encoded, answer)
    for name in methods:

        def on_progress(done: int, of: int, title: str = METHODS[name].title) -> None:
            print(f"\r{title}: {done} of {of}", end="", file=sys.stderr, flush=True)

        found.append(attribute(context, name, on_progress=on_progress))
        print(f"\r{METHODS[name].title}: {found[-1].seconds:.1f} s{'':12}", file=sys.stderr)
    return found


COMMAND = Command(
    "explain",
    "write page, capture, explanation of every word, manifest and contact sheet to a folder",
    arguments,
    run_on_image=run,
    order=3,
)
