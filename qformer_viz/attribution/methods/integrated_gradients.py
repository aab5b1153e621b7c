"""Integrated gradients (Sundararajan et al. 2017) from the mean ViT outputs of other images to those of this one.

The shares of all image tokens, CLS among them, add up to what the image brought the word; by how much they do not is
said in the note.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from qformer_viz.attribution.context import ExplanationContext
from qformer_viz.attribution.method import Method

POINTS = 24


def integrated(
    slopes: Callable[[Tensor], tuple[Tensor, Tensor]], start: Tensor, end: Tensor, points: int = POINTS
) -> tuple[Tensor, float]:
    """([f, p] share of every token, completeness error) along the straight line from start to end, both [f, p, d].

    slopes(vision [n, f, p, d]) -> (y [n], gradient [n, f, p, d]). Gauss-Legendre quadrature; error in the unit of y.
    """
    where, weight = (torch.tensor(each, dtype=end.dtype) for each in np.polynomial.legendre.leggauss(points))
    along = torch.cat([(where + 1) / 2, where.new_tensor([0.0, 1.0])])[:, None, None, None].to(end.device)
    y, gradients = slopes(start + along * (end - start))
    mean = (weight[:, None, None, None] / 2 * gradients[:points]).sum(0)
    shares = (mean * (end - start).cpu()).sum(-1)
    return shares, (shares.sum() - (y[-1] - y[-2])).item()


def compute(context: ExplanationContext) -> tuple[Tensor, str]:
    vision = context.scorer.encoded.vision
    assert vision is not None, "a scorer has run the ViT"
    end = vision.float()
    start = context.features().float().expand_as(end)
    rows, errors, words = [], [], context.words
    for done, word in enumerate(words):
        shares, error = integrated(partial(context.scorer.feature_gradients, word), start, end)
        rows.append(shares)
        errors.append(abs(error))
        context.on_progress(done + 1, len(words))
    shares = torch.stack(rows)
    note = (
        f"Completeness: the shares miss what the image brought by at most {max(errors):.2g} nats ({POINTS} points). "
        f"On CLS, in no map: at most {shares[..., 0].abs().max():.2g} nats."
    )
    return shares[..., 1:], note


METHOD = Method(
    "integrated",
    "Integrated gradients",
    compute,
    "nats",
    shows="What each patch adds on the way from the average image to this one. All shares add up to the whole.",
    hides="The images on that way are none that the model was made for, and their noise adds up too.",
    order=3,
    layered=False,
    slow=True,
    single=True,
)
