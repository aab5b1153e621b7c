"""The bundled model's commands.

    python -m model train                       the whole recipe into runs/emoji (or --stage NAME)
    python -m model evaluate CHECKPOINT         figures on fresh scenes
    python -m model card CHECKPOINT             the model card beside the weights, from those figures
    python -m model examples                    the example gallery
    python -m model sheets --iconify DIR        the artwork, from the npm packages

`accelerate launch -m model train` works too. Heavy imports wait until a command needs them.
"""

import argparse
import json
from pathlib import Path


def _train(arguments: argparse.Namespace) -> None:
    import torch

    from model.parallel_stages import train_all
    from model.recipe import train_stage
    from model.recipe_options import from_arguments

    how = (arguments.out, arguments.scale, arguments.precision, from_arguments(arguments))
    if arguments.stage == "all":
        train_all(*how, arguments.threads)
    else:
        if arguments.threads:
            torch.set_num_threads(arguments.threads)
        train_stage(arguments.stage, *how)
    from accelerate import PartialState

    from model import card_plots

    if not PartialState().is_main_process:
        return
    try:
        for path in card_plots.training(arguments.out):
            print(path)
    except ImportError as error:
        print(f"no plots of the curves: {error}")


def _ablate(arguments: argparse.Namespace) -> None:
    import torch

    from model.recipe_ablation import ablate

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    print(ablate(arguments.source, arguments.out, arguments.only, arguments.scale))


def _evaluate(arguments: argparse.Namespace) -> None:
    from model.evaluation import evaluate
    from model.retrieval_evaluation import evaluate_retrieval, is_retrieval

    measure = evaluate_retrieval if is_retrieval(arguments.checkpoint) else evaluate
    figures = measure(arguments.checkpoint, arguments.scenes)
    text = json.dumps(figures, indent=1)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


def _card(arguments: argparse.Namespace) -> None:
    from model.model_card import write_card

    print(write_card(arguments.checkpoint, arguments.scenes, arguments.again, arguments.curves))


def _examples(arguments: argparse.Namespace) -> None:
    from model.example_scenes import write_examples

    for path in write_examples():
        print(path)


def _sheets(arguments: argparse.Namespace) -> None:
    from model.artwork_sheets import build_sheets

    for path in build_sheets(arguments.iconify):
        print(path)


def parser() -> argparse.ArgumentParser:
    from model.recipe_options import add_flags

    root = argparse.ArgumentParser(prog="python -m model", description=__doc__.splitlines()[0])
    commands = root.add_subparsers(required=True)
    train = commands.add_parser("train", help="train one stage or all of them; continues where it stopped")
    stages = ("lm", "vit", "features", "stage1", "stage2", "instruct", "all")
    former = {"align": "stage1", "bridge": "stage2"}
    train.add_argument(
        "--stage",
        type=lambda name: former.get(name, name),
        choices=stages,
        default="all",
        help="all: those that do not need one another in parallel",
    )
    train.add_argument("--out", type=Path, default=Path("runs/emoji"))
    train.add_argument(
        "--scale", type=float, default=1.0, help="length of every schedule, 1 is the full recipe"
    )
    train.add_argument("--precision", choices=("auto", "bf16", "fp32"), default="auto")
    train.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves it to torch")
    train.set_defaults(run=_train)
    add_flags(train)
    ablate = commands.add_parser("ablate", help="what each option contributes, at an equal, small budget")
    ablate.add_argument(
        "--source", type=Path, default=Path("runs/emoji"), help="where lm and vit were trained"
    )
    ablate.add_argument("--out", type=Path, default=Path("runs/ablation"))
    ablate.add_argument("--only", nargs="*", help="names of variants; all without it")
    ablate.add_argument(
        "--scale", type=float, default=1.0, help="length of every schedule, 1 is the whole table"
    )
    ablate.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves it to torch")
    ablate.set_defaults(run=_ablate)
    for name, run, help_text in (
        ("evaluate", _evaluate, "figures on fresh scenes"),
        ("card", _card, "measure and write README.md, metrics.json and the out-of-distribution detector"),
    ):
        command = commands.add_parser(name, help=help_text)
        command.add_argument("checkpoint", type=Path)
        command.add_argument("--scenes", type=int, default=500)
        command.set_defaults(run=run)
        if name == "evaluate":
            command.add_argument("--json", type=Path)
        else:
            command.add_argument(
                "--again", action="store_true", help="write it from metrics.json, measure nothing"
            )
            command.add_argument(
                "--curves", type=Path, metavar="RUN", help="show those of a training, from its --out"
            )
    commands.add_parser("examples", help="write assets/examples").set_defaults(run=_examples)
    sheets = commands.add_parser("sheets", help="rebuild assets/emoji/*.png (needs resvg-py)")
    sheets.add_argument("--iconify", type=Path, required=True, help="folder with noto/, twemoji/, ...")
    sheets.set_defaults(run=_sheets)
    return root


if __name__ == "__main__":
    arguments = parser().parse_args()
    arguments.run(arguments)
