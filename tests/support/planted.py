"""Captures planted by hand: attention whose bright patches, CLS shares and orders are known in advance."""

from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from qformer_viz.types import Capture
from tests.support.fakes_ui import fake_capture


def capture_of(cross, grid) -> Capture:
    """A capture around cross-attention `[l, h, q, p]`, with unremarkable everything else."""
    cross = torch.as_tensor(np.asarray(cross), dtype=torch.float32)[:, None]
    layers, _, heads, queries, _ = cross.shape
    every = 2 * layers
    return Capture(
        cross_attention=cross,
        self_attention=torch.full((every, 1, heads, queries, queries), 1 / queries),
        query_states=torch.zeros(every + 1, 1, queries, 8),
        query_tokens=torch.zeros(queries, 8),
        cross_layers=tuple(range(0, every, 2)),
        grid=grid,
        attn_implementation="eager",
    )


def blobs(layers=3, heads=4, queries=32, grid=(16, 16), seed=0) -> Capture:
    """Each query favours the patch `home(q)`; CLS takes more the higher the query."""
    rows, columns = grid
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:rows, :columns]
    logits = rng.normal(0, 0.3, (layers, heads, queries, rows * columns + 1))
    for q in range(queries):
        r, c = divmod(home(q, grid), columns)
        logits[:, :, q, 1:] += 4 * np.exp(-((x - c) ** 2 + (y - r) ** 2) / (2 * (1 + q / 16) ** 2)).ravel()
    logits[..., 0] += 6 * np.arange(queries) / queries
    weights = np.exp(logits)
    return capture_of(weights / weights.sum(-1, keepdims=True), grid)


def home(query: int, grid=(16, 16)) -> int:
    """The patch that `blobs` gives to a query."""
    return (query * 37 + 5) % (grid[0] * grid[1])


def picture(width=320, height=200) -> Image.Image:
    """A picture of any shape: red falls from left to right, green rises from top to bottom."""
    x, y = np.linspace(255, 0, width), np.linspace(0, 255, height)
    pixels = np.stack(np.broadcast_arrays(x[None], y[:, None], 90.0), -1)
    return Image.fromarray(pixels.astype(np.uint8))


def looking_at(places):
    """A capture whose query k looks at the one patch places[k], in every layer and head."""
    capture = fake_capture(1)
    cross = torch.zeros_like(capture.cross_attention)
    for query, place in enumerate(places):
        cross[..., query, 1 + place] = 1
    return replace(capture, cross_attention=cross)
