"""Tiny random BLIP-2 and InstructBLIP checkpoints with processors, in memory or saved as a folder.

The tokenizer is byte-level without merges: any text encodes, and lengths are counted by hand.
"""

import numpy as np
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    Blip2Config,
    Blip2Processor,
    BlipImageProcessor,
    InstructBlipProcessor,
    PreTrainedTokenizerFast,
)

from qformer_viz.runtime.checkpoints import Checkpoint
from qformer_viz.runtime.pipeline import Pipeline
from tests.support import tiny_models

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
    config = tiny_models.config(
        family,
        vision_config=tiny_models.vision(image_size=SIDE),
        qformer_config=tiny_models.qformer(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            max_position_embeddings=POSITIONS,
        ),
        text_config=_text(language),
        num_query_tokens=QUERIES,
        image_token_index=IMAGE,
    )
    model = tiny_models.build(family, config, seed=seed).requires_grad_(False)
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
    model = tiny_models.build("retrieval", Blip2Config(**config), seed=seed).requires_grad_(False)
    images = BlipImageProcessor(size={"height": SIDE, "width": SIDE})
    return model, Blip2Processor(images, tokenizer(), num_query_tokens=QUERIES if placeholders else None)


def save(folder, family="blip2", language="opt", *, seed=0, **options):
    """Write a complete checkpoint folder, as save_pretrained does."""
    model, processor = retrieval(seed=seed) if family == "retrieval" else parts(family, language, seed=seed)
    model.save_pretrained(folder, **options)
    processor.save_pretrained(folder)
    return folder


def _text(language):
    ids = {"eos_token_id": END, "pad_token_id": PAD}
    if language == "t5":
        own = {"initializer_factor": 2.0}
    else:
        own = {"bos_token_id": END} | ({"max_position_embeddings": POSITIONS} if language == "opt" else {})
    return tiny_models.text(language, vocab_size=VOCABULARY, **ids, **own)
