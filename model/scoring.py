"""Teacher-forced scores of one answer under changed queries: what every explanation measures against.

The ViT never runs here, and a query that is taken away is replaced, never removed, so positions stay as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

BATCH_BYTES = 256e6
"""Bound on the logits, or on the image keys and values, of one batch."""


class Scorer:
    """One answer about one image. `guard()` is held around every batch, so that other users get their turn between.

    pieces   [k] the answer's tokens as read; `of_word` [k] the word each belongs to; words [t]
    queries  [1, q, d] as the answer saw them
    """

    def __init__(
        self,
        model: Any,
        encoded: Any,
        prompt: Sequence[int],
        answer: Any,
        instruction: Any,
        guard: Callable[[], Any],
    ) -> None:
        self.model, self.language, self.guard = model, model.language_model, guard
        self.encoded, self.queries = encoded, encoded.queries
        self.words, self.of_word = split_words(answer.tokens)
        self._prompt = torch.tensor([prompt], device=self.queries.device)
        self._answer = torch.tensor([answer.token_ids], device=self.queries.device)
        self._instruction = instruction
        self._decoder_only = not self.language.config.is_encoder_decoder

    @torch.no_grad()
    def score(self, queries: Tensor) -> Tensor:
        """log p(word | queries, earlier words) `[n, t]`, summed over the pieces of a word, for queries `[n, q, d]`.

        Float32 on the CPU. Batches are bounded by memory and do not change the result beyond rounding.
        """
        found = []
        for start, size in self._batches(len(queries), 4 * self._answer.shape[1] * self._vocabulary()):
            with self.guard():
                found.append(self._score(queries[start : start + size].to(self.queries)))
        return torch.cat(found)

    @torch.no_grad()
    def requery(self, keep: Tensor) -> Tensor:
        """The projected queries `[n, q, d]` when only the image tokens in `keep` [n, p] (bool, CLS first) are keys."""
        vision, found = self._vision(), []
        each = 2 * vision.shape[1] * self.model.config.qformer_config.hidden_size * 4
        for start, size in self._batches(len(keep), each):
            with self.guard():
                found.append(self._requery(vision, keep[start : start + size]))
        return torch.cat(found)

    @torch.no_grad()
    def attention(self) -> Tensor:
        """Attention of the language model to the query slots for every word: `[t, q]`, mean over layers and heads.

        The row that predicts a piece is the position before it; pieces of a word are averaged. Encoder-decoder models:
        the decoder's cross-attention.
        """
        with self.guard():
            before = self.language.config._attn_implementation
            self.language.set_attn_implementation("eager")
            try:
                out, first = self._forward(self.queries, output_attentions=True)
            finally:
                self.language.set_attn_implementation(before)
        maps = out.attentions if self._decoder_only else out.cross_attentions
        rows = torch.stack([layer[0].float().mean(0) for layer in maps]).mean(0)[first:]
        rows = rows[: self._answer.shape[1], : self.queries.shape[1]].cpu()
        return self._per_word(rows.T, mean=True).T

    def _score(self, queries: Tensor) -> Tensor:
        out, first = self._forward(queries)
        logits = out.logits[:, first:] if first else out.logits
        logits = logits[:, : self._answer.shape[1]].float().log_softmax(-1)
        chosen = self._answer.expand(len(queries), -1).unsqueeze(-1)
        return self._per_word(logits.gather(-1, chosen)[..., 0].cpu())

    def _forward(self, queries: Tensor, **options: Any) -> tuple[Any, int]:
        """The language model's output, and which of its rows (or kept logits) predicts the first piece."""
        count, pieces = len(queries), self._answer.shape[1]
        embed = self.language.get_input_embeddings()
        text = embed(self._prompt[:, queries.shape[1] :])
        prompt = torch.cat([queries.to(text.dtype), text.expand(count, -1, -1)], 1)
        if self._decoder_only:
            whole = torch.cat([prompt, embed(self._answer).expand(count, -1, -1)], 1)
            if not options:
                return self.language(inputs_embeds=whole, use_cache=False, logits_to_keep=pieces + 1), 0
            return self.language(inputs_embeds=whole, use_cache=False, **options), prompt.shape[1] - 1
        start = self.language.config.decoder_start_token_id
        start = self.language.generation_config.decoder_start_token_id if start is None else start
        shifted = torch.cat([torch.full_like(self._answer[:, :1], start), self._answer[:, :-1]], 1)
        decoder = shifted.expand(count, -1)
        return self.language(inputs_embeds=prompt, decoder_input_ids=decoder, use_cache=False, **options), 0

    def _requery(self, vision: Tensor, keep: Tensor) -> Tensor:
        count, model = len(keep), self.model
        tokens = model.query_tokens.expand(count, -1, -1)
        extra = {}
        if self._instruction is not None:
            ids, mask = (
                self._instruction[name].to(vision.device).expand(count, -1)
                for name in ("input_ids", "attention_mask")
            )
            ones = torch.ones(tokens.shape[:-1], dtype=torch.long, device=vision.device)
            extra = {"input_ids": ids, "attention_mask": torch.cat([ones, mask], 1)}
        states = model.qformer(
            query_embeds=tokens,
            encoder_hidden_states=vision.expand(count, -1, -1),
            encoder_attention_mask=keep.to(vision.device).long(),
            **extra,
        ).last_hidden_state[:, : tokens.shape[1]]
        return model.language_projection(states.to(model.language_projection.weight.dtype))

    def _vision(self) -> Tensor:
        if self.encoded.vision is None:
            raise AssertionError("an EncodedImage without its ViT output")
        return self.encoded.vision

    def _vocabulary(self) -> int:
        return self.model.config.get_text_config().vocab_size

    @staticmethod
    def _batches(count: int, each: float) -> Iterator[tuple[int, int]]:
        size = max(1, int(BATCH_BYTES // each))
        return ((start, size) for start in range(0, count, size))

    def _per_word(self, values: Tensor, mean: bool = False) -> Tensor:
        """Pieces `[n, k]` to words `[n, t]`, summed or averaged."""
        index = torch.tensor(self.of_word)
        summed = torch.zeros(len(values), len(self.words)).index_add_(1, index, values.float())
        return summed / torch.bincount(index, minlength=len(self.words)) if mean else summed


def split_words(pieces: Sequence[str]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The words of a text from its token pieces, and the word of every piece.

    A word begins where white space does; punctuation is a word of its own.
    """
    words: list[str] = []
    owner = []
    for piece in pieces:
        bare = piece.strip()
        mark = bool(bare) and not any(letter.isalnum() for letter in bare)
        was_mark = bool(words) and not any(letter.isalnum() for letter in words[-1])
        if not words or piece[:1].isspace() or mark or (was_mark and bare):
            words.append(bare)
        else:
            words[-1] += bare
        owner.append(len(words) - 1)
    return tuple(words), tuple(owner)
