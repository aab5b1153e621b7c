"""The geometry of the published checkpoints, as their configurations give it; no weights. From the papers and the
libraries' documentation: nothing could be downloaded where this was written."""

import transformers

from model.checkpoints import CHECKPOINTS

_OPT = {"2.7b": (2560, 32, 32, 10240), "6.7b": (4096, 32, 32, 16384)}
_T5 = {"xl": (2048, 24, 32, 5120), "xxl": (4096, 24, 64, 10240)}
_VICUNA = {"7b": (4096, 32, 32, 11008), "13b": (5120, 40, 40, 13824)}


def names():
    """The listed hub ids."""
    return [name for name, entry in CHECKPOINTS.items() if entry.folder is None]


def config(name):
    """(model class, configuration) of a listed checkpoint."""
    family = CHECKPOINTS[name].family
    if family == "retrieval":
        found = transformers.Blip2Config(image_text_hidden_size=256, num_query_tokens=32)
        found.qformer_config.use_qformer_text_input = True
        return transformers.Blip2ForImageTextRetrieval, found
    kinds = {
        "blip2": (transformers.Blip2ForConditionalGeneration, transformers.Blip2Config),
        "instructblip": (transformers.InstructBlipForConditionalGeneration, transformers.InstructBlipConfig),
    }
    model_class, config_class = kinds[family]
    text = _text(name)
    return model_class, config_class(text_config=text.to_dict(), num_query_tokens=32)


def _text(name):
    size = name.rsplit("-", 2)[-2 if name.endswith("-coco") else -1]
    if "opt" in name:
        hidden, layers, heads, inner = _OPT[size]
        return transformers.OPTConfig(
            vocab_size=50304,
            hidden_size=hidden,
            word_embed_proj_dim=hidden,
            ffn_dim=inner,
            num_hidden_layers=layers,
            num_attention_heads=heads,
        )
    if "t5" in name:
        hidden, layers, heads, inner = _T5[size]
        return transformers.T5Config(
            vocab_size=32128,
            d_model=hidden,
            d_kv=64,
            d_ff=inner,
            num_layers=layers,
            num_heads=heads,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
        )
    hidden, layers, heads, inner = _VICUNA[size]
    return transformers.LlamaConfig(
        vocab_size=32001,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
    )
