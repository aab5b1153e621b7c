"""python -m tests.benchmarks.speed [--published] [--rounds N] [--tokens N] [--checkpoint NAME] [--json FILE]

What capturing and the caches cost or save, measured in one run against the library's own `generate` on the
same weights. Compared calls alternate, after warming up until times settle; each ratio is the median over
rounds of the two times of one round, by the clock and, for a machine that others use too, by processor time.
Both sides start from the same picture or embeddings, end with text, and write the same number of tokens.

--published builds BLIP-2 OPT-2.7B's geometry with random bf16 weights (7.5 GB) and takes several minutes without a GPU.
"""

import argparse
import json
import resource
import statistics
import sys
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import qformer_viz
from qformer_viz.runtime.checkpoints import Checkpoint
from qformer_viz.runtime.device_memory import weight_bytes
from qformer_viz.runtime.loading import choose_device
from qformer_viz.runtime.pipeline import Pipeline
from qformer_viz.types import Decoding
from qformer_viz.view.archive import TENSORS
from qformer_viz.view.stage_payload import canvas_payload
from tests.support import published as shapes

TURNS = ("what is in the picture?", "how many are there?", "where is it?")


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--published", action="store_true", help="published geometry, random weights, bf16")
    parser.add_argument("--checkpoint", default="blip2-emoji")
    parser.add_argument("--device", help="for example cpu or cuda:0 [chosen by what is there]")
    parser.add_argument("--rounds", type=int, help="default 40, with --published 5")
    parser.add_argument("--tokens", type=int, default=10)
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="TEXT", help="comparisons with this in the name"
    )
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args(arguments)
    rounds = options.rounds or (5 if options.published else 40)
    device, named = choose_device(options.device)
    pipe = (
        published(device)
        if options.published
        else qformer_viz.load(options.checkpoint, device=device, observe=qformer_viz.capture)
    )
    # Both sides write the same number of tokens.
    pipe.model.language_model.generation_config.min_new_tokens = options.tokens
    wanted = (
        row for row in comparisons(pipe, options.tokens) if any(each in row[0] for each in options.only)
    )
    rows = [measure(pipe.device, *comparison, rounds) for comparison in wanted]
    added, held = memory_of_capture(pipe)
    report = {
        "pipeline": pipe.describe(),
        "device": named if device.type == "cuda" else str(device),
        "threads": torch.get_num_threads(),
        "tokens": options.tokens,
        "rounds": rounds,
        "memory_added_by_capture_mb": round(added / 2**20, 1),
        "memory_held_by_capture_mb": round(held / 2**20, 1),
        "where_time_goes": where_time_goes(pipe, options.tokens),
        "int8_weights_to_fp16": round(int8_to_fp16(), 3),
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "rows": rows,
    }
    width = max(len(row["name"]) for row in rows) + 2
    print(f"\n{'':<{width}}{'ours s':>9}{'other s':>9}{'ratio':>8}{'cpu':>8}{'limit':>8}")
    for row in rows:
        limit = f"{row['limit']:.2f}" if row["limit"] else ""
        figures = f"{row['ours']:>9.4f}{row['other']:>9.4f}{row['ratio']:>8.3f}{row['cpu_ratio']:>8.3f}"
        print(f"{row['name']:<{width}}{figures}{limit:>8}")
    print(
        f"memory added by capture and canvas payload: {report['memory_added_by_capture_mb']} MB at its peak",
        end="",
    )
    print(f", {report['memory_held_by_capture_mb']} MB held afterwards")
    whole = sum(seconds for _, seconds in report["where_time_goes"])
    for name, seconds in report["where_time_goes"]:
        print(f"  of a caption's {whole:.2f} s: {seconds / whole:6.1%} {name}")
    print(
        f"int8 weights of OPT-2.7B's geometry : fp16 = {report['int8_weights_to_fp16']}, the Q-Former in float"
    )
    print(f"peak memory {report['peak_memory_gb']} GB")
    print(json.dumps(report))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))
    return report


