"""The only orchestrator: from a pipeline, an encoded image and its answer to an Attribution."""

import time
from typing import Any

import torch
from torch import Tensor

from .attention import cls_share, select
from .attribution import METHODS, Case
from .errors import BadSelection
from .types import Attribution

DEFAULT = "knockout"


def explain(
    pipe: Any,
    encoded: Any,
    answer: Any,
    method: str | None = None,
    baseline: Tensor | None = None,
    layer: int | str | None = None,
) -> Attribution:
    """Which queries and patches every word of an answer came from.

    pipe: offers `scorer(encoded, answer)` and `mean_queries(question)`, as `model.Pipeline` does.
    encoded: with the capture of its Q-Former pass in `record` (`model.load(..., observe=qformer_viz.capture)`).
    method: a name of `qformer_viz.METHODS`; None is the one that measured best on the bundled model, query knock-out.
    baseline: [1, q, d] that stands for "no image"; None: the model's mean over reference images.
    layer: number of the cross-attention layer that says where a query looked, or "mean"; None is the last, which
        measured best on the bundled model.
    Raises BadSelection for an unknown method or layer, or without a capture.
    """
    chosen = METHODS.get(method or DEFAULT)
    if chosen is None:
        raise BadSelection(f"method {method!r}", ", ".join(METHODS), "choose one of them, or None")
    if encoded.record is None:
        raise BadSelection(
            "an image encoded without its attention",
            "a capture in encoded.record",
            "load the model with observe=qformer_viz.capture",
        )
    capture = encoded.record.result
    layer = capture.cross_layers[-1] if layer is None else layer
    if layer != "mean" and layer not in capture.cross_layers:
        raise BadSelection(
            f"layer {layer!r}", f'one of {capture.cross_layers}, or "mean"', "choose a cross-attention layer"
        )
    index = None if layer == "mean" else capture.cross_layers.index(layer)
    if baseline is None:
        baseline = pipe.mean_queries(encoded.question)
    began = time.perf_counter()
    scorer = pipe.scorer(encoded, answer)
    scores = chosen.compute(Case(scorer, capture, baseline, index))
    logprobs, blank = scorer.score(torch.cat([scorer.queries, baseline.to(scorer.queries)]))
    return Attribution(
        words=scorer.words,
        scores=scores,
        logprobs=logprobs,
        gains=logprobs - blank,
        method=chosen.name,
        layer=layer,
        cls=cls_share(select(capture.cross_attention, index))[0],
        grid=capture.grid,
        seconds=time.perf_counter() - began,
    )
