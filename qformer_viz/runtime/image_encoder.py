"""The one ViT and Q-Former pass per image, and its bounded cache."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from qformer_viz.hooks.recording import Recording
from qformer_viz.media.image_decoder import Decoded
from qformer_viz.runtime.input_placement import Placer
from qformer_viz.runtime.lru_cache import LRUCache
from qformer_viz.types import EncodedImage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedModel, ProcessorMixin
    from transformers.utils import ModelOutput

IMAGES = 16

Observe = Callable[[Any], contextlib.AbstractContextManager[Recording]]


class Encoder:
    """Computes what `generate` computes before its language model, step by step, in the pipeline's device queue.

    observe(model) is entered around exactly the pass, in the thread that runs it.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        *,
        observe: Observe | None,
        owner: object,
        films: bool = False,
    ) -> None:
        """films: whether the language model may be given several frames of queries; else only the first is seen."""
        self.model, self.processor, self.observe, self.owner = model, processor, observe, owner
        self.sees_video = films
        self.place = Placer(processor.image_processor)
        self._encoded: LRUCache[EncodedImage] = LRUCache(IMAGES)
        self._vision: LRUCache[Tensor] = LRUCache(IMAGES)

    def seen(self, decoded: Decoded) -> Decoded:
        """What this model sees of an upload: a film, or its first frame."""
        return decoded if self.sees_video else decoded.still()

    def known(self, decoded: Decoded, instruction: str | None) -> EncodedImage | None:
        return self._encoded.get((self.seen(decoded).sha256, instruction))

    @torch.no_grad()
    def run(
        self,
        decoded: Decoded,
        instruction: str | None,
        instruction_inputs: Mapping[str, Tensor] | None,
        keep: bool = True,
    ) -> EncodedImage:
        """instruction and its token ids are None for BLIP-2, whose Q-Former reads no text. keep: for who asks again."""
        seen = self.seen(decoded)
        placements = tuple(self.place(frame.size) for frame in seen.frames)
        vision = self._vision.get(seen.sha256)
        pixels = None if vision is not None else self._pixels(seen.frames)
        with contextlib.nullcontext() if self.observe is None else self.observe(self.model) as recording:
            if vision is None:
                vision = self.model.vision_model(pixel_values=pixels).last_hidden_state
            queries = self.queries(vision, instruction_inputs, frames=len(seen.frames))
        encoded = EncodedImage(
            source=decoded,
            seen=seen,
            queries=queries,
            vision=vision,
            capture=None if recording is None else recording.result,
            question=instruction,
            owner=self.owner,
            placements=placements,
        )
        if keep:
            self._vision.put(seen.sha256, vision)
            self._encoded.put((seen.sha256, instruction), encoded)
        return encoded

    @torch.no_grad()
    def features(self, decoded: Decoded) -> Tensor:
        """ViT outputs [1, p, d] of an image that nobody will ask for again: not kept."""
        return self.model.vision_model(pixel_values=self._pixels((decoded.image,))).last_hidden_state

    @torch.no_grad()
    def hidden(
        self, encoded: EncodedImage, instruction_inputs: Mapping[str, Tensor] | None, keep: Tensor, where: str
    ) -> EncodedImage:
        """See `Pipeline.hidden`."""
        if where not in ("qformer", "vit"):
            raise ValueError(f'hidden from {where!r}; choose "qformer" or "vit"')
        frames = len(encoded.frames)
        patches = keep.bool().expand(frames, -1)
        vision = encoded.vision
        assert vision is not None, "with_vision has run the ViT"
        seen = torch.cat([torch.ones(frames, 1, dtype=torch.bool), patches], 1).to(vision.device)
        if where == "vit":
            tower = self.model.vision_model
            tokens, vision = tower.embeddings(self._pixels(encoded.frames)), torch.zeros_like(vision)
            for frame, there in enumerate(seen):  # frames may keep different numbers of patches
                states = tower.encoder(inputs_embeds=tokens[frame : frame + 1, there]).last_hidden_state
                vision[frame, there] = tower.post_layernorm(states)[0]
        queries = self.queries(vision, instruction_inputs, seen, frames)
        return replace(encoded, queries=queries, vision=vision, capture=None)

    def forget(self) -> None:
        self._encoded.clear()
        self._vision.clear()

    def _pixels(self, frames: Sequence[Image.Image]) -> Tensor:
        pixels = self.processor.image_processor(list(frames), return_tensors="pt")["pixel_values"]
        weight = self.model.vision_model.embeddings.patch_embedding.weight
        return pixels.to(weight.device, weight.dtype)

    def queries(
        self,
        vision: Tensor,
        instruction: Mapping[str, Tensor] | None,
        keep: Tensor | None = None,
        frames: int = 1,
    ) -> Tensor:
        """[b, f·q, d] at the language model's width from ViT outputs [b·f, p, d]; see `look`."""
        found = self.project(self.look(vision, instruction, keep))
        return found.unflatten(0, (-1, frames)).flatten(1, 2)

    def look(
        self,
        vision: Tensor,
        instruction: Mapping[str, Tensor] | None,
        keep: Tensor | None = None,
        **options: object,
    ) -> ModelOutput:
        """The Q-Former's output on ViT outputs [b, p, d]; keep [b, p]: the image tokens that may be looked at, None for
        all. instruction: token ids [1, t] and their mask, or None. Where gradients are on, there is one for every
        attention map too. To be called in the device queue."""
        tokens = self.model.query_tokens.detach().expand(vision.shape[0], -1, -1)
        if torch.is_grad_enabled():
            tokens = tokens.clone().requires_grad_()
        seen = torch.ones(vision.shape[:-1]) if keep is None else keep
        seen = seen.to(vision.device, torch.long)
        extra = {}
        if instruction is not None:
            mask = torch.ones(tokens.shape[:-1], dtype=torch.long, device=vision.device)
            ids, read = (
                instruction[name].to(vision.device).expand(len(tokens), -1)
                for name in ("input_ids", "attention_mask")
            )
            extra = {"input_ids": ids, "attention_mask": torch.cat([mask, read], dim=1)}
        return self.model.qformer(
            query_embeds=tokens, encoder_hidden_states=vision, encoder_attention_mask=seen, **extra, **options
        )

    def project(self, looked: ModelOutput) -> Tensor:
        """What a Q-Former output says to the language model: [b, q, d]."""
        states = looked.last_hidden_state[:, : self.model.query_tokens.shape[1]]
        # Under fp16 the Q-Former stays in fp32 and its output is cast back, as `generate` does.
        return self.model.language_projection(states.to(self.model.language_projection.weight.dtype))