def comparisons(pipe, tokens):
    """(name, limit, ours, other): each side is a pair (prepare, timed call)."""
    decoding = Decoding(max_new_tokens=tokens)
    noise = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    generator, language = pipe._generator, pipe.model.language_model

    def stock(**options):
        inputs = pipe.processor(images=picture, text=pipe.checkpoint.caption_prompt, return_tensors="pt")
        inputs["pixel_values"] = inputs["pixel_values"].to(pipe.dtype)
        out = pipe.model.generate(**inputs.to(pipe.device), max_new_tokens=tokens, do_sample=False, **options)
        return pipe.processor.batch_decode(getattr(out, "sequences", out), skip_special_tokens=True)

    yield (
        "caption with full capture : stock generate",
        1.05,
        (pipe.forget, lambda: pipe.caption(picture, decoding)),
        (lambda: None, stock),
    )

    yield (
        "caption with full capture : stock generate with eager attention everywhere and output_attentions",
        None,
        (pipe.forget, lambda: pipe.caption(picture, decoding)),
        (lambda: None, lambda: with_all_attention(pipe, stock)),
    )

    encoded = pipe.encode(picture)
    prompt = pipe._prompts.question(TURNS[1], (), tokens)
    ids = torch.tensor([prompt.ids], device=pipe.device)
    inputs = {
        "inputs_embeds": generator.embed(ids, encoded.queries),
        "attention_mask": torch.ones_like(ids),
        **({"input_ids": ids} if generator.decoder_only else {}),
    }

    def language_alone():
        out = pipe.model.language_model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
        return pipe.processor.tokenizer.decode(out[0], skip_special_tokens=True)

    def asked_before(reuse):
        def prepare():
            generator.reuse = reuse and generator.decoder_only
            generator.forget()
            pipe._answers.clear()
            pipe.ask(encoded, TURNS[0], (), decoding)

        return prepare

    def second():
        return pipe.ask(encoded, TURNS[1], (), decoding)

    alone = (lambda: None, language_alone)
    name = "second question, {} key-value reuse : language model alone"
    yield name.format("with"), 1.05, (asked_before(True), second), alone
    yield name.format("without"), 1.05, (asked_before(False), second), alone

    history = []

    def two_turns(reuse):
        def prepare():
            asked_before(reuse)()
            history[:] = [(TURNS[0], pipe.ask(encoded, TURNS[0], (), decoding).text)]
            history.append((TURNS[1], pipe.ask(encoded, TURNS[1], history, decoding).text))

        return prepare

    def third(decoding=decoding):
        return pipe.ask(encoded, TURNS[2], history, decoding)

    yield (
        "third turn with key-value reuse : without",
        None,
        (two_turns(True), third),
        (two_turns(False), third),
    )

    def transcript(decoding=decoding):
        spoken = pipe._prompts.question(TURNS[2], history, tokens)
        inputs = pipe.processor.image_processor(picture, return_tensors="pt")
        ids = torch.tensor([spoken.ids], device=pipe.device)
        out = pipe.model.generate(
            pixel_values=inputs["pixel_values"].to(pipe.device, pipe.dtype),
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=decoding.max_new_tokens,
            do_sample=False,
        )
        return pipe.processor.batch_decode(out, skip_special_tokens=True)

    # Both sides write an answer of the same length, which is all that they have in common.
    for length in dict.fromkeys((1, 3, tokens, 2 * tokens)):

        def of_length(call, length=length):
            def timed():
                language.generation_config.min_new_tokens = length
                try:
                    return call(replace(decoding, max_new_tokens=length))
                finally:
                    language.generation_config.min_new_tokens = tokens

            return timed

        yield (
            f"third turn of a conversation, {length} tokens : stock generate on the whole transcript",
            0.5,
            (two_turns(True), of_length(third)),
            (two_turns(True), of_length(transcript)),
        )

    pictures = [Image.fromarray(np.roll(noise, shift, 1)) for shift in (16, 48, 80, 112)]

    def together():
        with ThreadPoolExecutor(len(pictures)) as pool:
            return list(pool.map(lambda each: pipe.caption(each, decoding), pictures))

    def one_after_another():
        # From a thread of a server's, too: a script's main thread runs its model itself
        # (qformer_viz.runtime.device_queue).
        with ThreadPoolExecutor(1) as pool:
            return list(pool.map(lambda each: pipe.caption(each, decoding), pictures))

    yield (
        "four users at once : one after another",
        1.05,
        (pipe.forget, together),
        (pipe.forget, one_after_another),
    )


def with_all_attention(pipe, stock):
    """What tools do that show attention maps: every part eager, every map of every layer kept."""
    parts = [pipe.model.vision_model, pipe.model.qformer, pipe.model.language_model]
    before = [part.config._attn_implementation for part in parts]
    try:
        for part in parts:
            part.set_attn_implementation("eager")
        return stock(output_attentions=True, return_dict_in_generate=True)
    finally:
        for part, implementation in zip(parts, before, strict=True):
            part.set_attn_implementation(implementation)


def memory_of_capture(pipe):
    """Most bytes that looking at a picture takes beyond the same without a capture, and what is held afterwards.

    Exact, not the process's size: every allocation of torch in main memory as its profiler lists them and on a GPU as
    its allocator counts them, and of Python and numpy as tracemalloc does.
    """
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8))
    observe, most = pipe.encoder.observe, {}
    try:
        for on in (True, False):
            pipe.encoder.observe = observe if on else None

            def look(on=on):
                pipe.forget()
                encoded = pipe.encode(picture)
                return encoded, canvas_payload(encoded.capture, picture) if on else None

            # In the lane: the profiler sees the thread that it was started in.
            kept, most[on] = pipe._queue.run(partial(allocated, look, pipe.device))
            if on:
                capture = kept[0].capture
                held = sum(getattr(capture, name).nbytes for name in TENSORS) + len(json.dumps(kept[1]))
    finally:
        pipe.encoder.observe = observe
    return most[True] - most[False], held


