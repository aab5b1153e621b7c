"""Whether a map changes when weights are replaced by noise, layer by layer (Adebayo et al. 2018)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from qformer_viz.attribution.explanation import explain
from qformer_viz.evaluation.benchmark import Truth
from qformer_viz.evaluation.faithfulness import spearman

if TYPE_CHECKING:
    from qformer_viz.runtime.pipeline import Pipeline


def sanity(pipe: Pipeline, truths: Sequence[Truth]) -> dict[str, list[float]]:
    """Whether the map depends on what was learned (Adebayo et al. 2018): {what has been re-initialised so far: Spearman
    correlation of the default map with the original, one figure for each word with a map}.

    From the projection down through the Q-Former's layers, each step on top of the last. The answers stay the original
    ones. The model is destroyed: load another afterwards.
    """
    cases = []
    for truth in truths:
        encoded = pipe.encode(truth.image)
        answer = pipe.caption(encoded)
        if answer.token_ids:
            found = explain(pipe, encoded, answer)
            cases.append((truth.image, encoded.question, answer, found))
    rows: dict[str, list[float]] = {}
    torch.manual_seed(0)
    for title, module in _downwards(pipe.model):
        _reinitialise(module)
        pipe.forget()
        for image, question, answer, before in cases:
            after = explain(pipe, pipe.encode(image, question), answer)
            for word in before.visual.nonzero()[:, 0].tolist():
                rows.setdefault(title, []).append(spearman(before.patches[word], after.patches[word]))
    return rows


def _downwards(model: Any) -> Iterator[tuple[str, Any]]:
    yield "projection", model.language_projection
    layers = model.qformer.encoder.layer
    for number in reversed(range(len(layers))):
        yield f"… and Q-Former layer {number}", layers[number]


def _reinitialise(module: Any) -> None:
    """Weights drawn anew with the spread that they had, biases nought, norms one."""
    for name, parameter in module.named_parameters():
        with torch.no_grad():
            if parameter.dim() > 1:
                parameter.normal_(0, parameter.float().std().item())
            else:
                parameter.fill_(1.0 if "LayerNorm.weight" in name else 0.0)
