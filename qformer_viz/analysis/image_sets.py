"""Queries over several images: which of them follow the picture, and which look at a place whatever is shown."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qformer_viz.analysis import query_similarity
from qformer_viz.attention_maps import patches, select
from qformer_viz.errors import BadShape
from qformer_viz.types import Capture


@dataclass(frozen=True, eq=False)
class ImageSetStatistics:
    """Rows are the cross-attention layers in order and, last, the map averaged over layers, as in `QueryStatistics`;
    maps are averaged over heads. b images.

    rows: names of the rows, for instance ("0", "2", "4", "mean"). images: b.
    content_dependence: [r, q] `similarity.content_dependence` as a share of log b, the most there can be: 0 for a
    query that looks
        at the same patches in every image, 1 where no two images share a patch.
    reference: 99th percentile of the centred cosines between last states of queries of different images
        (`similarity.redundancy_reference`): two queries of one image that are more alike than this say the same.
    collapse: `similarity.collapse` over all images, last states and last row.
    """

    rows: tuple[str, ...]
    images: int
    content_dependence: Tensor
    reference: float
    collapse: query_similarity.Collapse


def image_set_statistics(captures: Sequence[Capture]) -> ImageSetStatistics:
    """Compare every query with itself over images that one model has looked at; two captures at least.

    A capture may hold several images. Few images leave little room to differ: compare figures over equally many.
    """
    shapes = {(c.cross_attention.shape[0], *c.cross_attention.shape[2:]) for c in captures}
    images = sum(c.cross_attention.shape[1] for c in captures)
    if len(shapes) != 1 or images < 2:
        raise BadShape(
            f"{images} images of {len(shapes)} shapes",
            "two images or more of one model",
            "pass their captures",
        )
    cross = torch.cat([c.cross_attention for c in captures], 1)
    maps = patches(torch.stack([select(cross, layer) for layer in (*range(len(cross)), None)]))
    states = torch.cat([c.query_states[-1] for c in captures])
    return ImageSetStatistics(
        rows=(*map(str, captures[0].cross_layers), "mean"),
        images=images,
        content_dependence=torch.stack([query_similarity.content_dependence(row) for row in maps])
        / math.log(images),
        reference=query_similarity.redundancy_reference(states),
        collapse=query_similarity.collapse(states, maps[-1]),
    )
