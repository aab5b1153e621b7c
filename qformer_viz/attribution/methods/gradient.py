"""Gradient × attention (Chefer et al. 2021, "Generic attention-model explainability") through the Q-Former, times the
first-order effect of each query on the word: ∂y_t/∂z_q · (z_q − its mean over other images), signed.

One backward pass for every word asked for; gradients never pile up from word to word.
"""

import torch
from torch import Tensor

from qformer_viz.attention_maps import patches
from qformer_viz.attribution.context import ExplanationContext
from qformer_viz.attribution.method import Method


def relevance(
    own: Tensor, own_gradient: Tensor, cross: Tensor, cross_gradient: Tensor, cross_layers: tuple[int, ...]
) -> Tensor:
    """[q, p] from self-attention [L, h, s, s] (queries first, then text) and cross-attention [l, h, q, p].

    Ā = mean_h max(∇A ⊙ A, 0). Self-attention: R_ss += Ā R_ss and R_si += Ā R_si; cross-attention: R_si += R̄ᵀ Ā,
    with R̄ = (R_ss − I) / rowsum + I.
    """
    count, tokens = cross.shape[-2:]
    size = own.shape[-1]
    unit = torch.eye(size)
    mixed, seen = unit.clone(), torch.zeros(size, tokens)
    for layer in range(len(own)):
        weight = (own_gradient[layer] * own[layer]).clamp_min(0).mean(0)
        mixed, seen = mixed + weight @ mixed, seen + weight @ seen
        if layer in cross_layers:
            index = cross_layers.index(layer)
            weight = torch.zeros(size, tokens)
            weight[:count] = (cross_gradient[index] * cross[index]).clamp_min(0).mean(0)
            rest = mixed - unit
            total = rest.sum(-1, keepdim=True)
            normal = torch.where(total > 0, rest / total.clamp_min(torch.finfo(total.dtype).tiny), 0) + unit
            seen = seen + normal.T @ weight
    return seen[:count]


def compute(context: ExplanationContext) -> Tensor:
    moved = (context.scorer.queries - context.baseline.to(context.scorer.queries))[0].float().cpu()
    rows = []
    for done, word in enumerate(context.words):
        found = context.scorer.attention_gradients(word)
        own, own_gradient, cross, cross_gradient = (each.unbind(1) for each in found.attention)
        frames = zip(own, own_gradient, cross, cross_gradient, strict=True)
        seen = torch.cat([relevance(*frame, context.capture.cross_layers) for frame in frames])
        rows.append((found.queries * moved).sum(-1, keepdim=True) * patches(seen))
        context.on_progress(done + 1, len(context.words))
    return torch.stack(rows)


METHOD = Method(
    "gradient",
    "Gradient × attention",
    compute,
    "nats, to first order",
    shows="How the word's log-probability changes with each query, and with the attention to each patch, by its "
    "gradient.",
    hides="A gradient holds for small changes: where the word is certain it is flat, whatever the query carries.",
    order=2,
    layered=False,
    slow=True,
    single=True,
)
