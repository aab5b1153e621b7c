"""A model of two words whose explanations are computed by hand."""

import torch

import qformer_viz
from qformer_viz import ExplanationContext


class Planted:
    """A model of two words: each is the sum of some entries of the queries, and a query copies its own patch."""

    words = ("sees", "blind")

    def __init__(self):
        self.queries = torch.tensor([[[2.0], [5.0], [1.0]]])

    def score(self, queries, on_progress=None):
        values = queries[..., 0]
        return torch.stack([3 * values[:, 1] - values[:, 2], torch.zeros(len(values))], 1)

    def shown(self, keep, on_progress=None):
        return self.score(self.queries * keep[:, 0, 1:, None])

    def attention(self, queries=None):
        return torch.tensor([[0.1, 0.3, 0.0], [0.2, 0.2, 0.4]])


def planted_case():
    cross = torch.zeros(1, 1, 1, 3, 4)
    cross[0, 0, 0] = torch.tensor([[0, 1, 0, 0], [0.5, 0, 0.5, 0], [0, 0, 0, 1]])
    capture = qformer_viz.Capture(
        cross,
        torch.eye(3)[None, None, None],
        torch.zeros(2, 1, 3, 1),
        torch.zeros(3, 1),
        (0,),
        (1, 3),
        "sdpa",
    )
    return ExplanationContext(Planted(), capture, torch.tensor([[[0.0], [1.0], [0.0]]]))
