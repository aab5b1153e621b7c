"""Tiny random models with real transformers classes, and captures made from them or planted by hand.

Widths are tiny; the interface is the published one in miniature: CLS first, cross-attention in every second
layer.
"""

import torch

from qformer_viz import Capture
from tests.support import tiny_models

IMAGE, PATCH, QUERIES, HEADS, LAYERS, WIDTH, VISION = 56, 14, 8, 4, 4, 64, 64
TOKENS = (IMAGE // PATCH) ** 2 + 1
VOCABULARY, IMAGE_TOKEN = 60, 59


def tiny_blip2(language="opt", *, seed=0, image=IMAGE, queries=QUERIES, attention="sdpa"):
    """Blip2ForConditionalGeneration on OPT or T5."""
    return _build(
        "blip2", language, seed, attention, image=image, queries=queries, image_token_index=IMAGE_TOKEN
    )


def tiny_instructblip(*, seed=0, attention="sdpa"):
    reads = {"vocab_size": VOCABULARY}
    return _build("instructblip", "opt", seed, attention, reads, image_token_index=IMAGE_TOKEN)


def tiny_instructblip_video(*, seed=0, attention="sdpa"):
    reads = {"vocab_size": VOCABULARY}
    return _build("instructblipvideo", "opt", seed, attention, reads, video_token_index=IMAGE_TOKEN)


def tiny_retrieval(*, seed=0, attention="sdpa"):
    reads = {"vocab_size": VOCABULARY, "use_qformer_text_input": True}
    return _build("retrieval", "opt", seed, attention, reads, image_text_hidden_size=16)


def pixels(images=1, *, seed=0, image=IMAGE):
    return torch.randn(images, 3, image, image, generator=torch.Generator().manual_seed(seed))


def prompt(images=1, *, length=3):
    """input_ids with one placeholder per query in front, as a Blip2Processor makes them."""
    text = torch.arange(5, 5 + length).expand(images, -1)
    return torch.cat([torch.full((images, QUERIES), IMAGE_TOKEN), text], dim=1)


def generate_inputs(model, images=1, *, seed=0):
    """Keyword arguments for `model.generate`, greedy and short; InstructBLIP gets a padded question."""
    dtype = next(model.vision_model.parameters()).dtype
    ids = prompt(images)
    inputs = {
        "pixel_values": pixels(images, seed=seed).to(dtype),
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "max_new_tokens": 3,
        "do_sample": False,
    }
    if "instruct" in type(model).__name__.lower():
        inputs["qformer_input_ids"] = torch.arange(6, 11).expand(images, -1)
        inputs["qformer_attention_mask"] = torch.tensor([[1, 1, 1, 0, 0]]).expand(images, -1)
    return inputs


def tiny_capture(images=1, *, layers=3, heads=4, queries=8, grid=(4, 4), width=16, seed=0):
    """A Capture of random numbers of the right shapes and sums, without any model."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    every = 2 * layers
    return Capture(
        cross_attention=(2 * normal(layers, images, heads, queries, grid[0] * grid[1] + 1)).softmax(-1),
        self_attention=normal(every, images, heads, queries, queries).softmax(-1),
        query_states=normal(every + 1, images, queries, width),
        query_tokens=normal(queries, width),
        cross_layers=tuple(range(0, every, 2)),
        grid=grid,
        attn_implementation="sdpa",
    )


def _build(family, language, seed, attention, reads=(), *, image=IMAGE, queries=QUERIES, **options):
    """reads: what the Q-Former's configuration has besides, where it reads text."""
    text = {
        "opt": {"ffn_dim": 64, "max_position_embeddings": 64},
        "t5": {"d_ff": 64},
    }
    config = tiny_models.config(
        family,
        vision_config=tiny_models.vision(image_size=image, intermediate_size=64),
        qformer_config=tiny_models.qformer(
            intermediate_size=64, max_position_embeddings=32, initializer_range=0.12, **dict(reads)
        ),
        text_config=tiny_models.text(language, vocab_size=VOCABULARY, **text[language]),
        num_query_tokens=queries,
        **options,
    )
    return tiny_models.build(family, config, seed=seed, attn_implementation={"qformer_config": attention})
