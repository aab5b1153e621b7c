"""Puts the trained parts together as a `Blip2ForConditionalGeneration` and saves it in the transformers format."""

import copy
import json
from pathlib import Path

import torch
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
    Blip2Processor,
    Blip2QFormerConfig,
    BlipImageProcessor,
    GenerationConfig,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    PreTrainedTokenizerBase,
)

from model.scene_text import CAPTION_PROMPT, DESCRIPTION_SLOTS, QUESTION_PROMPT
from model.stage_language import language_config
from model.stage_vit import HIDDEN, IMAGE_SIZE, MEAN, STD, vision_config
from model.tokenizer import IMAGE
from qformer_viz.domains.domain_registry import EMOJI_SCENES
from qformer_viz.runtime.checkpoints import CARD

QUERIES = DESCRIPTION_SLOTS
LAYERS = 6
# Cross-attention stands in every second layer, as published.
CROSS_EVERY = 2
# What the text of generative alignment starts with; the tokenizer's own start token is the contrastive one.
DECODER = "<dec>"
CAPTION_POSITIONS = 64
# Width in which images and captions are compared.
CONTRAST = 256
# No file of the bundled model may reach 10 MB.
SHARD = "8MB"


def _qformer(
    tokenizer: PreTrainedTokenizerBase, cross_every: int = CROSS_EVERY, **more
) -> Blip2QFormerConfig:
    return Blip2QFormerConfig(
        hidden_size=HIDDEN,
        encoder_hidden_size=HIDDEN,
        intermediate_size=4 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=6,
        cross_attention_frequency=cross_every,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        **more,
    )


def blip2_config(
    tokenizer: PreTrainedTokenizerBase, queries: int = QUERIES, cross_every: int = CROSS_EVERY
) -> Blip2Config:
    """The whole model's configuration: published interface, small widths."""
    return Blip2Config(
        vision_config=vision_config().to_dict(),
        qformer_config=_qformer(tokenizer, cross_every).to_dict(),
        text_config=language_config(tokenizer).to_dict(),
        num_query_tokens=queries,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
    )


def build_model(
    tokenizer: PreTrainedTokenizerBase, queries: int = QUERIES, cross_every: int = CROSS_EVERY
) -> Blip2ForConditionalGeneration:
    """A fresh model; the queries start at N(0, 0.02), for the library leaves them at zero."""
    model = Blip2ForConditionalGeneration(blip2_config(tokenizer, queries, cross_every))
    torch.nn.init.normal_(model.query_tokens, std=0.02)
    return model


def stage1_tokenizer(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A copy that knows `DECODER`, as the Q-Former's text branch needs it."""
    copied = copy.deepcopy(tokenizer)
    copied.add_special_tokens({"additional_special_tokens": [DECODER]})
    return copied


def build_retrieval(
    tokenizer: PreTrainedTokenizerBase, queries: int = QUERIES, cross_every: int = CROSS_EVERY
) -> Blip2ForImageTextRetrieval:
    """A fresh retrieval model; `tokenizer` is an `stage1_tokenizer`."""
    text_branch = {"use_qformer_text_input": True, "max_position_embeddings": CAPTION_POSITIONS}
    qformer = _qformer(tokenizer, cross_every, **text_branch)
    config = Blip2Config(
        vision_config=vision_config().to_dict(),
        qformer_config=qformer.to_dict(),
        text_config=language_config(tokenizer).to_dict(),
        num_query_tokens=queries,
        image_text_hidden_size=CONTRAST,
    )
    model = Blip2ForImageTextRetrieval(config)
    torch.nn.init.normal_(model.query_tokens, std=0.02)
    return model


def save_retrieval(
    model: Blip2ForImageTextRetrieval, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> None:
    """As `save_checkpoint`, without a language model; its texts hold no image placeholders."""
    model.to(torch.float16).save_pretrained(folder, max_shard_size=SHARD)
    processor = build_processor(tokenizer)
    processor.num_query_tokens = None
    processor.save_pretrained(folder)


def build_processor(tokenizer: PreTrainedTokenizerBase) -> Blip2Processor:
    images = BlipImageProcessor(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}, image_mean=list(MEAN), image_std=list(STD)
    )
    return Blip2Processor(images, tokenizer, num_query_tokens=QUERIES)


def build_instruct(tokenizer: PreTrainedTokenizerBase) -> InstructBlipForConditionalGeneration:
    """A fresh InstructBLIP: the same parts, and the Q-Former reads the question with an `stage1_tokenizer`."""
    qformer = _qformer(stage1_tokenizer(tokenizer), max_position_embeddings=CAPTION_POSITIONS).to_dict()
    qformer["model_type"] = "instructblip_qformer"
    config = InstructBlipConfig(
        vision_config={**vision_config().to_dict(), "model_type": "instructblip_vision_model"},
        qformer_config=qformer,
        text_config=language_config(tokenizer).to_dict(),
        num_query_tokens=QUERIES,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
    )
    model = InstructBlipForConditionalGeneration(config)
    torch.nn.init.normal_(model.query_tokens, std=0.02)
    return model


def build_instruct_processor(tokenizer: PreTrainedTokenizerBase) -> InstructBlipProcessor:
    images = build_processor(tokenizer).image_processor
    return InstructBlipProcessor(images, tokenizer, stage1_tokenizer(tokenizer), num_query_tokens=QUERIES)


def save_checkpoint(
    model: Blip2ForConditionalGeneration | InstructBlipForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
) -> None:
    """A BLIP-2 or InstructBLIP: weights in float16 (no measurable loss), processor, greedy generation, and a card that
    says how it is spoken to."""
    model.language_model.generation_config = model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_new_tokens=40,
    )
    model.to(torch.float16).save_pretrained(folder, max_shard_size=SHARD)
    build = build_instruct_processor if model.config.model_type == "instructblip" else build_processor
    build(tokenizer).save_pretrained(folder)
    card = {"question_prompt": QUESTION_PROMPT, "caption_prompt": CAPTION_PROMPT, "world": EMOJI_SCENES.name}
    (Path(folder) / CARD).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
