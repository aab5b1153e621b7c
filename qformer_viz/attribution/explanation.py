"""The only orchestrator: from a pipeline, an encoded image and its answer to an Attribution."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from qformer_viz import deprecated
from qformer_viz.attention_maps import cls_share, select
from qformer_viz.attribution import METHODS, ExplanationContext
from qformer_viz.attribution.methods.knockout import ends
from qformer_viz.errors import BadSelection
from qformer_viz.types import Attribution, Capture

if TYPE_CHECKING:
    from qformer_viz.runtime.pipeline import Pipeline
    from qformer_viz.types import Answer, EncodedImage

DEFAULT = "knockout"


def explain(
    pipe: Pipeline,
    encoded: EncodedImage,
    answer: Answer,
    method: str | None = None,
    baseline: Tensor | None = None,
    layer: int | str | None = None,
    words: Sequence[int] | None = None,
) -> Attribution:
    """Which queries and patches every word of an answer came from.

    pipe: the pipeline that gave the answer.
    encoded: with the capture of its Q-Former pass in `capture` (`qformer_viz.load(..., observe=qformer_viz.capture)`).
    method: a name of `qformer_viz.METHODS`; None is the one that measured best on the bundled model, query knock-out.
    baseline: [1, q, d] that stands for "no image"; None: the model's mean over reference images.
    layer: number of the cross-attention layer that says where a query looked, or "mean"; None is the last, which
        measured best on the bundled model.
    words: which words, by index; None for all. Gradient methods run one backward pass for each.
    Raises BadSelection for an unknown method, layer or word, or without a capture.
    """
    return attribute(prepare(pipe, encoded, answer, baseline), method, layer, words)


def prepare(
    pipe: Pipeline, encoded: EncodedImage, answer: Answer, baseline: Tensor | None = None
) -> ExplanationContext:
    """What every method works on; keep it to ask for several, for it remembers what they share."""
    # They need transformers, which takes seconds to import; the package itself is light.
    from qformer_viz.attribution.reference_activations import reference_activations
    from qformer_viz.attribution.scorer import make_scorer

    capture = captured(encoded)
    if baseline is None:
        baseline = reference_activations(pipe, encoded.question).queries
    scorer = make_scorer(pipe, encoded, answer)
    baseline = baseline.repeat(1, capture.cross_attention.shape[1], 1)  # for every frame of a film
    return ExplanationContext(
        scorer,
        capture,
        baseline,
        features=lambda: reference_activations(pipe, encoded.question).features,
        reference=lambda: reference_activations(pipe, encoded.question).qformer,
    )


def captured(encoded: EncodedImage) -> Capture:
    """What was recorded of an encoded image; BadSelection where nothing was."""
    if encoded.capture is None:
        raise BadSelection(
            "an image encoded without its attention",
            "a capture in encoded.capture",
            "load the model with observe=qformer_viz.capture",
        )
    return encoded.capture


def attribute(
    context: ExplanationContext,
    method: str | None = None,
    layer: int | str | None = None,
    words: Sequence[int] | None = None,
    on_progress: Callable[[int, int], object] | None = None,
) -> Attribution:
    """`explain` for a context that is kept. on_progress(done, total): called during long work; raise from it to
    stop."""
    chosen = METHODS.get(deprecated.method(method or DEFAULT))
    if chosen is None:
        raise BadSelection(f"method {method!r}", ", ".join(METHODS), "choose one of them, or None")
    capture, count = context.capture, len(context.scorer.words)
    layer = capture.cross_layers[-1] if layer is None else layer
    if layer != "mean" and layer not in capture.cross_layers:
        raise BadSelection(
            f"layer {layer!r}", f'one of {capture.cross_layers}, or "mean"', "choose a cross-attention layer"
        )
    if words is not None and not (len(words) and all(0 <= word < count for word in words)):
        raise BadSelection(
            f"words {list(words)}", f"some of 0..{count - 1}", "choose words of the answer, or None"
        )
    index = None if layer == "mean" else capture.cross_layers.index(layer)
    context = replace(
        context, layer=index, word_indices=words, on_progress=on_progress or context.on_progress
    )
    began = time.perf_counter()
    found = chosen.compute(context)
    scores, note = found if isinstance(found, tuple) else (found, "")
    logprobs, blank = ends(context)[:, context.words]
    return Attribution(
        words=tuple(context.scorer.words[word] for word in context.words),
        scores=scores,
        logprobs=logprobs,
        image_gain=logprobs - blank,
        method=chosen.name,
        layer=layer,
        cls=cls_share(select(capture.cross_attention, index)).flatten(),
        grid=capture.grid,
        frames=context.frames,
        seconds=time.perf_counter() - began,
        note=note,
    )
