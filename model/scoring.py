"""Teacher-forced scores of one answer under changed queries: what every explanation measures against.

The ViT never runs here, and a query that is taken away is replaced, never removed, so positions stay as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from model.generation import teacher_forced

BATCH_BYTES = 256e6
"""Bound on the logits, or on the image keys and values, of one batch."""


class Scorer:
    """One answer about one image. `guard()` is held around every batch, so that other users get their turn between.

    look(vision [n, p, d], keep [n, p]) -> queries [n, q, d]: the Q-Former with some image tokens hidden.
    pieces   [k] the answer's tokens as read; `of_word` [k] the word each belongs to; words [t]
    queries  [1, q, d] as the answer saw them
    """

    def __init__(
        self,
        model: Any,
        encoded: Any,
        prompt: Sequence[int],
        answer: Any,
        look: Callable[[Tensor, Tensor], Tensor],
        guard: Callable[[], Any],
    ) -> None:
        self.model, self.language, self.guard = model, model.language_model, guard
        self.encoded, self.queries = encoded, encoded.queries
        self.words, self.of_word = split_words(answer.tokens)
        self._prompt = torch.tensor([prompt], device=self.queries.device)
        self._answer = torch.tensor([answer.token_ids], device=self.queries.device)
        self._look = look

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
        vision, found = self.encoded.vision, []
        each = 2 * vision.shape[1] * self.model.config.qformer_config.hidden_size * 4
        for start, size in self._batches(len(keep), each):
            with self.guard():
                part = keep[start : start + size]
                found.append(self._look(vision.expand(len(part), -1, -1), part))
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
                out = self._forward(self.queries, output_attentions=True)
            finally:
                self.language.set_attn_implementation(before)
        maps = out.cross_attentions if self.language.config.is_encoder_decoder else out.attentions
        first = 0 if self.language.config.is_encoder_decoder else self._prompt.shape[1] - 1
        rows = torch.stack([layer[0].float().mean(0) for layer in maps]).mean(0)[first:]
        rows = rows[: self._answer.shape[1], : self.queries.shape[1]].cpu()
        return self._per_word(rows.T, mean=True).T

    def _score(self, queries: Tensor) -> Tensor:
        logits = self._forward(queries).logits.float().log_softmax(-1)
        chosen = self._answer.expand(len(queries), -1).unsqueeze(-1)
        return self._per_word(logits.gather(-1, chosen)[..., 0].cpu())

    def _forward(self, queries: Tensor, **options: Any) -> Any:
        text = self.language.get_input_embeddings()(self._prompt[:, queries.shape[1] :])
        prompt = torch.cat([queries.to(text.dtype), text.expand(len(queries), -1, -1)], 1)
        return teacher_forced(self.language, prompt, self._answer, **options)

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
