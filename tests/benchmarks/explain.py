"""python -m tests.benchmarks.explain [--published] [--rounds N] [--tokens N] [--inside] [--json FILE]

What explaining an answer costs: all query knock-outs with and without reuse of the positions before the replaced query,
one scoring, the answer itself (written anew for the same image), and the arithmetic limit: (tokens read × 2 × weights
of the language model's blocks + tokens scored × 2 × weights of its head) over the rate of matrix products measured in
the same run. In one run, alternating; medians.

--published builds BLIP-2 OPT-2.7B's geometry with random bf16 weights (7.5 GB) and takes several minutes.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import qformer_viz
from qformer_viz import METHODS
from qformer_viz.analysis.head_ablation import ablate_heads, ablate_query_messages
from qformer_viz.attribution import scorer
from qformer_viz.attribution.explanation import attribute, prepare
from qformer_viz.attribution.methods.knockout import replaced
from qformer_viz.attribution.reference_activations import reference_activations
from qformer_viz.attribution.scorer import make_scorer
from qformer_viz.runtime.loading import choose_device
from qformer_viz.types import Decoding
from tests.benchmarks.speed import published, synchronised


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--published", action="store_true", help="published geometry, random weights, bf16")
    parser.add_argument("--rounds", type=int, help="default 10, with --published 3")
    parser.add_argument("--tokens", type=int, default=10)
    parser.add_argument("--device", help="for example cpu or cuda:0 [chosen by what is there]")
    parser.add_argument(
        "--methods", nargs="*", default=[], choices=list(METHODS), help="time these too, for one word"
    )
    parser.add_argument(
        "--inside", action="store_true", help="time heads silenced and queries hushed as well"
    )
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args(arguments)
    rounds = options.rounds or (3 if options.published else 10)
    device, named = choose_device(options.device)
    pipe = (
        published(device)
        if options.published
        else qformer_viz.load("blip2-emoji", device=device, observe=qformer_viz.capture)
    )
    pipe.model.language_model.generation_config.min_new_tokens = options.tokens
    noise = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    encoded = pipe.encode(Image.fromarray(noise))
    answer = pipe.caption(encoded, Decoding(max_new_tokens=options.tokens))
    baseline = pipe.encode(Image.new("RGB", (224, 224), (90, 120, 60))).queries
    scorer = make_scorer(pipe, encoded, answer)
    queries = torch.cat([encoded.queries, replaced(encoded.queries, baseline)])
    rate, tokens, wanted = matrix_rate(pipe), [], []
    decoding = Decoding(max_new_tokens=options.tokens)

    def answer_anew():
        pipe.forget()
        return pipe.caption(encoded, decoding)

    sides = {
        "the answer itself": answer_anew,
        "one scoring": lambda: scorer.score(encoded.queries),
        "all knock-outs, positions reused": lambda: scored(scorer, queries, True),
        "all knock-outs, nothing reused": lambda: scored(scorer, queries, False),
    }
    times = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            synchronised(device)
            if turn:  # the first pass over fresh weights is many times slower
                times[name].append(time.perf_counter() - start)
    seconds = {name: statistics.median(each) for name, each in times.items()}
    count_tokens(pipe, lambda: scorer.score(queries), tokens, wanted)
    blocks, head = weights(pipe)
    limit = (sum(tokens) * 2 * blocks + sum(wanted) * 2 * head) / rate
    reused, plain = (seconds[f"all knock-outs, {how}"] for how in ("positions reused", "nothing reused"))
    chosen = reused if scorer.reuse else plain
    report = {
        "pipeline": pipe.describe(),
        "device": named if device.type == "cuda" else str(device),
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "answer tokens": len(answer.token_ids),
        "seconds": seconds,
        "tokens read": sum(tokens),
        "GFLOP/s of matrix products": rate / 1e9,
        "arithmetic limit, s": limit,
        "reuse is chosen": scorer.reuse,
        "with reuse : without": reused / plain,
        "knock-outs : arithmetic limit": chosen / limit,
        "knock-outs : one scoring": chosen / seconds["one scoring"],
        "knock-outs : the answer itself": chosen / seconds["the answer itself"],
    }
    if options.methods:
        reference_activations(pipe, encoded.question)
        case = prepare(pipe, encoded, answer)
        report["methods"] = {name: attribute(case, name, words=[0]).seconds for name in options.methods}
    if options.inside:
        reference_activations(pipe, encoded.question)
        case = prepare(pipe, encoded, answer)
        report["inside, s"] = {
            work.__name__: clocked(work, case) for work in (ablate_heads, ablate_query_messages)
        }
    print(json.dumps(report, indent=1))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))
    return report


def clocked(work, case):
    start = time.perf_counter()
    work(case)
    return time.perf_counter() - start


def scored(scorer, queries, reuse):
    before, scorer.reuse = scorer.reuse, reuse
    try:
        return scorer.score(queries)
    finally:
        scorer.reuse = before


def count_tokens(pipe, run, tokens, wanted):
    """Positions that the language model's blocks read, and those that its head scores."""
    language = pipe.model.language_model
    handles = [
        language.get_decoder()
        .layers[0]
        .register_forward_pre_hook(
            lambda _, args, options: tokens.append(
                (args or (options["hidden_states"],))[0].shape[:2].numel()
            ),
            with_kwargs=True,
        ),
        language.get_output_embeddings().register_forward_pre_hook(
            lambda _, args: wanted.append(args[0].shape[:2].numel())
        ),
    ]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()


def weights(pipe):
    """Numbers in the language model's blocks, and in its head."""
    language = pipe.model.language_model
    blocks = sum(weight.numel() for weight in language.get_decoder().layers.parameters() if weight.dim() == 2)
    return blocks, language.get_output_embeddings().weight.numel()


def matrix_rate(pipe, rounds=5):
    """FLOP/s of the language model's own greatest product, for as many rows as a batch of knock-outs has."""
    language = pipe.model.language_model
    matrices = [w for w in language.get_decoder().layers[0].parameters() if w.dim() == 2]
    weight = max(matrices, key=lambda w: w.numel())
    rows = torch.randn(scorer.REUSE_STEP * 43, weight.shape[1]).to(weight)
    best = 0.0
    for _ in range(rounds + 2):
        synchronised(weight.device)
        start = time.perf_counter()
        for _ in range(8):
            torch.nn.functional.linear(rows, weight)
        synchronised(weight.device)
        best = max(best, 8 * 2 * rows.shape[0] * weight.numel() / (time.perf_counter() - start))
    print(f"matrix products: {best / 1e9:.0f} GFLOP/s", file=sys.stderr)
    return best


if __name__ == "__main__":
    main()
