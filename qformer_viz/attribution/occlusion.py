"""Patch occlusion: what a word loses when the Q-Former cannot attend to a patch. The ViT does not run again."""

import torch
from torch import Tensor

from .case import Case


def compute(case: Case) -> Tensor:
    """[t, 1, N]. CLS stays; the queries of every occluded pass go through the language model in bounded batches."""
    tokens = case.capture.cross_attention.shape[-1]
    keep = ~torch.eye(tokens, dtype=torch.bool)
    keep[0] = True  # in place of an occluded CLS: the whole image, to compare with
    scores = case.scorer.score(case.scorer.requery(keep))
    return (scores[:1] - scores[1:]).T[:, None]
