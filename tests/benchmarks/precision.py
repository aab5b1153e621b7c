"""python -m tests.benchmarks.precision [--images N] [--json FILE]

What int8 and NF4 change at published geometry (BLIP-2 OPT-2.7B, random weights) against float32: maps, captions and
log-probabilities. Writes the weights to a temporary folder (7.5 GB), holds 23 GB in memory, takes 5 minutes; --device
cuda:0 does the same on a GPU. Random weights say nothing of real ones; what is measured is the arithmetic of the
quantised layers at their real size.
"""

import argparse
import gc
import json
import tempfile
from itertools import islice
from pathlib import Path

import qformer_viz
from qformer_viz.analysis import precision_comparison
from qformer_viz.domains.photographs import Photographs
from tests.support import published as shapes

WORDS = 8


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    images = [
        qformer_viz.decode(each).image for each in islice(Photographs().reference_images(), options.images)
    ]
    report = {}
    with tempfile.TemporaryDirectory() as folder:
        shapes.save(folder, "Salesforce/blip2-opt-2.7b")
        gc.collect()
        plain = load(folder, options.device, quantization=None, dtype="float32")
        for kind in ("8bit", "4bit"):
            other = load(folder, options.device, quantization=kind, dtype="bfloat16")
            found = precision_comparison.compare_precisions(plain, other, images)
            print(
                f"\n{kind} against float32, {other.reason}\n\n{precision_comparison.table(found)}", flush=True
            )
            report[kind] = {"divergence": found.divergence.mean().item(), "peaks": found.peaks.mean().item()}
            report[kind] |= {"captions": found.captions, "nats": found.nats.abs().mean().item()}
            del other
            gc.collect()
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))
    return report


def load(folder, device, **options):
    """Random weights may end at once; these write words to compare."""
    pipe = qformer_viz.load(folder, device=device, observe=qformer_viz.capture, **options)
    pipe.model.language_model.generation_config.min_new_tokens = WORDS
    return pipe


if __name__ == "__main__":
    main()
