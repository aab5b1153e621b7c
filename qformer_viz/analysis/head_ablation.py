"""Ablation inside the Q-Former: attention heads, and the messages between queries in self-attention."""

from dataclasses import dataclass

import torch
from torch import Tensor

from qformer_viz.attribution.context import ExplanationContext


@dataclass(frozen=True, eq=False)
class HeadAblation:
    """Loss of every word's log-probability when heads are replaced by their mean over other images, in nats, signed.

    cross [t, l, h], own [t, L, h]              each head of cross- and self-attention alone
    cross_layers [t, l], own_layers [t, L]      all heads of a layer together
    """

    cross: Tensor
    own: Tensor
    cross_layers: Tensor
    own_layers: Tensor


def ablate_heads(context: ExplanationContext) -> HeadAblation:
    """Mean ablation of every head of the Q-Former, and of all heads of each layer together.

    The output of a head, before the output projection, is replaced for every query by its mean over other images (Wang
    et al. 2022, arXiv 2211.00593). If two heads do the same, ablating one changes little.

    Args:
        context: of the answer; `context.on_progress` is called after every batch.

    Returns:
        The losses, computed once for the context.

    Raises:
        IncompleteContext: the context has no `reference`.
    """

    def compute() -> HeadAblation:
        layers, _, count = context.capture.cross_attention.shape[:3]
        every = len(context.capture.self_attention)
        single = torch.eye((layers + every) * count, dtype=torch.bool).unflatten(1, (-1, count))
        whole = torch.eye(layers + every, dtype=torch.bool)[..., None].expand(-1, -1, count)
        rows = torch.cat([torch.zeros(1, layers + every, count, dtype=torch.bool), single, whole])
        cross, own = rows.split([layers, every], 1)
        scores = context.scorer.ablate_heads(own, cross, context.reference(), on_progress=context.on_progress)
        alone, together = _lost(scores).split([(layers + every) * count, layers + every], 1)
        alone = alone.unflatten(1, (-1, count))
        return HeadAblation(alone[:, :layers], alone[:, layers:], together[:, :layers], together[:, layers:])

    return context.cached("heads", compute)


@dataclass(frozen=True, eq=False)
class MessageAblation:
    """Loss of every word's log-probability in nats, signed, when in all self-attention layers of the Q-Former

    queries [t, q]   keys and values of one query are replaced by their mean over other images. The language model
                     still gets the query itself
    apart   [t]      every query gets the replaced keys and values of all others
    text    [t, s]   one token of the text that the Q-Former reads is masked; s is 0 where it reads none
    """

    queries: Tensor
    apart: Tensor
    text: Tensor


def ablate_query_messages(context: ExplanationContext) -> MessageAblation:
    """Mean ablation of the messages of each query to the others, and of the text's to the queries.

    Keys and values of a query are replaced by their means over other images. They are not masked, as in attention
    knock-out (Geva et al. 2023, arXiv 2304.14767): where one query gets most of the attention, a mask sends it
    elsewhere, and the loss no longer measures the message. A token of text is masked as padding is.

    Args:
        context: of the answer; `context.on_progress` is called after every batch.

    Returns:
        The losses, computed once for the context.

    Raises:
        IncompleteContext: the context has no `reference`.
    """

    def compute() -> MessageAblation:
        count, text = context.capture.query_tokens.shape[0], context.capture.text_attention
        reference = context.reference()
        scores = context.scorer.ablate_query_messages(
            _none_and_each(count), reference, on_progress=context.on_progress
        )
        apart = scores[0] - context.scorer.isolate_queries(reference)[0]
        read = scores[:1]
        if text is not None:
            read = context.scorer.mask_text(~_none_and_each(text.shape[-1]), on_progress=context.on_progress)
        return MessageAblation(_lost(scores), apart, _lost(read))

    return context.cached("talk", compute)


def _none_and_each(count: int) -> Tensor:
    """[1 + count, count] bool: none of them, then each alone."""
    return torch.cat([torch.zeros(1, count, dtype=torch.bool), torch.eye(count, dtype=torch.bool)])


def _lost(scores: Tensor) -> Tensor:
    """[t, n] from scores [1 + n, t], the first of which are as it was."""
    return (scores[:1] - scores[1:]).T


def shares(own: Tensor, text: Tensor | None = None) -> tuple[float, float, float]:
    """(itself, other queries, text): where self-attention [q, q], and that to text [q, s], goes; means over the queries
    that add up to one."""
    itself, whole = own.diagonal().mean().item(), own.sum(-1).mean().item()
    return itself, whole - itself, 0.0 if text is None else text.sum(-1).mean().item()
