"""Tiny configurations and random weights of the libraries' own classes: what every other fake is built from.

The interface is the published one in miniature. A model is in eval mode, and the same for the same seed.
"""

import torch
import transformers

CLASSES = {
    "blip2": (transformers.Blip2Config, transformers.Blip2ForConditionalGeneration),
    "instructblip": (transformers.InstructBlipConfig, transformers.InstructBlipForConditionalGeneration),
    "instructblipvideo": (
        transformers.InstructBlipVideoConfig,
        transformers.InstructBlipVideoForConditionalGeneration,
    ),
    "retrieval": (transformers.Blip2Config, transformers.Blip2ForImageTextRetrieval),
}
"""Configuration and model of every family."""


def vision(**changes):
    """Of the image encoder: two by two patches unless the side is another."""
    # Widths are multiples of 64: bitsandbytes takes nothing else on the CPU.
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
        "initializer_range": 0.2,
    }
    return sizes | changes


def qformer(**changes):
    """Cross-attention in every second layer."""
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "cross_attention_frequency": 2,
        "encoder_hidden_size": 64,
        "initializer_range": 0.2,
    }
    return sizes | changes


def text(language, **changes):
    """Of the language model: opt, t5, llama, qwen, mamba or jamba."""
    heads = {"num_hidden_layers": 2, "num_attention_heads": 2}
    kinds = {
        "opt": (
            transformers.OPTConfig,
            heads
            | {
                "hidden_size": 64,
                "word_embed_proj_dim": 64,
                "ffn_dim": 128,
                "max_position_embeddings": 256,
                "init_std": 0.2,
            },
        ),
        "t5": (
            transformers.T5Config,
            {
                "d_model": 64,
                "d_kv": 32,
                "d_ff": 128,
                "num_layers": 2,
                "num_heads": 2,
                "decoder_start_token_id": 0,
            },
        ),
        "llama": (
            transformers.LlamaConfig,
            heads
            | {
                "hidden_size": 64,
                "intermediate_size": 128,
                "max_position_embeddings": 256,
                "initializer_range": 0.2,
            },
        ),
        "qwen": (
            transformers.Qwen3Config,
            heads
            | {
                "hidden_size": 64,
                "intermediate_size": 128,
                "num_key_value_heads": 1,
                "head_dim": 32,
                "max_position_embeddings": 512,
                "initializer_range": 0.2,
                "tie_word_embeddings": True,
            },
        ),
        "mamba": (
            transformers.MambaConfig,
            {"hidden_size": 64, "num_hidden_layers": 2, "initializer_range": 0.2},
        ),
        "jamba": (  # a layer of attention among layers of a state space
            transformers.JambaConfig,
            {
                "hidden_size": 64,
                "intermediate_size": 64,
                "num_hidden_layers": 4,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "attn_layer_period": 4,
                "attn_layer_offset": 1,
                "num_experts": 2,
                "expert_layer_period": 2,
                "mamba_d_state": 4,
                "mamba_dt_rank": 4,
                "initializer_range": 0.2,
            },
        ),
    }
    config_class, sizes = kinds[language]
    return config_class(**sizes | changes)


def config(family, *, vision_config, qformer_config, text_config, **options):
    """The configuration of a whole model from those of its parts."""
    config_class, _ = CLASSES[family]
    parts = {"vision_config": vision_config, "qformer_config": qformer_config}
    return config_class(**parts, text_config=text_config.to_dict(), **options)


def build(family, configuration, *, seed=0, **options):
    """A model with random weights. options: of the library's `_from_config`."""
    _, model_class = CLASSES[family]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = model_class._from_config(configuration, **options).eval()
        # transformers starts the queries at zero; trained ones are not.
        torch.nn.init.normal_(model.query_tokens, std=0.5)
    return model
