"""Cross-attention as transformers itself returns it: an independent route to what `capture` records."""

from __future__ import annotations

import torch
from torch import Tensor

from qformer_viz.hooks.eager_attention import eager
from qformer_viz.runtime.pipeline import Pipeline
from qformer_viz.types import EncodedImage


def library_attention(pipe: Pipeline, encoded: EncodedImage, frame: int = 0) -> Tensor:
    """Cross-attention of one frame with eager attention; the Q-Former runs again.

    Returns:
        `[l, h, q, p]` probabilities, float32 on the CPU.

    Raises:
        OutOfDeviceMemory: the device has no room for the pass.
    """
    return pipe.run(compute_attention, encoded, frame)


@torch.no_grad()
def compute_attention(pipe: Pipeline, encoded: EncodedImage, frame: int) -> Tensor:
    """`library_attention`, where the model is."""
    encoded, inputs = pipe.with_vision(encoded)
    vision = encoded.vision
    assert vision is not None, "with_vision has run the ViT"

    def look() -> Tensor:
        with eager(pipe.model.qformer):
            looked = pipe.encoder.look(vision, inputs, output_attentions=True)
        count = pipe.model.query_tokens.shape[1]
        return torch.stack([maps[frame, :, :count].float().cpu() for maps in looked.cross_attentions])

    return pipe.turn(look)
