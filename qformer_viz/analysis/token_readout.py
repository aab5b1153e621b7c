"""Which tokens the language model's output layer reads off single queries."""

from qformer_viz.attribution.context import ExplanationContext


def logit_lens(
    context: ExplanationContext, count: int = 5, baseline_corrected: bool = True
) -> list[list[tuple[str, float]]]:
    """For every query the tokens that the language model's own output layer reads off it, with their share.

    The logit lens (nostalgebraist 2020) on the projected queries, by default less what they are for any image. It is
    known to mislead: a query is an input and never had to lie near a word; what it spells is not what the model reads.
    """
    queries = context.scorer.queries
    return context.scorer.likeliest_tokens(
        queries - context.baseline.to(queries) if baseline_corrected else queries, count
    )
