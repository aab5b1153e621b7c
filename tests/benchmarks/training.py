"""python -m tests.benchmarks.training [--scale S] [--least N] [--one-by-one] [--precision P] [--out DIR]
                                    [--json FILE]

How long the bundled models' recipe takes on this machine: all of it at a small scale, as `python -m model train`
runs it, and from the pace of every stage the minutes at full scale. The first 50 steps are left out of a pace where
there are more: on a GPU they wait for its kernels and for the processes that draw, whose first batches the next 48 find
drawn, so that N should be 150 there.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from model import parallel_stages, recipe
from model.recipe_options import DEFAULT
from model.training_loop import Schedule


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", type=float, default=0.05)
    parser.add_argument("--least", type=int, default=2, metavar="N", help="no schedule has fewer steps")
    parser.add_argument("--one-by-one", action="store_true", help="no stage beside another")
    parser.add_argument("--precision", choices=("auto", "bf16", "fp32"), default="auto")
    parser.add_argument("--out", type=Path, help="keep the run here [a temporary folder]")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args(arguments)
    threads, order, rest = torch.get_num_threads(), [], {}
    with tempfile.TemporaryDirectory() as folder:
        out = options.out or Path(folder)
        for group in parallel_stages.stage_groups(DEFAULT, 1 if options.one_by_one else threads, 1):
            began = time.monotonic()
            parallel_stages.train_group(
                group, threads, out, options.scale, options.precision, DEFAULT, options.least
            )
            spent = (time.monotonic() - began) / 60
            # Features, gates, loading, saving: what is not a step.
            rest[" beside ".join(group)] = spent - max(trained(stage, out) for stage in group)
            order.append(group)
        paces = {
            stage: [pace(name, schedule, out) for name, schedule in schedules.items()]
            for stage, schedules in recipe.SCHEDULES.items()
        }
    steps = {stage: sum(row["minutes at full scale"] for row in rows) for stage, rows in paces.items()}
    report = {
        "device": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu",
        "threads": threads,
        "precision": options.precision,
        "scale": options.scale,
        "least": options.least,
        "rows": [row for rows in paces.values() for row in rows],
        "minutes of steps at full scale": round(
            sum(max(steps[stage] for stage in group) for group in order), 1
        ),
        "minutes of all else at this scale": {name: round(each, 2) for name, each in rest.items()},
    }
    for row in report["rows"]:
        print(f"{row['name']:<14} {row['ms a step']:>8.1f} ms x {row['steps']:>5}", end="")
        print(f" = {row['minutes at full scale']:>6.1f} min")
    print(json.dumps(report))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))
    return report


def curve(name: str, out: Path) -> list[dict]:
    return json.loads((out / f"{name}_curve.json").read_text())


def trained(stage: str, out: Path) -> float:
    """Minutes of a stage's steps."""
    return sum(curve(name, out)[-1]["minutes"] for name in recipe.SCHEDULES[stage])


def pace(name: str, schedule: Schedule, out: Path) -> dict:
    points = curve(name, out)
    first = points[0] if len(points) > 1 else {"step": 0, "minutes": 0.0}
    each = (points[-1]["minutes"] - first["minutes"]) / (points[-1]["step"] - first["step"])
    return {
        "name": name,
        "ms a step": round(6e4 * each, 2),
        "steps": schedule.steps,
        "minutes at full scale": round(each * schedule.steps, 2),
    }


if __name__ == "__main__":
    main()
