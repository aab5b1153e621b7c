"""The command line: caption, ask and explain without a browser. `__main__` hands in the model's side."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .attribution import METHODS
from .explain import DEFAULT, attribute, prepare

BUNDLED = "blip2-emoji"
PRECISIONS = ("float32", "bfloat16", "float16", "8bit", "4bit")


@dataclass(frozen=True)
class Backend:
    """load(name, quantization, device, allow) -> pipeline; errors carry a message meant for the user;
    truths(scenes) -> the scenes of the benchmark, with `image`, `masks`, `without` and `empty` each;
    pictures(pipe, count) -> images of the model's world; `photograph`, one that is shipped; checkpoints(device) -> (a
    row for each that can be loaded, free bytes); labelled(scenes) -> (image, {label: value}) of each."""

    load: Callable[..., Any]
    decode: Callable[[Any], Any]
    errors: tuple[type[Exception], ...]
    truths: Callable[[int], Any] | None = None
    pictures: Callable[[Any, int], Any] | None = None
    photograph: Path | None = None
    checkpoints: Callable[[str | None], tuple[list[dict[str, Any]], float]] | None = None
    labelled: Callable[[int], Any] | None = None


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


def load(backend: Backend, args: argparse.Namespace) -> Any:
    """The pipeline that the options ask for."""
    quantization = None if args.quantization == "none" else args.quantization
    return backend.load(args.model, quantization=quantization, device=args.device, allow=tuple(args.allow))


def several(text: str) -> int:
    """A number of images as an option: 1 or more."""
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of 1 or more")
    return int(text)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m qformer_viz", description="See inside Q-Former models, without the browser."
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    caption = commands.add_parser("caption", help="describe an image")
    ask = commands.add_parser("ask", help="answer a question about an image")
    explain = commands.add_parser(
        "explain",
        help="write page, capture, explanation of every word, manifest and contact sheet to a folder",
    )
    for command in (caption, ask, explain):
        command.add_argument("image", metavar="IMAGE", help="an image file")
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
        "--out", required=True, type=Path, metavar="DIR", help="folder to write to; made if needed"
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
    return top


def main(argv: Sequence[str] | None, backend: Backend) -> int:
    """Run one command. 0: done; 1: the doctor found a fault; 2: the input or the options are at fault, said on
    stderr."""
    args = parser().parse_args(argv)
    try:
        # What the loader tells belongs to the terminal, not to the result.
        with redirect_stdout(sys.stderr):
            result = (
                WHOLE[args.command](backend, args) if args.command in WHOLE else _about_image(backend, args)
            )
    except (*backend.errors, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(result, ensure_ascii=False, indent=2) if args.json else result["text"])
    return 0 if result.get("healthy", True) else 1


def _about_image(backend: Backend, args: argparse.Namespace) -> dict[str, Any]:
    decoded = backend.decode(args.image)
    pipe = load(backend, args)
    encoded = pipe.encode(decoded)
    for notice in encoded.notices:
        print(f"note: {notice}", file=sys.stderr)
    return COMMANDS[args.command](pipe, encoded, args)


def run_checkpoints(backend: Backend, args: argparse.Namespace) -> dict[str, Any]:
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
        told = [row["id"], row["family"], *cells, row["fits"] or "no", "yes" if row["verified"] else "no"]
        lines.append(f"| {' | '.join(told)} |")
    return {"text": "\n".join(lines), "checkpoints": rows, "free_bytes": free}


def run_doctor(backend: Backend, args: argparse.Namespace) -> dict[str, Any]:
    """Whether the checkpoint works here, as a report to paste."""
    from . import doctor

    image = backend.decode(args.image or backend.photograph).image
    report = doctor.examine(lambda: load(backend, args), image)
    return {"text": report.text(), "healthy": report.healthy} | asdict(report)


def run_fidelity(backend: Backend, args: argparse.Namespace) -> dict[str, Any]:
    """What a precision changes, with the progress on stderr."""
    from . import fidelity

    first, second = (
        backend.load(args.model, device=args.device, allow=tuple(args.allow), **precision(name))
        for name in (args.against, args.precision)
    )

    def told(done: int) -> None:
        print(f"\rimage {done}", end="", file=sys.stderr, flush=True)

    found = fidelity.compare(first, second, backend.pictures(first, args.images), args.question, told)
    print(file=sys.stderr)
    title = f"{first.name}: {args.precision} against {args.against}, {found.images} images"
    figures = {
        name: value.tolist() if hasattr(value, "tolist") else value for name, value in vars(found).items()
    }
    return {"text": f"{title}\n\n{fidelity.table(found)}"} | figures


def run_compare(backend: Backend, args: argparse.Namespace) -> dict[str, Any]:
    """What another checkpoint changes, with the progress on stderr. One model is in memory at a time."""
    from .apart import apart, figures, table

    pictures = [backend.decode(path).image for path in args.pictures or ()]

    def look(name: str) -> tuple[list[Any], list[str]]:
        pipe = load(backend, argparse.Namespace(**vars(args) | {"model": name}))
        pictures.extend(() if pictures else backend.pictures(pipe, args.images))
        question = args.question if pipe.family == "instructblip" else ""
        captures, said = [], []
        for encoded in pipe.encode_each(pictures, question or None):
            captures.append(encoded.record.result)
            answer = pipe.ask(encoded, args.question) if args.question else pipe.caption(encoded)
            said.append(answer.text)
            told = f"\r{name}: image {len(said)} of {len(pictures)}"
            print(told, end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        return captures, said

    names = (args.against, args.model)  # as they were typed: two folders may hold models of one name
    captures, said = zip(*map(look, names), strict=True)
    found = apart(*captures)
    same = sum(one == other for one, other in zip(*said, strict=True))
    what = "answer" if args.question else "caption"
    text = f"{names[1]} against {names[0]}, {found.images} images\n\n{table(found)}\n"
    text += f"The same {what} for {same} of {found.images} images."
    return {"text": text, "models": names, "said": said} | figures(found)


def precision(name: str) -> dict[str, str | None]:
    """What `load` is given for a name of PRECISIONS."""
    return {"quantization": name} if name.endswith("bit") else {"quantization": None, "dtype": name}


def run_faithfulness(backend: Backend, args: argparse.Namespace) -> dict[str, Any]:
    """The table of truth, with the progress on stderr."""
    import torch

    from . import benchmark

    pipe = load(backend, args)

    def told() -> Any:
        for number, truth in enumerate(backend.truths(args.scenes), 1):
            print(f"\rscene {number} of {args.scenes}", end="", file=sys.stderr)
            masks = {noun: torch.from_numpy(mask) for noun, mask in truth["masks"].items()}
            yield benchmark.Truth(**truth | {"masks": masks})
        print(file=sys.stderr)

    if args.sanity:
        rows = benchmark.sanity(pipe, list(told()))
        lines = ["| re-initialised | Spearman to the original map |", "|---|---|"]
        lines += [
            "| {} | {:.3f} ({:.2f} to {:.2f}) |".format(t, *benchmark.interval(v)) for t, v in rows.items()
        ]
        return {"text": "\n".join(lines), "rows": rows}
    result = benchmark.run(pipe, told(), args.methods)
    cases = len(next(iter(result.rows.values()))["pointing"]) if result.rows else 0
    text = f"{cases} certified words of {args.scenes} scenes, {pipe.name}"
    text += f"\n\n{benchmark.table(result)}\n\n{benchmark.facts(result)}"
    found = {
        "text": text,
        "cases": cases,
        "summary": benchmark.summary(result),
        "measures": benchmark.MEASURES,
    }
    if args.out:
        args.out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return found | asdict(result)


def run_bottleneck(backend: Backend, args: argparse.Namespace) -> dict[str, Any]:
    """What passes the queries, with the progress on stderr."""
    from . import bottleneck

    pipe = load(backend, args)
    questions = args.questions if pipe.family == "instructblip" else []

    def told(what: str, done: int) -> None:
        print(f"\r{what} {done}", end="", file=sys.stderr, flush=True)

    try:
        found = bottleneck.measure(pipe, backend.labelled(args.scenes), questions, told)
    finally:
        print(file=sys.stderr)  # what comes next begins a line of its own
    if args.out:
        args.out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return {"text": f"{pipe.name}, {found['images']} scenes\n\n{bottleneck.table(found)}"} | found


def run_caption(pipe: Any, encoded: Any, args: argparse.Namespace) -> dict[str, Any]:
    return _told(pipe, pipe.caption(encoded))


def run_ask(pipe: Any, encoded: Any, args: argparse.Namespace) -> dict[str, Any]:
    return _told(pipe, pipe.ask(encoded, args.question))


def run_explain(pipe: Any, encoded: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Write the five files, the explanation only where there is one; the text lists them."""
    from . import export
    from .show import show
    from .view import overlay

    answer = pipe.caption(encoded)
    turns = [("", answer.text)]
    if args.question:
        encoded = pipe.encode(encoded, args.question) if pipe.family == "instructblip" else encoded
        answer = pipe.ask(encoded, args.question, turns)
        turns.append((args.question, answer.text))
    why = _taken_apart(pipe, encoded, answer, args.methods) if answer.text else []
    capture, about = encoded.record.result, pipe.describe()
    manifest = export.manifest(
        capture, about, image_sha256=encoded.sha256, question=turns[-1][0] or None, answer=turns[-1][1]
    )
    args.out.mkdir(parents=True, exist_ok=True)
    files = {
        name: args.out / name
        for name in ("page.html", "capture.npz", "manifest.json", "contact_sheet.png", "attributions.json")
    }
    show(encoded, pipe=pipe, why=why, turns=turns).save(files["page.html"])
    export.save_npz(capture, files["capture.npz"], manifest)
    files["manifest.json"].write_text(json.dumps(manifest, indent=2, ensure_ascii=False), encoding="utf-8")
    overlay.contact_sheet(capture, encoded.image).save(files["contact_sheet.png"])
    if why:
        export.save_attributions(why, files["attributions.json"], manifest)
    else:
        del files["attributions.json"]
    return {"text": "\n".join(map(str, files.values())), "files": [str(path) for path in files.values()]} | {
        "manifest": manifest
    }


def _taken_apart(pipe: Any, encoded: Any, answer: Any, methods: Sequence[str]) -> list[Any]:
    """The answer by every method, with the progress on stderr."""
    found = []
    case = prepare(pipe, encoded, answer) if methods else None
    for name in methods:

        def told(done: int, of: int, title: str = METHODS[name].title) -> None:
            print(f"\r{title}: {done} of {of}", end="", file=sys.stderr, flush=True)

        found.append(attribute(case, name, told=told))
        print(f"\r{METHODS[name].title}: {found[-1].seconds:.1f} s{'':12}", file=sys.stderr)
    return found


def _told(pipe: Any, answer: Any) -> dict[str, Any]:
    return {
        "text": answer.text or "(no words: the model ended its answer at once)",
        "finish": answer.finish,
        "tokens": list(answer.tokens),
        "logprobs": list(answer.logprobs),
        "model": pipe.name,
    }


COMMANDS = {"caption": run_caption, "ask": run_ask, "explain": run_explain}
WHOLE = {
    "checkpoints": run_checkpoints,
    "doctor": run_doctor,
    "fidelity": run_fidelity,
    "compare": run_compare,
    "faithfulness": run_faithfulness,
    "bottleneck": run_bottleneck,
}
