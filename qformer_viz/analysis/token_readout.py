"""Which tokens the language model's output layer reads off single queries."""

from qformer_viz.attribution.context import ExplanationContext


def logit_lens(
    context: ExplanationContext, count: int = 5, baseline_corrected: bool = True
) -> list[list[tuple[str, float]]]:
    """The tokens that the language model's output layer reads off every query: the logit lens (nostalgebraist 2020).

    It is known to mislead: a projected query is an input and need not lie near the vector of any word, so these tokens
    are not what the model reads.

    Args:
        context: of the answer.
        count: tokens for each query.
        baseline_corrected: whether the mean query over other images is subtracted first.

    Returns:
        For each query, (token, share of the softmax), the likeliest first.
    """
    queries = context.scorer.queries
    return context.scorer.likeliest_tokens(
        queries - context.baseline.to(queries) if baseline_corrected else queries, count
    )
