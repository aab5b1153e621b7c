"""Mean activations over reference images: what stands in for a query, a head or a patch that is ablated."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from qformer_viz.hooks.interventions import QFormerActivations, record_activations
from qformer_viz.media.image_decoder import decode
from qformer_viz.runtime.pipeline import Pipeline
from qformer_viz.types import EncodedImage

AT_ONCE = 8
"""Reference images that the Q-Former sees at once."""


class ReferenceActivations(NamedTuple):
    """Means over the reference images of a model's domain.

    features [1, p, d]  ViT outputs
    queries  [1, q, d]  projected queries, at the language model's width
    qformer             inside the Q-Former
    """

    features: Tensor
    queries: Tensor
    qformer: QFormerActivations


def reference_activations(pipe: Pipeline, question: str | None = None) -> ReferenceActivations:
    """The reference activations of a model, computed once and kept until `Pipeline.forget`.

    Args:
        pipe: the model.
        question: what an InstructBLIP's Q-Former reads meanwhile, as in `EncodedImage.question`.

    Raises:
        OutOfDeviceMemory: the device has no room for the pass.
    """
    key = ("reference activations", question)
    return pipe.remember(key, lambda: pipe.run(compute_reference, question))


@torch.no_grad()
def compute_reference(pipe: Pipeline, question: str | None) -> ReferenceActivations:
    """`reference_activations` anew, where the model is."""
    inputs = None if question is None else pipe.instruction_inputs(question)

    def look(part: Tensor) -> list[Tensor]:
        with record_activations(pipe.model.qformer) as found:
            queries = pipe.encoder.queries(part, inputs)
        return [queries, *(torch.stack(found[name], 1).float().sum(0) for name in QFormerActivations._fields)]

    features = _features(pipe, keep=inputs is not None)
    looked = [pipe.turn(partial(look, part)) for part in features.split(AT_ONCE)]
    queries, *inside = zip(*looked, strict=True)
    means = QFormerActivations(*(sum(each) / len(features) for each in inside))
    return ReferenceActivations(
        features.mean(0, keepdim=True), torch.cat(queries).mean(0, keepdim=True), means
    )


def _features(pipe: Pipeline, keep: bool) -> Tensor:
    """ViT outputs [n, p, d] of the reference images; keep: for other questions, which will want them again."""

    def compute() -> Tensor:
        images = map(decode, pipe.checkpoint.domain.reference_images())
        return torch.cat([pipe.turn(partial(pipe.encoder.features, image)) for image in images])

    return pipe.remember("reference features", compute) if keep else compute()


def activations_for_patching(pipe: Pipeline, encoded: EncodedImage) -> QFormerActivations:
    """Activations inside the Q-Former on one image (a video's first frame), to patch into the pass of another.

    The Q-Former runs again.

    Raises:
        OutOfDeviceMemory: the device has no room for the pass.
    """
    return pipe.run(compute_activations, encoded)


@torch.no_grad()
def compute_activations(pipe: Pipeline, encoded: EncodedImage) -> QFormerActivations:
    """`activations_for_patching`, where the model is."""
    encoded, inputs = pipe.with_vision(encoded)
    vision = encoded.vision
    assert vision is not None, "with_vision has run the ViT"

    def look() -> QFormerActivations:
        with record_activations(pipe.model.qformer) as found:
            pipe.encoder.look(vision[:1], inputs)
        return QFormerActivations(*(torch.cat(found[name]) for name in QFormerActivations._fields))

    return pipe.turn(look)
