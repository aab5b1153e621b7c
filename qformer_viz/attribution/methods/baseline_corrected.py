"""Baseline-corrected attention: raw attention minus that to the mean queries of reference images."""

from torch import Tensor

from qformer_viz.attribution.context import ExplanationContext
from qformer_viz.attribution.method import Method
from qformer_viz.attribution.methods.raw_attention import to_queries


def compute(context: ExplanationContext) -> Tensor:
    """[t, q, N], signed. A sink, which every image has, is taken out."""
    reference = context.cached(
        "usual attention", lambda: context.scorer.attention(context.baseline.to(context.scorer.queries))
    )
    return (to_queries(context) - reference / reference.sum(-1, keepdim=True))[
        context.words, :, None
    ] * context.query_attention()


METHOD = Method(
    "baseline_corrected",
    "Baseline-corrected attention",
    compute,
    "of the attention",
    shows="Raw attention minus the attention that the same word pays when every query is its average over "
    "other images.",
    hides="Attention is still not use; only what every image gets is removed.",
    order=7,
)
