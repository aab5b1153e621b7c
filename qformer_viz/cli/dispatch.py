"""The commands: what a browser shows, and measurements, without one. `__main__` hands in the model's side."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from qformer_viz.atomic_files import (
    atomic_write,
    check_file,
    check_folder,
    make_folder,
    write_json,
    write_text,
)
from qformer_viz.attribution import METHODS
from qformer_viz.attribution.explanation import attribute, prepare
from qformer_viz.cli import inputs
from qformer_viz.cli.arguments import parser
from qformer_viz.cli.terminal import whole_unicode
from qformer_viz.errors import UserError


@dataclass(frozen=True)
class Backend:
    """load(name, quantization, device, allow) -> pipeline; errors carry a message meant for the user;
    truths(scenes) -> the scenes of the benchmark, with `image`, `masks`, `without` and `empty` each;
    pictures(pipe, count) -> images of the model's world, and unseen(pipe, count) others than its means are taken over,
    where there are any; `photograph`, one that is shipped; checkpoints(device) -> (a row for each that can be loaded,
    free bytes); labelled(scenes) -> (image, {label: value}) of each."""

    load: Callable[..., Any]
    decode: Callable[[Any], Any]
    errors: tuple[type[Exception], ...]
    truths: Callable[[int], Any] | None = None
    pictures: Callable[[Any, int], Any] | None = None
    photograph: Path | None = None
    checkpoints: Callable[[str | None], tuple[list[dict[str, Any]], float]] | None = None
    labelled: Callable[[int], Any] | None = None
    unseen: Callable[[Any, int], Any] | None = None


def load(backend: Backend, args: argparse.Namespace) -> Any:
    """The pipeline that the options ask for."""
    quantization = None if args.quantization == "none" else args.quantization
    return backend.load(args.model, quantization=quantization, device=args.device, allow=tuple(args.allow))


def main(argv: Sequence[str] | None, backend: Backend) -> int:
    """Run one command. 0: done; 1: the doctor found a fault; 2: the input or the options are at fault, said on
    stderr; 130: stopped by Ctrl-C."""
    args = parser().parse_args(argv)
    output = sys.stdout
    try:
        # What the loader tells belongs to the terminal, not to the result.
        with redirect_stdout(sys.stderr):
            if args.command in WHOLE:
                if getattr(args, "out", None):
                    check_file(args.out)
                result = WHOLE[args.command](backend, args)
            else:
                result = _about_images(backend, args, output)
    except (UserError, *backend.errors, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return stopped()
    if args.json:
        print(json.dumps(result, ensure_ascii=not whole_unicode(), indent=2))
    elif "text" in result:
        print(result["text"])
    return 2 if result.get("failed") else 0 if result.get("healthy", True) else 1


def stopped() -> int:
    """One line for Ctrl-C, below what the terminal shows of it, and the exit code of shells."""
    print("\nstopped" if sys.stderr.isatty() else "stopped", file=sys.stderr)
    return 130


def _about_images(backend: Backend, args: argparse.Namespace, output: TextIO) -> dict[str, Any]:
    """What a command says of one image, or of several one by one, each told as soon as it is known: one that cannot be
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
        return _about_image(pipe, first, args)
    results: list[dict[str, Any]] = []
    for source in found:
        own = argparse.Namespace(**vars(args))
        if args.command == "explain":
            own.out = args.out / source.folder
        try:
            result = _about_image(pipe, backend.decode(source.read()), own, f"{source.name}: ")
        except (UserError, *backend.errors, OSError) as error:
            print(f"error: {source.name}: {error}", file=sys.stderr)
            result = {"error": str(error)}
        else:
            line = str(own.out) if args.command == "explain" else " ".join(result["text"].split())
            if not args.json:
                print(f"{source.name}: {line}", file=output, flush=True)
        results.append({"image": source.name} | result)
    return {"images": results, "failed": sum("error" in result for result in results)}


def _about_image(pipe: Any, decoded: Any, args: argparse.Namespace, name: str = "") -> dict[str, Any]:
    encoded = pipe.encode(decoded)
    for notice in encoded.notices:
        print(f"note: {name}{notice}", file=sys.stderr)
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
        row_cells = [
            row["id"],
            row["family"],
            *cells,
            row["fits"] or "no",
            "yes" if row["verified"] else "no",
        ]
        lines.append(f"| {' | '.join(row_cells)} |")
    return {"text": "\n".join(lines), "checkpoints": rows, "free_bytes": free}


def run_doctor(backend: Backend, args: argparse.Namespace) -> dict[str, Any]:
    """Whether the checkpoint works here, as a report to paste."""
    from qformer_viz.evaluation import doctor

    image = backend.decode(args.image or backend.photograph).image
    report = doctor.examine(lambda: load(backend, args), image)
    return {"text": report.text(), "healthy": report.healthy} | asdict(report)


def run_fidelity(backend: Backend, args: argparse.Namespace) -> dict[str, Any]:
    """What a precision changes, with the progress on stderr."""
    from qformer_viz.analysis import precision_comparison

    first, second = (
        backend.load(args.model, device=args.device, allow=tuple(args.allow), **precision(name))
        for name in (args.against, args.precision)
    )

    def on_progress(done: int) -> None:
        print(f"\rimage {done}", end="", file=sys.stderr, flush=True)

    found = precision_comparison.compare_precisions(
        first, second, backend.pictures(first, args.images), args.question, on_progress
    )
    print(file=sys.stderr)
    title = f"{first.name}: {args.precision} against {args.against}, {found.images} images"
    figures = {
        name: value.tolist() if hasattr(value, "tolist") else value for name, value in vars(found).items()
    }
    return {"text": f"{title}\n\n{precision_comparison.table(found)}"} | figures


