"""Batch inference: greedy answers of a saved BLIP-2 or InstructBLIP to many prompts; the ViT runs once per scene."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import (
    AutoConfig,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    PreTrainedTokenizerBase,
)
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions

from model.checkpoint_assembly import build_processor

MAX_NEW_TOKENS = 40

_CLASSES = {
    "blip-2": (Blip2ForConditionalGeneration, Blip2Processor),
    "instructblip": (InstructBlipForConditionalGeneration, InstructBlipProcessor),
}


class BatchInference:
    """A loaded checkpoint that answers many prompts at once.

    `reads_questions`: whether the Q-Former reads the prompt, so that its outputs differ from prompt to prompt.

    Args:
        folder: a checkpoint as `checkpoint_assembly.save_checkpoint` writes it.
        device: a torch device.

    Raises:
        ValueError: the folder holds another kind of model.
    """

    def __init__(self, folder: Path | str, device: str = "cpu") -> None:
        kind = AutoConfig.from_pretrained(folder).model_type
        if kind not in _CLASSES:
            raise ValueError(f"{folder} holds a {kind!r}; this reads {' and '.join(_CLASSES)}")
        model, processor = _CLASSES[kind]
        self.model = model.from_pretrained(folder, dtype=torch.float32).to(device).eval()
        self.processor = processor.from_pretrained(folder)
        self.reads_questions = kind == "instructblip"

    @classmethod
    def from_model(
        cls, model: Blip2ForConditionalGeneration, tokenizer: PreTrainedTokenizerBase
    ) -> "BatchInference":
        """Batch inference of a BLIP-2 in memory."""
        inference = cls.__new__(cls)
        inference.model, inference.processor = model.eval(), build_processor(tokenizer)
        inference.reads_questions = False
        return inference

    @torch.no_grad()
    def vision(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """ViT features `[b, 257, d]` of RGB images."""
        pixels = self.processor.image_processor(list(images), return_tensors="pt").pixel_values
        return self.model.vision_model(pixel_values=pixels.to(self.model.device)).last_hidden_state

    @torch.no_grad()
    def qformer_output(
        self, features: torch.Tensor, prompts: Sequence[str], attentions: bool = False
    ) -> BaseModelOutputWithPoolingAndCrossAttentions:
        """Run the Q-Former.

        Args:
            features: ViT features `[n, 257, d]`.
            prompts: n texts, which only an InstructBLIP reads.
            attentions: whether the output holds the attention weights.
        """
        queries = self.model.query_tokens.expand(len(features), -1, -1)
        more: dict[str, Any] = {"output_attentions": attentions}
        if self.reads_questions:
            read = self.processor.qformer_tokenizer(
                list(prompts), padding=True, padding_side="right", return_tensors="pt"
            ).to(features.device)
            seen = read.attention_mask.new_ones(queries.shape[:2])
            mask = torch.cat([seen, read.attention_mask], 1)
            more |= {"input_ids": read.input_ids, "attention_mask": mask}
        return self.model.qformer(query_embeds=queries, encoder_hidden_states=features, **more)

    @torch.no_grad()
    def slots(self, features: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """The projected queries `[n, 32, d]` of one image, features `[1, 257, d]`, for each of n prompts."""
        passes = len(prompts) if self.reads_questions else 1
        read = self.qformer_output(features.expand(passes, -1, -1), prompts[:passes]).last_hidden_state
        slots = self.model.language_projection(read[:, : self.model.query_tokens.shape[1]])
        return slots.expand(len(prompts), -1, -1)

    @torch.no_grad()
    def generate(self, slots: torch.Tensor, prompts: Sequence[str]) -> tuple[list[str], list[float]]:
        """Continue each prompt greedily.

        Args:
            slots: projected queries `[n, 32, d]`, which stand before the prompts. Padding stands left of them.
            prompts: n texts.

        Returns:
            n texts, and the probability of each whole text with its end token.
        """
        tokenizer, language_model = self.processor.tokenizer, self.model.language_model
        encoded = tokenizer(list(prompts), return_tensors="pt", padding=True).to(slots.device)
        words = language_model.get_input_embeddings()(encoded.input_ids)
        lengths = encoded.attention_mask.sum(1)
        width = slots.shape[1] + words.shape[1]
        inputs = torch.zeros(len(prompts), width, words.shape[2], device=slots.device)
        mask = torch.zeros(len(prompts), width, dtype=torch.long, device=slots.device)
        for row, length in enumerate(lengths.tolist()):
            whole = torch.cat([slots[row], words[row, words.shape[1] - length :]])
            inputs[row, width - len(whole) :] = whole
            mask[row, width - len(whole) :] = 1
        generated = language_model.generate(
            inputs_embeds=inputs,
            attention_mask=mask,
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        ids = generated.sequences[:, -len(generated.logits) :]
        chosen = torch.stack(generated.logits, 1).float().log_softmax(-1).gather(2, ids[..., None])[..., 0]
        # The end token counts, what is padded behind it does not.
        ended = (ids == tokenizer.eos_token_id).long().cumsum(1)
        counts = (ended == 0) | ((ended == 1) & (ids == tokenizer.eos_token_id))
        texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [line.strip() for line in texts], (chosen * counts).sum(1).exp().tolist()
