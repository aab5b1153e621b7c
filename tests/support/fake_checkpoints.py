"""Tiny random BLIP-2 and InstructBLIP checkpoints with processors, in memory or saved as a folder.

The tokenizer is byte-level without merges: any text encodes, and lengths are counted by hand.
"""

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
    Blip2Processor,
    BlipImageProcessor,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    JambaConfig,
    MambaConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
    T5Config,
)

from qformer_viz.runtime.checkpoints import Checkpoint
from qformer_viz.runtime.pipeline import Pipeline

SPECIALS = ["<pad>", "</s>", "<unk>", "<image>"]
PAD, END, _, IMAGE = range(4)
VOCABULARY = 256 + len(SPECIALS)
QUERIES, SIDE, POSITIONS = 4, 28, 400
FAMILIES = [("blip2", "opt"), ("blip2", "t5"), ("instructblip", "opt"), ("instructblip", "t5")]


def picture(seed=0):
    """Coarse coloured noise, so that different seeds get different answers."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((40, 30), Image.Resampling.NEAREST)


def tokenizer(*, start=True):
    """start: </s> in front, as OPT has it; otherwise behind, as T5 has it."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: index for index, piece in enumerate([*SPECIALS, *letters])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    single = "</s> $A" if start else "$A </s>"
    inner.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("</s>", END)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        eos_token="</s>",
        bos_token="</s>",
        unk_token="<unk>",
        padding_side="left",
    )


def parts(family="blip2", language="opt", *, seed=0):
    """(model, processor) with random weights, in eval mode and fp32."""
    vision = {
        "hidden_size": 64,  # bitsandbytes takes multiples of its block of 64 on the CPU
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": 14,
        "initializer_range": 0.2,
    }
    qformer = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "cross_attention_frequency": 2,
        "encoder_hidden_size": 64,
        "max_position_embeddings": POSITIONS,
        "initializer_range": 0.2,
    }
    kinds = {
        "blip2": (Blip2Config, Blip2ForConditionalGeneration),
        "instructblip": (InstructBlipConfig, InstructBlipForConditionalGeneration),
    }
    config_class, model_class = kinds[family]
    config = config_class(
        vision_config=vision,
        qformer_config=qformer,
        text_config=_text(language).to_dict(),
        num_query_tokens=QUERIES,
        image_token_index=IMAGE,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = model_class(config).eval().requires_grad_(False)
        torch.nn.init.normal_(model.query_tokens, std=0.5)
    images = BlipImageProcessor(size={"height": SIDE, "width": SIDE})
    text = tokenizer(start=language == "opt")
    if family == "blip2":
        return model, Blip2Processor(images, text, num_query_tokens=QUERIES)
    return model, InstructBlipProcessor(images, text, tokenizer(), num_query_tokens=QUERIES)


def pipeline(family="blip2", language="opt", *, seed=0, end=END, prepare=None, **options):
    """A Pipeline over random weights. end: the token that ends a text, to make a chosen one final."""
    model, processor = parts(family, language, seed=seed)
    model.language_model.generation_config.eos_token_id = end
    if prepare is not None:
        prepare(model)
    return Pipeline(Checkpoint(id="fake", title="fake", family=family), model, processor, **options)


def retrieval(*, placeholders=False, seed=0):
    """(model, processor) of a retrieval checkpoint. placeholders: its texts begin with image tokens, as in some."""
    source, _ = parts(seed=seed)
    config = source.config.to_dict()
    config["qformer_config"]["use_qformer_text_input"] = True
    config |= {"image_text_hidden_size": 16, "image_token_index": IMAGE if placeholders else None}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Blip2ForImageTextRetrieval(Blip2Config(**config)).eval().requires_grad_(False)
        torch.nn.init.normal_(model.query_tokens, std=0.5)
    images = BlipImageProcessor(size={"height": SIDE, "width": SIDE})
    return model, Blip2Processor(images, tokenizer(), num_query_tokens=QUERIES if placeholders else None)


def save(folder, family="blip2", language="opt", *, seed=0, **options):
    """Write a complete checkpoint folder, as save_pretrained does."""
    model, processor = retrieval(seed=seed) if family == "retrieval" else parts(family, language, seed=seed)
    model.save_pretrained(folder, **options)
    processor.save_pretrained(folder)
    return folder


def _text(language):
    if language == "t5":
        return T5Config(
            vocab_size=VOCABULARY,
            d_model=64,
            d_kv=32,
            d_ff=128,
            num_layers=2,
            num_heads=2,
            initializer_factor=2.0,
            decoder_start_token_id=PAD,
            pad_token_id=PAD,
            eos_token_id=END,
        )
    ids = {"bos_token_id": END, "eos_token_id": END, "pad_token_id": PAD}
    if language == "mamba":
        return MambaConfig(
            vocab_size=VOCABULARY, hidden_size=64, num_hidden_layers=2, initializer_range=0.2, **ids
        )
    if language == "jamba":  # a layer of attention among layers of a state space
        return JambaConfig(
            vocab_size=VOCABULARY,
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=4,
            num_attention_heads=2,
            num_key_value_heads=2,
            attn_layer_period=4,
            attn_layer_offset=1,
            num_experts=2,
            expert_layer_period=2,
            mamba_d_state=4,
            mamba_dt_rank=4,
            initializer_range=0.2,
            **ids,
        )
    return OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        word_embed_proj_dim=64,
        ffn_dim=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=POSITIONS,
        init_std=0.2,
        bos_token_id=END,
        eos_token_id=END,
        pad_token_id=PAD,
    )
