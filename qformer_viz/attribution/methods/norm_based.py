"""Norm-based attention: ‖Σ_h A[h,q,p] v_p^h W_O^h‖ in place of A (Kobayashi et al. 2020, "Attention is not only a
weight"). Attention to a token of tiny value counts for nothing."""

import torch
from torch import Tensor

from qformer_viz.attention_maps import patches
from qformer_viz.attribution.context import ExplanationContext
from qformer_viz.attribution.method import Method
from qformer_viz.attribution.methods.raw_attention import to_queries


def norms(cross: Tensor, values: Tensor) -> Tensor:
    """[..., q, p] of attention [..., h, q, p] and values [..., h, p, D] that went through the output projection."""
    return torch.einsum("...hqp,...hpd->...qpd", cross, values).norm(dim=-1)


def compute(context: ExplanationContext) -> Tensor:
    layers = range(len(context.capture.cross_layers)) if context.layer is None else [context.layer]
    looked = [patches(norms(context.capture.cross_attention[i], context.scorer.values(i))) for i in layers]
    return to_queries(context)[context.words, :, None] * torch.stack(looked).mean(0).flatten(0, 1)


METHOD = Method(
    "norm_based",
    "Norm-based attention",
    compute,
    "of the attention",
    shows="Raw attention in which a patch counts by the length of the vector it hands over, not by its weight alone.",
    hides="Long vectors may cancel one another, or carry nothing that matters to the word.",
    order=8,
)