def allocated(work, device):
    """(what the second call of work() returns, the most bytes that it holds at once)."""
    work()
    on_gpu, before = device.type == "cuda", 0
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    tracemalloc.start()
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True, acc_events=True) as profile:
        kept = work()
    python = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    memory = [each for each in profile.profiler.kineto_results.events() if each.name() == "[memory]"]
    here = [each for each in memory if each.device_type() == torch.autograd.DeviceType.CPU]
    steps = sorted((event.start_ns(), event.nbytes()) for event in here)
    lent = torch.cuda.max_memory_allocated(device) - before if on_gpu else 0
    return kept, max(accumulate(size for _, size in steps)) + python + lent


def where_time_goes(pipe, tokens):
    """Seconds of one caption by part: [(part, seconds)], measured by hooks around the library's own modules."""
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (224, 224, 3), dtype=np.uint8))
    spent, begun, handles = {}, {}, []

    def now():
        synchronised(pipe.device)
        return time.perf_counter()

    def timed(name, module):
        handles.append(module.register_forward_pre_hook(lambda *_: begun.update({name: now()})))

        def done(_module, _args, _output):
            spent.setdefault(name, []).append(now() - begun[name])

        handles.append(module.register_forward_hook(done))

    for name, module in (
        ("ViT", pipe.model.vision_model),
        ("Q-Former", pipe.model.qformer),
        ("language", pipe.model.language_model),
    ):
        timed(name, module)
    pipe.forget()
    try:
        start = time.perf_counter()
        pipe.caption(picture, Decoding(max_new_tokens=tokens))
        whole = time.perf_counter() - start
    finally:
        for handle in handles:
            handle.remove()
    steps = spent.pop("language")
    rows = [(name, sum(each)) for name, each in spent.items()]
    rows += [
        ("prompt through the language model", steps[0]),
        (f"{len(steps) - 1} further steps", sum(steps[1:])),
    ]
    rest = whole - sum(seconds for _, seconds in rows)
    return [*rows, ("all else: preparing, capture, choosing tokens", rest)]


def measure(device, name, limit, ours, other, rounds):
    """Median seconds of both sides and the median of their per-round ratios."""
    clocked = partial(clock, device)
    settled(lambda: clocked(*ours)[0] + clocked(*other)[0])
    pairs = []
    for turn in range(rounds):
        # The order changes too, so that neither side always runs on the other's caches.
        if turn % 2:
            second, first = clocked(*other), clocked(*ours)
        else:
            first, second = clocked(*ours), clocked(*other)
        pairs.append((first, second))
    row = {
        "name": name,
        "limit": limit,
        "ours": statistics.median(first[0] for first, _ in pairs),
        "other": statistics.median(second[0] for _, second in pairs),
        "ratio": statistics.median(first[0] / second[0] for first, second in pairs),
        "cpu_ratio": statistics.median(first[1] / second[1] for first, second in pairs),
    }
    print(f"{name}: {row['ratio']:.3f}", file=sys.stderr)
    return row


def clock(device, prepare, call):
    """Seconds by the clock and of this process's processor time."""
    prepare()
    synchronised(device)
    start, busy = time.perf_counter(), time.process_time()
    call()
    synchronised(device)
    return time.perf_counter() - start, time.process_time() - busy


def settled(run, within=0.15, most=12):
    """Repeat until three times in a row agree: the first passes over fresh weights are many times slower."""
    last = []
    for _ in range(most):
        last = [*last[-2:], run()]
        if len(last) == 3 and max(last) <= (1 + within) * min(last):
            return


def int8_to_fp16():
    """Bytes of BLIP-2 OPT-2.7B's weights in int8 over those in fp16, counted without allocating."""
    model_class, config = shapes.config("Salesforce/blip2-opt-2.7b")
    half, eight = (weight_bytes(model_class, config, torch.float16, kind) for kind in (None, "8bit"))
    return eight / half


def published(device):
    """BLIP-2 OPT-2.7B's geometry; nothing is held in fp32, so the peak stays near the weights' 7.5 GB."""
    hf_model, processor = shapes.build("Salesforce/blip2-opt-2.7b", device=device)
    assert not list(hf_model.named_buffers()), "buffers left uninitialised"
    billions = sum(weight.numel() for weight in hf_model.parameters()) / 1e9
    reason = f"device {device}, bfloat16 (published geometry, {billions:.2f} billion random weights)"
    print(reason, file=sys.stderr)
    checkpoint = Checkpoint(id="published-geometry", title="random weights", family="blip2")
    return Pipeline(checkpoint, hf_model, processor, reason=reason, observe=qformer_viz.capture)


def synchronised(device):
    """Wait until a GPU has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
