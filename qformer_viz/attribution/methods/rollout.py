"""Attention rollout (Abnar and Zuidema 2020) through the Q-Former in its true order, the residual kept at one half.

Where the Q-Former also reads text, what went to text is left out and the rows are scaled up.
"""

import torch
from torch import Tensor

from qformer_viz.attention_maps import patches
from qformer_viz.attribution.context import ExplanationContext
from qformer_viz.attribution.method import Method
from qformer_viz.attribution.methods.raw_attention import to_queries


def rollout(own: Tensor, cross: Tensor, cross_layers: tuple[int, ...]) -> Tensor:
    """[q, p] from self-attention [L, q, q] and cross-attention [l, q, p], heads averaged.

    Each layer: R ← Â R with Â = (A + I) / rowsum; on the layers that cross-attend then R ← (R + C) / 2.
    """
    found = torch.zeros_like(cross[0])
    for layer, attention in enumerate(own):
        mixing = attention + torch.eye(len(attention))
        found = mixing / mixing.sum(-1, keepdim=True) @ found
        if layer in cross_layers:
            found = (found + cross[cross_layers.index(layer)]) / 2
    return found


def compute(context: ExplanationContext) -> Tensor:
    capture = context.capture
    own, cross = (each.mean(2).unbind(1) for each in (capture.self_attention, capture.cross_attention))
    looked = torch.cat(
        [patches(rollout(*frame, capture.cross_layers)) for frame in zip(own, cross, strict=True)]
    )
    return to_queries(context)[context.words, :, None] * looked


METHOD = Method(
    "rollout",
    "Attention rollout",
    compute,
    "of the attention",
    shows="Raw attention followed back through all layers, for queries attend to one another as well.",
    hides="It blurs: after some layers the maps of all queries grow alike, whatever they use.",
    order=9,
    layered=False,
)
