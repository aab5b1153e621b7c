"""python -m tests.benchmarks.training [--scale S] [--precision P] [--out DIR] [--json FILE]

How long the bundled models' recipe takes on this machine: every stage at a small scale, and from the pace of each the
minutes at full scale. A stage's first steps are left out of its pace where it has enough of them.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from model.emoji import align, bridge, recipe
from model.emoji.loop import Schedule

SCHEDULES = {
    "lm_drill": recipe.language.DRILL,
    "lm_read": recipe.language.READ,
    "lm": recipe.language.TALK,
    "lm_captions": recipe.language.DESCRIBE,
    "vit_crops": recipe.vision.CROP_SCHEDULE,
    "vit_scenes": recipe.vision.SCENE_SCHEDULE,
    "vit_mixed": recipe.vision.MIXED_SCHEDULE,
    "vit_long": recipe.vision.LONG_SCHEDULE,
    "vit_robust": recipe.vision.ROBUST_SCHEDULE,
    "vit_artwork": recipe.vision.ARTWORK_SCHEDULE,
    "align": align.SCHEDULE,
    "align_strange": align.STRANGE,
    "dictation": bridge.DICTATION,
    "bridge": bridge.SCHEDULE,
    "instruct": recipe.instruct.SCHEDULE,
}


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", type=float, default=0.05)
    parser.add_argument("--precision", choices=("auto", "bf16", "fp32"), default="auto")
    parser.add_argument("--stages", nargs="+", choices=recipe.STAGES, default=recipe.STAGES)
    parser.add_argument("--out", type=Path, help="keep the run here [a temporary folder]")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        out, rest = options.out or Path(folder), {}
        for stage in options.stages:
            start, before = time.monotonic(), trained(out)
            recipe.train_stage(stage, out, options.scale, options.precision)
            # Features, gates, saving: what is not a step.
            rest[stage] = (time.monotonic() - start) / 60 - (trained(out) - before)
        rows = [pace(name, schedule, out) for name, schedule in SCHEDULES.items()]
    rows = [row for row in rows if row]
    whole = sum(row["minutes at full scale"] for row in rows)
    report = {
        "device": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "precision": options.precision,
        "scale": options.scale,
        "rows": rows,
        "minutes of steps at full scale": round(whole, 1),
        "minutes of all else at this scale": {stage: round(each, 2) for stage, each in rest.items()},
    }
    for row in rows:
        print(f"{row['name']:<14} {row['ms a step']:>8.1f} ms x {row['steps']:>5}", end="")
        print(f" = {row['minutes at full scale']:>6.1f} min")
    print(json.dumps(report))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))
    return report


def curve(name: str, out: Path) -> list[dict]:
    file = out / f"{name}_curve.json"
    return json.loads(file.read_text()) if file.exists() else []


def trained(out: Path) -> float:
    """Minutes of steps so far."""
    return sum(curve(name, out)[-1]["minutes"] for name in SCHEDULES if curve(name, out))


def pace(name: str, schedule: Schedule, out: Path) -> dict | None:
    points = curve(name, out)
    if not points:
        return None
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
