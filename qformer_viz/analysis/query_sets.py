"""Queries together: pairs, Shapley values, the few that keep an answer. Over a `ExplanationContext`."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qformer_viz.attribution.context import ExplanationContext
from qformer_viz.attribution.methods.knockout import effects, replaced

PERMUTATIONS, SEED = 16, 0


def ablation_loss(context: ExplanationContext, away: Tensor) -> Tensor:
    """Loss of every word's log-probability when sets of queries are replaced by their mean over other images.

    Args:
        context: of the answer.
        away: bool [n, q], the queries of each set.

    Returns:
        [n, t] in nats.
    """
    queries = context.scorer.queries
    whole = torch.zeros(1, away.shape[1], dtype=torch.bool)
    scores = context.scorer.score(replaced(queries, context.baseline, torch.cat([whole, away])))
    return scores[:1] - scores[1:]


def pairwise_interactions(context: ExplanationContext, queries: Sequence[int]) -> Tensor:
    """Interactions of pairs of queries: I_ij = D_ij − D_i − D_j, where D is the `ablation_loss` of a set.

    Positive: either query can replace the other, so that losing both costs more than the two single losses. Negative:
    both single losses count the same information.

    Args:
        context: of the answer.
        queries: the k queries to pair, by number.

    Returns:
        [t, k, k] in nats; 0 on the diagonal.
    """
    count = context.scorer.queries.shape[1]
    single = effects(context)[:, list(queries)]
    at = torch.tensor([(i, j) for i in range(len(queries)) for j in range(i)]).reshape(-1, 2)
    found = torch.zeros(len(single), len(queries), len(queries))
    if len(at):
        chosen = torch.tensor(list(queries))[at]
        away = torch.zeros(len(at), count, dtype=torch.bool).scatter_(1, chosen, True)
        both = ablation_loss(context, away).T - single[:, at[:, 0]] - single[:, at[:, 1]]
        found[:, at[:, 0], at[:, 1]] = found[:, at[:, 1], at[:, 0]] = both
    return found


@dataclass(frozen=True, eq=False)
class ShapleyValues:
    """values [t, q] in nats, adding up to each word's visual gain; error [t, q], one standard error of the sample."""

    values: Tensor
    error: Tensor
    permutations: int


def shapley_values(
    context: ExplanationContext, permutations: int = PERMUTATIONS, seed: int = SEED
) -> ShapleyValues:
    """Sampled Shapley values of the queries (Castro et al. 2009): what a query adds when it joins those before it in a
    random order, every order beside its reverse. `context.on_progress` is called after
    every order."""
    queries = context.scorer.queries
    count, rng = queries.shape[1], torch.Generator().manual_seed(seed)
    samples = []
    for done in range(0, permutations, 2):
        order = torch.randperm(count, generator=rng)
        for each in (order, order.flip(0)):
            rank = each.argsort()
            away = rank >= torch.arange(count + 1)[:, None]  # row k: only the first k queries are there
            scores = context.scorer.score(replaced(queries, context.baseline, away))
            samples.append((scores[1:] - scores[:-1])[rank].T)
        context.on_progress(min(done + 2, permutations), permutations)
    found = torch.stack(samples)
    # An order and its reverse are one draw: together they are less noisy than two.
    draws = found.unflatten(0, (-1, 2)).mean(1)
    error = draws.std(0) / len(draws) ** 0.5 if len(draws) > 1 else torch.full_like(draws[0], torch.nan)
    return ShapleyValues(draws.mean(0), error, 2 * len(draws))


def minimal_sufficient_set(context: ExplanationContext, order: Sequence[int] | None = None) -> list[int]:
    """Few queries with which alone the model says the same answer, word for word, in ascending order.

    Takes the first of `order` (None: by the greatest knock-out effect on any word) that are enough, then drops every
    one that is not needed. No set inside it keeps the answer, but a smaller one elsewhere may.
    """
    queries = context.scorer.queries
    count = queries.shape[1]
    if order is None:
        order = effects(context).abs().amax(0).argsort(descending=True, stable=True).tolist()
    rank = torch.tensor(list(order)).argsort()
    away = rank >= torch.arange(count + 1)[:, None]
    enough = context.scorer.repeats(replaced(queries, context.baseline, away)).tolist()
    kept = list(order)[: enough.index(True)] if True in enough else list(order)
    # From the least on; once is enough, for a query that was needed stays so among fewer.
    for query in reversed(list(kept)):
        away = torch.ones(1, count, dtype=torch.bool)
        away[0, [each for each in kept if each != query]] = False
        if context.scorer.repeats(replaced(queries, context.baseline, away)).item():
            kept.remove(query)
    return sorted(kept)