def run_compare(backend: Backend, args: argparse.Namespace) -> dict[str, Any]:
    """What another checkpoint changes, with the progress on stderr. One model is in memory at a time."""
    from qformer_viz.analysis.model_comparison import compare_models, figures, table

    pictures = [backend.decode(path).image for path in args.pictures or ()]

    def look(name: str) -> tuple[list[Any], list[str]]:
        pipe = load(backend, argparse.Namespace(**vars(args) | {"model": name}))
        pictures.extend(() if pictures else backend.pictures(pipe, args.images))
        question = args.question if pipe.family == "instructblip" else ""
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


def precision(name: str) -> dict[str, str | None]:
    """What `load` is given for a name of PRECISIONS."""
    return {"quantization": name} if name.endswith("bit") else {"quantization": None, "dtype": name}


def run_faithfulness(backend: Backend, args: argparse.Namespace) -> dict[str, Any]:
    """The table of truth, with the progress on stderr."""
    import torch

    from qformer_viz.evaluation import benchmark

    pipe = load(backend, args)

    def on_progress() -> Any:
        for number, truth in enumerate(backend.truths(args.scenes), 1):
            print(f"\rscene {number} of {args.scenes}", end="", file=sys.stderr)
            masks = {noun: torch.from_numpy(mask) for noun, mask in truth["masks"].items()}
            yield benchmark.Truth(**truth | {"masks": masks})
        print(file=sys.stderr)

    if args.sanity:
        rows = benchmark.sanity(pipe, list(on_progress()))
        lines = ["| re-initialised | Spearman to the original map |", "|---|---|"]
        lines += [
            "| {} | {:.3f} ({:.2f} to {:.2f}) |".format(t, *benchmark.interval(v)) for t, v in rows.items()
        ]
        return {"text": "\n".join(lines), "rows": rows}
    result = benchmark.run(pipe, on_progress(), args.methods)
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


def run_bottleneck(backend: Backend, args: argparse.Namespace) -> dict[str, Any]:
    """What passes the queries, with the progress on stderr."""
    from qformer_viz.analysis import bottleneck

    pipe = load(backend, args)
    questions = args.questions if pipe.family == "instructblip" else []

    def on_progress(what: str, done: int) -> None:
        print(f"\r{what} {done}", end="", file=sys.stderr, flush=True)

    try:
        found = bottleneck.measure(pipe, backend.labelled(args.scenes), questions, on_progress)
    finally:
        print(file=sys.stderr)  # what comes next begins a line of its own
    if args.out:
        write_text(args.out, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return {"text": f"{pipe.name}, {found['images']} scenes\n\n{bottleneck.table(found)}"} | found


def run_inside(backend: Backend, args: argparse.Namespace) -> dict[str, Any]:
    """What single heads, layers and the talk between queries are worth, with the progress on stderr."""
    from qformer_viz.analysis import ablation_study

    pipe = load(backend, args)
    if args.pictures:
        images = (backend.decode(path).image for path in args.pictures)
    else:
        images = backend.unseen(pipe, args.images)

    def on_progress(done: int) -> None:
        print(f"\rimage {done}", end="", file=sys.stderr, flush=True)

    try:
        found = ablation_study.measure(pipe, images, args.questions, on_progress)
    finally:
        print(file=sys.stderr)
    found["table"] = ablation_study.table(found)
    if args.out:
        write_text(args.out, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return {"text": f"{pipe.name}, {found['images']} images, nats lost\n\n{found['table']}"} | found


def run_caption(pipe: Any, encoded: Any, args: argparse.Namespace) -> dict[str, Any]:
    return _told(pipe, pipe.caption(encoded))


def run_ask(pipe: Any, encoded: Any, args: argparse.Namespace) -> dict[str, Any]:
    return _told(pipe, pipe.ask(encoded, args.question))


def run_explain(pipe: Any, encoded: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Write the five files, the explanation only where there is one; the text lists them."""
    from qformer_viz.runtime.map_placement import of
    from qformer_viz.view import archive, map_images
    from qformer_viz.view.notebook import show

    answer = pipe.caption(encoded)
    turns = [("", answer.text)]
    if args.question:
        encoded = pipe.encode(encoded, args.question) if pipe.family == "instructblip" else encoded
        answer = pipe.ask(encoded, args.question, turns)
        turns.append((args.question, answer.text))
    why = _taken_apart(pipe, encoded, answer, args.methods) if answer.text else []
    capture, about = encoded.capture, pipe.describe()
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
        map_images.contact_sheet(capture, encoded.image, placement=of(encoded)).save(temporary)
    if why:
        archive.save_attributions(why, files["attributions.json"], manifest)
    else:
        files.pop("attributions.json").unlink(missing_ok=True)  # of an earlier answer
    return {"text": "\n".join(map(str, files.values())), "files": [str(path) for path in files.values()]} | {
        "manifest": manifest
    }


def _taken_apart(pipe: Any, encoded: Any, answer: Any, methods: Sequence[str]) -> list[Any]:
    """The answer by every method, with the progress on stderr."""
    found = []
    context = prepare(pipe, encoded, answer) if methods else None
    for name in methods:

        def on_progress(done: int, of: int, title: str = METHODS[name].title) -> None:
            print(f"\r{title}: {done} of {of}", end="", file=sys.stderr, flush=True)

        found.append(attribute(context, name, on_progress=on_progress))
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
    "inside": run_inside,
}
