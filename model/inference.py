"""Greedy answers from a saved BLIP-2 or InstructBLIP of this world, many at once, with the ViT run once per scene."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
)

from model.checkpoint_assembly import build_processor

MAX_NEW_TOKENS = 40

_CLASSES = {
    "blip-2": (Blip2ForConditionalGeneration, Blip2Processor),
    "instructblip": (InstructBlipForConditionalGeneration, InstructBlipProcessor),
}


class Reader:
    """`reads_questions`: whether the Q-Former sees the prompt, so that slots differ from prompt to prompt."""

    def __init__(self, folder: Path | str, device: str = "cpu"):
        kind = AutoConfig.from_pretrained(folder).model_type
        if kind not in _CLASSES:
            raise ValueError(f"{folder} holds a {kind!r}; this reads {' and '.join(_CLASSES)}")
        model, processor = _CLASSES[kind]
        self.model = model.from_pretrained(folder, dtype=torch.float32).to(device).eval()
        self.processor = processor.from_pretrained(folder)
        self.reads_questions = kind == "instructblip"

    @classmethod
    def of(cls, model, tokenizer) -> "Reader":
        """A reader of a BLIP-2 in memory."""
        reader = cls.__new__(cls)
        reader.model, reader.processor = model.eval(), build_processor(tokenizer)
        reader.reads_questions = False
        return reader

    @torch.no_grad()
    def vision(self, images: Sequence) -> torch.Tensor:
        """RGB images to ViT features `[b, 257, d]`."""
        pixels = self.processor.image_processor(list(images), return_tensors="pt").pixel_values
        return self.model.vision_model(pixel_values=pixels.to(self.model.device)).last_hidden_state

    @torch.no_grad()
    def query(self, features: torch.Tensor, prompts: Sequence[str], attentions: bool = False):
        """The Q-Former's output for each pair of features `[n, 257, d]` and prompt (which BLIP-2 does not read)."""
        queries = self.model.query_tokens.expand(len(features), -1, -1)
        more = {"output_attentions": attentions}
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
        """The language model's 32 slots for one image's features `[1, 257, d]` and each prompt, `[n, 32, d]`."""
        passes = len(prompts) if self.reads_questions else 1
        read = self.query(features.expand(passes, -1, -1), prompts[:passes]).last_hidden_state
        slots = self.model.language_projection(read[:, : self.model.query_tokens.shape[1]])
        return slots.expand(len(prompts), -1, -1)

    @torch.no_grad()
    def speak(self, slots: torch.Tensor, prompts: Sequence[str]) -> tuple[list[str], list[float]]:
        """Continue each prompt behind its slots `[n, 32, d]`: texts, and the probability of each whole text.

        Prompts are padded on the left of the slots.
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
        said = language_model.generate(
            inputs_embeds=inputs,
            attention_mask=mask,
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        ids = said.sequences[:, -len(said.logits) :]
        chosen = torch.stack(said.logits, 1).float().log_softmax(-1).gather(2, ids[..., None])[..., 0]
        # The end token counts, what is padded behind it does not.
        ended = (ids == tokenizer.eos_token_id).long().cumsum(1)
        counts = (ended == 0) | ((ended == 1) & (ids == tokenizer.eos_token_id))
        texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [line.strip() for line in texts], (chosen * counts).sum(1).exp().tolist()
