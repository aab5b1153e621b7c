"""From the words on the command line to the result of a command."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any, TextIO

from qformer_viz.atomic_files import check_file, check_folder
from qformer_viz.cli import inputs
from qformer_viz.cli.command import Backend, all_commands, load
from qformer_viz.cli.terminal import whole_unicode
from qformer_viz.errors import UserError
from qformer_viz.version import __version__

if TYPE_CHECKING:
    from qformer_viz.media.image_decoder import Decoded
    from qformer_viz.runtime.pipeline import Pipeline


def parser() -> argparse.ArgumentParser:
    """The parser of every command."""
    top = argparse.ArgumentParser(
        prog="python -m qformer_viz", description="See inside Q-Former models, without the browser."
    )
    top.add_argument("--version", action="version", version=f"qformer-viz {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in all_commands().items():
        if name == command.name:
            command.arguments(commands.add_parser(name, aliases=list(command.aliases), help=command.help))
    return top


def main(argv: Sequence[str] | None, backend: Backend) -> int:
    """Run one command. 0: done; 1: the doctor found a fault; 2: the input or the options are at fault, said on
    stderr; 130: stopped by Ctrl-C."""
    args = parser().parse_args(argv)
    output, user_errors = sys.stdout, _user_errors(backend)
    try:
        # What the loader tells belongs to the terminal, not to the result.
        with redirect_stdout(sys.stderr):
            command = all_commands()[args.command]
            if command.run is not None:
                if getattr(args, "out", None):
                    check_file(args.out)
                result = command.run(backend, args)
            else:
                result = _on_images(backend, args, output)
    except user_errors as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return stopped()
    if getattr(args, "json", False):
        print(json.dumps(result, ensure_ascii=not whole_unicode(), indent=2))
    elif "text" in result:
        print(result["text"])
    return 2 if result.get("failed") else 0 if result.get("healthy", True) else 1


def stopped() -> int:
    """One line for Ctrl-C, below what the terminal shows of it, and the exit code of shells."""
    print("\nstopped" if sys.stderr.isatty() else "stopped", file=sys.stderr)
    return 130


def _on_images(backend: Backend, args: argparse.Namespace, output: TextIO) -> dict[str, Any]:
    """What a command says of one image, or of several one by one, each printed once it is known: one that cannot be
    opened does not keep the others waiting."""
    found, several = inputs.listed(args.image), inputs.several(args.image)
    if args.command == "explain":
        check_folder(args.out)
        for source in found if several else ():
            if (args.out / source.folder).exists():
                check_folder(args.out / source.folder)
    first = None if several else backend.decode(found[0].read())
    pipe = load(backend, args)
    if first is not None:
        return _on_image(pipe, first, args)
    results: list[dict[str, Any]] = []
    user_errors = _user_errors(backend)
    for source in found:
        own = argparse.Namespace(**vars(args))
        if args.command == "explain":
            own.out = args.out / source.folder
        try:
            result = _on_image(pipe, backend.decode(source.read()), own, f"{source.name}: ")
        except user_errors as error:
            print(f"error: {source.name}: {error}", file=sys.stderr)
            result = {"error": str(error)}
        else:
            line = str(own.out) if args.command == "explain" else " ".join(result["text"].split())
            if not args.json:
                print(f"{source.name}: {line}", file=output, flush=True)
        results.append({"image": source.name} | result)
    return {"images": results, "failed": sum("error" in result for result in results)}


def _user_errors(backend: Backend) -> tuple[type[Exception], ...]:
    """Errors whose message is for the user."""
    return (UserError, *backend.errors, OSError)


def _on_image(pipe: Pipeline, decoded: Decoded, args: argparse.Namespace, name: str = "") -> dict[str, Any]:
    encoded = pipe.encode(decoded)
    for notice in encoded.notices:
        print(f"note: {name}{notice}", file=sys.stderr)
    run = all_commands()[args.command].run_on_image
    assert run is not None, "a command without `run` works on images"
    return run(pipe, encoded, args)
