"""Does this text fit this image? Contrastive similarity and matching probability of a BLIP-2 retrieval checkpoint."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from qformer_viz.errors import QuestionError
from qformer_viz.media.image_decoder import Decoded, decode
from qformer_viz.runtime.checkpoints import Checkpoint
from qformer_viz.runtime.device_queue import queue_for
from qformer_viz.runtime.image_encoder import Observe
from qformer_viz.runtime.input_placement import Placer
from qformer_viz.runtime.lru_cache import LRUCache
from qformer_viz.runtime.prompts import clean
from qformer_viz.types import Match

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedModel, ProcessorMixin

    from qformer_viz.types import ImageSource

IMAGES, MATCHES = 16, 256
MAX_CANDIDATES = 64


class Matcher:
    """A loaded retrieval checkpoint, made by `qformer_viz.load_matcher` and safe to share between threads.

    An image goes through the ViT once, and once through the Q-Former for all contrastive comparisons; each text
    takes one pass of its own, in which queries and text read one another (BLIP-2, arXiv 2301.12597, 3.2).
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        *,
        reason: str = "",
        observe: Observe | None = None,
    ) -> None:
        self.checkpoint, self.model, self.processor = checkpoint, model, processor
        self.name, self.reason, self.observe = checkpoint.id, reason, observe
        self.device: torch.device = model.itm_head.weight.device
        self.limit = model.config.qformer_config.max_position_embeddings
        self._place = Placer(processor.image_processor)
        self._seen: LRUCache[tuple[Tensor, Tensor]] = LRUCache(IMAGES)
        self._matches: LRUCache[Match] = LRUCache(MATCHES)
        self._queue = queue_for(str(self.device))

    def match(self, image: ImageSource, text: str) -> Match:
        """Compare an image (whatever `qformer_viz.decode` takes) with a text. Raises ImageError, QuestionError."""
        decoded = decode(image).still()
        text = clean(text, "The text")
        inputs = self._tokens(text)
        key = (decoded.sha256, text)

        @torch.no_grad()
        def work() -> Match:
            known = self._matches.get(key)
            if known is None:
                known = self._compare(decoded, text, inputs)
                self._matches.put(key, known)
            return known

        found = self._queue.run(work)
        assert found is not None, "nothing stops this work"
        return found

    def rank(self, image: ImageSource, texts: Sequence[str]) -> list[Match]:
        """All texts compared with the image, the most probable first; of equals the more similar one."""
        if not texts or len(texts) > MAX_CANDIDATES:
            raise QuestionError(f"{len(texts)} candidate texts; give 1 to {MAX_CANDIDATES}.")
        decoded = decode(image)
        found = [self.match(decoded, text) for text in texts]
        return sorted(found, key=lambda match: (-match.probability, -match.similarity))

    def describe(self) -> dict[str, Any]:
        """What a view says about the model that compares."""
        return {
            "model": self.name,
            "title": self.checkpoint.title,
            "precision": str(self.model.itm_head.weight.dtype).removeprefix("torch."),
            "device": str(self.device),
            "licence": self.checkpoint.licence,
            "reason": self.reason,
            "caution": self.checkpoint.domain.matcher_caution,
        }

    def forget(self) -> None:
        """Drop every cached image and comparison."""
        self._seen.clear()
        self._matches.clear()

    def _tokens(self, text: str) -> BatchEncoding:
        inputs = self.processor.tokenizer(text, return_tensors="pt", split_special_tokens=True)
        count = inputs["input_ids"].shape[1]
        if count > self.limit:
            raise QuestionError(
                f"The text has {count} tokens; this model's Q-Former reads at most {self.limit}. Shorten it."
            )
        return inputs["input_ids"].to(self.device), inputs["attention_mask"].to(self.device)

    def _look(self, decoded: Decoded) -> tuple[Tensor, Tensor]:
        """ViT output `[1, p, d]` and the queries in the contrastive space `[q, c]`, unit length."""
        seen = self._seen.get(decoded.sha256)
        if seen is None:
            model = self.model
            pixels = self.processor.image_processor(decoded.image, return_tensors="pt")["pixel_values"]
            weight = model.vision_model.embeddings.patch_embedding.weight
            vision = model.vision_model(pixel_values=pixels.to(weight.device, weight.dtype)).last_hidden_state
            states = model.qformer(
                query_embeds=model.query_tokens,
                encoder_hidden_states=vision,
                encoder_attention_mask=_ones(vision),
            ).last_hidden_state
            projected = model.vision_projection(states.to(model.vision_projection.weight.dtype))
            seen = vision, normalize(projected.float(), dim=-1)[0]
            self._seen.put(decoded.sha256, seen)
        return seen

    def _compare(self, decoded: Decoded, text: str, inputs: tuple[Tensor, Tensor]) -> Match:
        model, (ids, mask) = self.model, inputs
        vision, queries = self._look(decoded)
        said = model.qformer(
            query_embeds=model.embeddings(input_ids=ids), query_length=0, attention_mask=mask
        ).last_hidden_state[:, 0]
        said = model.text_projection(said.to(model.text_projection.weight.dtype))
        similarities = queries @ normalize(said.float(), dim=-1)[0]
        tokens = model.query_tokens
        with contextlib.nullcontext() if self.observe is None else self.observe(model) as recording:
            states = model.qformer(
                query_embeds=model.embeddings(input_ids=ids, query_embeds=tokens),
                query_length=tokens.shape[1],
                attention_mask=torch.cat([_ones(tokens), mask], 1),
                encoder_hidden_states=vision,
                encoder_attention_mask=_ones(vision),
            ).last_hidden_state[0, : tokens.shape[1]]
        votes = model.itm_head(states.to(model.itm_head.weight.dtype)).float()
        return Match(
            text=text,
            similarity=similarities.max().item(),
            similarities=tuple(similarities.tolist()),
            probability=votes.mean(0).softmax(-1)[1].item(),
            probabilities=tuple(votes.softmax(-1)[:, 1].tolist()),
            image=decoded.image,
            sha256=decoded.sha256,
            capture=None if recording is None else recording.result,
            placement=self._place(decoded.image.size),
        )


def _ones(states: Tensor) -> Tensor:
    return torch.ones(states.shape[:-1], dtype=torch.long, device=states.device)
