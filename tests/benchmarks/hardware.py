"""python -m tests.benchmarks.hardware [ID ...] [--precisions NAME ...] [--device D] [--folder DIR] [--json FILE]

Listed checkpoints at published geometry with random weights, saved as folders and loaded as a user loads them, in every
precision asked for: what the doctor finds, seconds of a caption (image and Q-Former included) and of all query
knock-outs after warming up, their ratio to the answer, and GB of weights and at the peak. Random weights say nothing.
"""

import argparse
import gc
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

import qformer_viz
from qformer_viz.attribution.explanation import attribute, prepare
from qformer_viz.cli import precision
from qformer_viz.cli.arguments import PRECISIONS
from qformer_viz.domains.photographs import Photographs
from qformer_viz.errors import UserError
from qformer_viz.evaluation import doctor
from qformer_viz.runtime.loading import choose_device
from qformer_viz.types import Decoding
from tests.benchmarks.speed import synchronised
from tests.support import published

TOKENS, ROUNDS = 10, 5


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ids", nargs="*", default=["Salesforce/blip2-opt-2.7b"])
    parser.add_argument(
        "--precisions", nargs="+", choices=[*PRECISIONS, "auto"], default=["bfloat16", "8bit", "4bit"]
    )
    parser.add_argument(
        "--free", type=float, nargs="*", metavar="GB", help="leave only so many free, in turn"
    )
    parser.add_argument("--device", help="for example cpu or cuda:0 [chosen by what is there]")
    parser.add_argument("--folder", help="where the weights may be written [the system's temporary folder]")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args(arguments)
    device, named = choose_device(options.device)
    image = qformer_viz.decode(next(Photographs().reference_images())).image
    rows = []
    for name in options.ids:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            published.save(folder, name, device=device)
            emptied(device)
            for kind, free in (
                (kind, free) for kind in options.precisions for free in options.free or [None]
            ):
                ballast = occupied(device, free)
                row = {"checkpoint": name, "precision": kind, "GB left free": free}
                taken = 0 if ballast is None else len(ballast)
                rows.append(row | measured(folder, kind, device, image, taken))
                print(json.dumps(rows[-1]), flush=True)
                del ballast
                emptied(device)
                if options.json:
                    options.json.write_text(json.dumps({"device": named, "rows": rows}, indent=1))
    return rows


def occupied(device, free):
    """What keeps a GPU's memory so full that `free` GB are left, or None."""
    if free is None:
        return None
    taken = torch.cuda.mem_get_info(device)[0] - round(1e9 * free)
    return torch.empty(taken, dtype=torch.uint8, device=device)


def emptied(device):
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def measured(folder, kind, device, image, taken):
    """The row of one precision; taken: bytes of the GPU that are not the model's."""
    pipes = []

    def load():
        asked = {} if kind == "auto" else precision(kind)
        pipe = qformer_viz.load(folder, device=device, observe=qformer_viz.capture, **asked)
        # Random weights may end at once; these write words.
        pipe.model.language_model.generation_config.min_new_tokens = TOKENS
        pipes.append(pipe)
        return pipe

    try:
        report = doctor.examine(load, image)
    except UserError as error:
        return {"refused": str(error)}
    (pipe,) = pipes
    decoding = Decoding(max_new_tokens=TOKENS)

    def seconds(prepare, work):
        times = []
        for _ in range(ROUNDS):
            prepare()
            synchronised(device)
            start = time.perf_counter()
            work()
            synchronised(device)
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    caption = seconds(pipe.forget, lambda: pipe.caption(image, decoding))
    encoded = pipe.encode(image)
    answer = seconds(pipe.forget, lambda: pipe.caption(encoded, decoding))
    said = pipe.caption(encoded, decoding)
    knockouts = seconds(lambda: None, lambda: attribute(prepare(pipe, encoded, said)))
    peak = report.facts["peak memory"]
    if device.type == "cuda":
        peak = f"{(torch.cuda.max_memory_allocated(device) - taken) / 1e9:.2f} GB on the GPU"
    weights = sum(each.numel() * each.element_size() for each in pipe.model.parameters())
    return {
        "checks": {what: (holds, detail) for what, holds, detail in report.checks},
        "loading": report.times["loading"],
        "caption": caption,
        "answer": answer,
        "all knock-outs": knockouts,
        "knock-outs : answer": knockouts / answer,
        "GB of weights": weights / 1e9,
        "peak memory": peak,
        "reason": report.facts["reason"],
    }


if __name__ == "__main__":
    main()
