"""The geometry of the published checkpoints, as their configurations give it; no weights, or random ones. From the
papers and the libraries' documentation: nothing could be downloaded where this was written."""

import torch
import transformers

from qformer_viz.runtime.checkpoints import CHECKPOINTS
from tests.support import checkpoint_factory as factory

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


def build(name, *, device="cpu", dtype=torch.bfloat16):
    """(model, processor) of a listed checkpoint that chats, at its geometry, with random weights.

    The values repeat after a million, which times like independent ones and fills gigabytes in seconds; nothing is
    held in single precision. A Llama or an InstructBLIP has to be saved and loaded: its buffers are not made here.
    """
    model_class, found = config(name)
    language = found.text_config.model_type
    inner, reader, placeholder = factory.tokenizers(CHECKPOINTS[name].family, language)
    found.update(placeholder)
    found.text_config.update(factory.special_ids(inner))
    with torch.device("meta"):
        hf_model = model_class._from_config(found, dtype=dtype)
    hf_model.to_empty(device=device)
    hf_model.tie_weights()
    generator = torch.Generator(device).manual_seed(0)
    values = (torch.randn(2**20, generator=generator, device=device) * 0.02).to(dtype)
    with torch.no_grad():
        for key, weight in hf_model.named_parameters():
            if weight.dim() == 1:
                weight.fill_(1.0 if "norm" in key.lower() and key.endswith("weight") else 0.0)
            else:
                flat = weight.view(-1)
                for start in range(0, flat.numel(), values.numel()):
                    piece = flat[start : start + values.numel()]
                    piece.copy_(values[: piece.numel()])
    images = transformers.BlipImageProcessor(size={"height": 224, "width": 224})
    processor = factory.processor(images, inner, reader, found.num_query_tokens)
    return hf_model.eval().requires_grad_(False), processor


def save(folder, name, **options):
    """`build`, as a complete folder."""
    hf_model, processor = build(name, **options)
    hf_model.save_pretrained(folder, max_shard_size="2GB")
    return factory.save_processor(folder, processor)


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
            decoder_start_token_id=0,
        )
    hidden, layers, heads, inner = _VICUNA[size]
    return transformers.LlamaConfig(
        vocab_size=32001,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
    )
