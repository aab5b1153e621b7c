"""Tiny random models with real transformers classes, and captures made from them or planted by hand.

Widths are tiny; the interface is the published one in miniature: CLS first, cross-attention in every second
layer. Every model is in eval mode and the same for the same seed.
"""

import torch
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipQFormerConfig,
    InstructBlipVideoConfig,
    InstructBlipVideoForConditionalGeneration,
    InstructBlipVideoQFormerConfig,
    InstructBlipVideoVisionConfig,
    InstructBlipVisionConfig,
    OPTConfig,
    T5Config,
)

from qformer_viz import Capture

# Widths are multiples of 64: bitsandbytes' NF4 takes nothing else on the CPU.
IMAGE, PATCH, QUERIES, HEADS, LAYERS, WIDTH, VISION = 56, 14, 8, 4, 4, 64, 64
TOKENS = (IMAGE // PATCH) ** 2 + 1
VOCABULARY, IMAGE_TOKEN = 60, 59


def tiny_blip2(language="opt", *, seed=0, image=IMAGE, queries=QUERIES, attention="sdpa"):
    """Blip2ForConditionalGeneration on OPT or T5."""
    config = Blip2Config(
        vision_config=_vision(Blip2VisionConfig, image),
        qformer_config=_qformer(Blip2QFormerConfig),
        text_config=_text(language),
        num_query_tokens=queries,
        image_token_index=IMAGE_TOKEN,
    )
    return _build(Blip2ForConditionalGeneration, config, seed, attention)


def tiny_instructblip(*, seed=0, attention="sdpa"):
    config = InstructBlipConfig(
        vision_config=_vision(InstructBlipVisionConfig, IMAGE),
        qformer_config=_qformer(InstructBlipQFormerConfig, vocab_size=VOCABULARY),
        text_config=_text("opt"),
        num_query_tokens=QUERIES,
        image_token_index=IMAGE_TOKEN,
    )
    return _build(InstructBlipForConditionalGeneration, config, seed, attention)


def tiny_instructblip_video(*, seed=0, attention="sdpa"):
    config = InstructBlipVideoConfig(
        vision_config=_vision(InstructBlipVideoVisionConfig, IMAGE),
        qformer_config=_qformer(InstructBlipVideoQFormerConfig, vocab_size=VOCABULARY),
        text_config=_text("opt"),
        num_query_tokens=QUERIES,
        video_token_index=IMAGE_TOKEN,
    )
    return _build(InstructBlipVideoForConditionalGeneration, config, seed, attention)


def tiny_retrieval(*, seed=0, attention="sdpa"):
    config = Blip2Config(
        vision_config=_vision(Blip2VisionConfig, IMAGE),
        qformer_config=_qformer(Blip2QFormerConfig, vocab_size=VOCABULARY, use_qformer_text_input=True),
        text_config=_text("opt"),
        num_query_tokens=QUERIES,
        image_text_hidden_size=16,
    )
    return _build(Blip2ForImageTextRetrieval, config, seed, attention)


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


def _vision(kind, image):
    return kind(
        hidden_size=VISION,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=image,
        patch_size=PATCH,
        initializer_range=0.2,
    )


def _qformer(kind, **extra):
    return kind(
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        cross_attention_frequency=2,
        encoder_hidden_size=VISION,
        max_position_embeddings=32,
        initializer_range=0.12,
        **extra,
    )


def _text(language):
    if language == "t5":
        return T5Config(
            vocab_size=VOCABULARY,
            d_model=64,
            d_kv=32,
            d_ff=64,
            num_layers=2,
            num_heads=2,
            decoder_start_token_id=0,
        )
    return OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        word_embed_proj_dim=64,
        ffn_dim=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        init_std=0.2,
    )


def _build(kind, config, seed, attention):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind._from_config(config, attn_implementation={"qformer_config": attention}).eval()
        # transformers starts the queries at zero; trained ones are not.
        torch.nn.init.normal_(model.query_tokens, std=0.5)
    return model
