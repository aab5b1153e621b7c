"""Per-query figures of one image, for every cross-attention layer and for the mean over layers."""

from dataclasses import dataclass

import torch
from torch import Tensor

from qformer_viz import attention_maps
from qformer_viz.types import Capture


@dataclass(frozen=True, eq=False)
class QueryStatistics:
    """Rows are the cross-attention layers in order and, last, the map averaged over layers; r = l + 1.

    The last row describes the averaged map; it is not the average of the rows above.

    rows: names of the rows, for instance ("0", "2", "4", "mean").
    entropy: [r, q] nats of the patch part. effective_patches: [r, q] its exponential, in 1..N.
    focus: [r, q] 1 - entropy / log N. cls_share: [r, q] share of the whole map that lies on CLS.
    centre: [r, q, 2] (x, y) in fractions of the image.
    """

    rows: tuple[str, ...]
    entropy: Tensor
    effective_patches: Tensor
    focus: Tensor
    cls_share: Tensor
    centre: Tensor


def query_statistics(capture: Capture, image: int = 0, head: int | None = None) -> QueryStatistics:
    """Describe every query of one image. head: index of one head, or None for the mean over heads."""
    cross = capture.image(image).cross_attention
    layers = [*range(len(capture.cross_layers)), None]
    maps = torch.stack([attention_maps.select(cross, layer, head)[0] for layer in layers])
    P = attention_maps.patches(maps)
    return QueryStatistics(
        rows=(*map(str, capture.cross_layers), "mean"),
        entropy=attention_maps.entropy(P),
        effective_patches=attention_maps.effective_patches(P),
        focus=attention_maps.focus(P),
        cls_share=attention_maps.cls_share(maps),
        centre=attention_maps.centre_of_mass(P, capture.grid),
    )
