"""Teacher-forced scores of one answer under changed queries: what every explanation measures against.

The ViT never runs here, and a query that is taken away is replaced, never removed, so positions stay as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from qformer_viz.errors import AttentionError, GradientError, QuestionError
from qformer_viz.hooks.eager_attention import eager
from qformer_viz.hooks.interventions import QFormerActivations, replace_heads, replace_query_messages
from qformer_viz.runtime.generation import CACHE, teacher_forced
from qformer_viz.runtime.pipeline import Pipeline
from qformer_viz.runtime.token_text import split_words, text_of
from qformer_viz.types import Answer, EncodedImage

BATCH_BYTES = 256e6
"""Bound on the logits, or on the image keys and values, or on the graph, of one batch."""

SHOWN = 32
"""Rows after which somebody else gets a turn, where each takes a pass of the Q-Former as well."""

REUSE_FROM, REUSE_STEP = 8, 8
"""Rows from which reuse pays, and the step of positions by which rows are grouped."""


def make_scorer(pipe: Pipeline, encoded: EncodedImage, answer: Answer) -> Scorer:
    """A `Scorer` where the model is: here, or in the process that holds the GPU (`qformer_viz.runtime.zerogpu`).

    Raises QuestionError for an answer without a word.
    """
    check_words(answer)
    words, of_word = split_words(answer.tokens)
    here = {"words": words, "of_word": of_word, "queries": encoded.queries, "encoded": encoded}
    return pipe.build(Scorer, encoded, answer, here=here)


def check_words(answer: Answer) -> None:
    """Raises QuestionError for an answer without a word."""
    if not answer.token_ids:
        raise QuestionError("The answer has no word to explain. Ask in other words.")


@dataclass(frozen=True, eq=False)
class Gradients:
    """Attention of one Q-Former pass, on the CPU, and how one word's log-probability hangs on it; f frames of a film, 1
    of a picture.

    queries  [f·q, d] gradient by the projected queries
    own      [L, f, h, s, s] self-attention probabilities, `own_gradient` their gradient; s is the queries, then the
    tokens
             of the text that an InstructBLIP's Q-Former reads
    cross    [l, f, h, q, p] cross-attention, CLS first, `cross_gradient` its gradient
    """

    queries: Tensor
    own: Tensor
    own_gradient: Tensor
    cross: Tensor
    cross_gradient: Tensor

    @property
    def attention(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All but `queries`, in order."""
        return self.own, self.own_gradient, self.cross, self.cross_gradient


class Scorer:
    """Log-probabilities of one answer's words when queries, patches or activations are replaced.

    Every batch is one turn in the device queue (`Pipeline.turn`), so that others get theirs between.

    words [t]             `of_word` [k] is the word that each of the answer's tokens belongs to
    queries [1, f·q, d]   as the answer saw them, frame by frame of a video
    """

    def __init__(self, pipe: Pipeline, encoded: EncodedImage, answer: Answer) -> None:
        """Raises QuestionError for an answer without a word."""
        check_words(answer)
        self.encoded, self.instruction = pipe.with_vision(encoded)
        self.model, self.language, self.turn = pipe.model, pipe.model.language_model, pipe.turn
        self.queries, self.encoder = self.encoded.queries, pipe.encoder
        self.words, self.of_word = split_words(answer.tokens)
        # Sliding windows forget, so there the beginning is not all there is to know. A GPU reads everything in one
        # batch in less time than it takes to start several smaller ones: 14 ms and 70 on an H200, at 2.7 billion.
        layers = DynamicCache(config=self.language.config).layers if pipe.reuses_keys else ()
        known = all(type(layer) is DynamicLayer for layer in layers)
        self.reuse = pipe.reuses_keys and known and self.queries.device.type != "cuda"
        prompt = pipe.prompt_ids(answer, self.queries.shape[1])
        self._prompt = torch.tensor([prompt], device=self.queries.device)
        self._answer = torch.tensor([answer.token_ids], device=self.queries.device)
        self._before: list[tuple[Tensor, Tensor]] | None = None

    @property
    def _vision(self) -> Tensor:
        """[f, p, d] ViT outputs."""
        vision = self.encoded.vision
        assert vision is not None, "with_vision has run the ViT"
        return vision

    @torch.no_grad()
    def score(self, queries: Tensor, on_progress: Callable[[int, int], object] | None = None) -> Tensor:
        """log p(word | queries, earlier words) `[n, t]`, summed over the pieces of a word, for queries `[n, q, d]`.

        on_progress(done, of): called after every batch; raise from it to stop.

        In single precision at least, on the CPU. Batches are bounded by memory; they change no more than the rounding.
        """
        return self._per_word(self._pieces(queries, on_progress)[0])

    @torch.no_grad()
    def repeats(self, queries: Tensor) -> Tensor:
        """[n] bool: whether greedy decoding from queries `[n, q, d]` would say the answer's tokens again."""
        return self._pieces(queries)[1].all(-1)

    @torch.no_grad()
    def shown(self, keep: Tensor, on_progress: Callable[[int, int], object] | None = None) -> Tensor:
        """As `score`, when only the image tokens in `keep` `[n, f, p]` (bool, CLS first) are keys of the Q-Former, f
        frames of a film or 1."""
        return self._looked(len(keep), lambda vision, rows: self._queries(vision, keep[rows]), on_progress)

    @torch.no_grad()
    def ablate_heads(
        self,
        own: Tensor,
        cross: Tensor,
        reference: QFormerActivations,
        on_progress: Callable[[int, int], object] | None = None,
    ) -> Tensor:
        """As `score`, when the Q-Former's heads in own `[n, L, h]` (self-attention) and cross `[n, l, h]` (bool) hand
        on what they do on average for other images (`reference_activations`)."""
        frames = len(self._vision)

        def queries(vision: Tensor, rows: slice) -> Tensor:
            some, further = (each[rows].repeat_interleave(frames, 0) for each in (own, cross))
            with replace_heads(self.model.qformer, some, further, reference):
                return self._queries(vision)

        return self._looked(len(own), queries, on_progress)

    @torch.no_grad()
    def ablate_query_messages(
        self,
        chosen: Tensor,
        reference: QFormerActivations,
        on_progress: Callable[[int, int], object] | None = None,
    ) -> Tensor:
        """As `score`, when in the Q-Former's self-attention the queries in chosen `[n, q]` (bool) tell what they tell
        on average for other images. The language model reads them as ever."""

        def queries(vision: Tensor, rows: slice) -> Tensor:
            with replace_query_messages(
                self.model.qformer, chosen[rows].repeat_interleave(vision.shape[1], 0), reference
            ):
                return self._queries(vision)

        return self._looked(len(chosen), queries, on_progress)

    @torch.no_grad()
    def isolate_queries(self, reference: QFormerActivations) -> Tensor:
        """As `score` `[1, t]`, when every query gets the mean keys and values of all others over other images."""
        count, frames = self.model.query_tokens.shape[1], len(self._vision)
        others = ~torch.eye(count, dtype=torch.bool).repeat_interleave(frames, 0)

        def alone() -> Tensor:
            with replace_query_messages(self.model.qformer, others, reference):
                found = self._queries(self._vision.expand(count, *self._vision.shape))
            rows = found.unflatten(1, (frames, count))  # row k is right for query k, in every frame
            return rows.diagonal(dim1=0, dim2=2).permute(0, 2, 1).flatten(0, 1)[None]

        return self.score(self.turn(alone))

    @torch.no_grad()
    def mask_text(self, read: Tensor, on_progress: Callable[[int, int], object] | None = None) -> Tensor:
        """As `score`, when the Q-Former reads only those tokens of its text that are in read `[n, s]` (bool), as if the
        others were padding. The language model reads the whole question as ever."""
        assert self.instruction is not None, "a Q-Former that reads no text has none to hide"
        ids = self.instruction["input_ids"]

        def queries(vision: Tensor, rows: slice) -> Tensor:
            frames = vision.shape[1]
            mask = read[rows].long().repeat_interleave(frames, 0)
            text = {"input_ids": ids, "attention_mask": mask}
            return self.encoder.queries(vision.flatten(0, 1), text, frames=frames)

        return self._looked(len(read), queries, on_progress)

    def _looked(
        self,
        count: int,
        queries: Callable[[Tensor, slice], Tensor],
        on_progress: Callable[[int, int], object] | None,
    ) -> Tensor:
        """Scores [count, t] where every row takes a pass of the Q-Former: queries(ViT outputs [n, f, p, d], rows)."""
        vision, found = self._vision, []
        each = 2 * vision.shape[:2].numel() * self.model.config.qformer_config.hidden_size * 4
        for start, size in self._batches(count, each, SHOWN):
            rows = slice(start, min(start + size, count))
            expanded = vision.expand(rows.stop - start, *vision.shape)
            found.append(self.score(self.turn(partial(queries, expanded, rows))))
            if on_progress is not None:
                on_progress(rows.stop, count)
        return torch.cat(found)

    def _queries(self, vision: Tensor, keep: Tensor | None = None) -> Tensor:
        """The projected queries [n, f·q, d] from ViT outputs [n, f, p, d]; keep [n, f, p] as in `shown`."""
        seen = None if keep is None else keep.flatten(0, 1)
        return self.encoder.queries(vision.flatten(0, 1), self.instruction, seen, vision.shape[1])

    @torch.no_grad()
    def attention(self, queries: Tensor | None = None) -> Tensor:
        """Attention of the language model to the query slots for every word: `[t, q]`, mean over layers and heads.

        The row that predicts a piece is the position before it; pieces of a word are averaged. Encoder-decoder models:
        the decoder's cross-attention. Layers without attention, as in a hybrid, are left out. queries [1, q, d]: other
        ones in their place. Raises AttentionError where no layer has any, as in Mamba.
        """
        rows = self.turn(partial(self._attention, self.queries if queries is None else queries))
        return self._per_word(rows.T, mean=True).T

    def _attention(self, queries: Tensor) -> Tensor:
        with eager(self.language):
            out = self._forward(queries, output_attentions=True)
        found = getattr(
            out, "cross_attentions" if self.language.config.is_encoder_decoder else "attentions", None
        )
        maps = [layer for layer in found or () if layer is not None and layer.dim() == 4]
        if not maps:
            raise AttentionError(
                f"Found no attention in {type(self.language).__name__}; expected a language model whose layers attend "
                "to the queries. Fix: choose a method that does not read its attention, such as query knock-out."
            )
        first = 0 if self.language.config.is_encoder_decoder else self._prompt.shape[1] - 1
        rows = torch.stack([layer[0].float().mean(0) for layer in maps]).mean(0)[first:]
        return rows[: self._answer.shape[1], : self.queries.shape[1]].cpu()

    @torch.no_grad()
    def values(self, index: int) -> Tensor:
        """What each image token offers each head of a cross-attention layer, after the output projection:
        `[f, h, p, D]`, on the CPU. index counts the layers that cross-attend."""
        layers = [layer for layer in self.model.qformer.encoder.layer if layer.has_cross_attention]
        block = layers[index].crossattention
        linear = block.attention.value
        value = self.turn(lambda: _full(linear(self._vision.to(linear.weight.dtype))))
        out = _full(block.output.dense.weight)
        heads = block.attention.num_attention_heads
        return torch.einsum(
            "fphd,Dhd->fhpD", value.unflatten(-1, (heads, -1)), out.unflatten(-1, (heads, -1))
        ).cpu()

    @torch.no_grad()
    def likeliest_tokens(self, states: Tensor, count: int) -> list[list[tuple[str, float]]]:
        """The `count` likeliest tokens, with their shares, that the output layer reads off each of `[1, q, d]`."""
        head = self.language.get_output_embeddings()
        shares = self.turn(lambda: _full(head(states.to(head.weight.dtype)))[0].softmax(-1))
        best = shares.topk(count)
        text = partial(text_of, self.encoder.processor.tokenizer)
        rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [list(zip(map(text, ids), values, strict=True)) for ids, values in rows]

    def feature_gradients(self, word: int, vision: Tensor) -> tuple[Tensor, Tensor]:
        """(y [n], gradient [n, f, p, d]) of a word's log-probability by ViT outputs `[n, f, p, d]`, on the CPU.

        One backward pass; nothing keeps its graph. Batches are bounded by memory.
        """

        @torch.enable_grad()
        def batch(part: Tensor) -> tuple[Tensor, Tensor]:
            part = part.to(self._vision).detach().requires_grad_()
            y = self._differentiable(word, self._queries(part))
            slope = torch.autograd.grad(y.sum(), part)[0]
            return y.detach().cpu(), _full(slope).cpu()

        found = [
            self.turn(partial(batch, vision[start : start + size]))
            for start, size in self._batches(len(vision), self._graph_bytes())
        ]
        values, slopes = zip(*found, strict=True)
        return torch.cat(values), torch.cat(slopes)

    def attention_gradients(self, word: int) -> Gradients:
        """The Q-Former's attention and its gradient for one word: one forward and one backward pass."""
        return self.turn(partial(self._attention_slopes, word))

    @torch.enable_grad()
    def _attention_slopes(self, word: int) -> Gradients:
        with eager(self.model.qformer):
            vision = self._vision.detach().requires_grad_()
            looked = self.encoder.look(vision, self.instruction, output_attentions=True)
            cross = looked.cross_attentions
            # The library files the cross-attention among the self-attention as well.
            own = tuple(a for a in looked.attentions if not any(a is other for other in cross))
            queries = self.encoder.project(looked).flatten(0, 1)[None]
            y = self._differentiable(word, queries)
            wanted = (queries, *own, *cross)
            found = torch.autograd.grad(y.sum(), wanted, allow_unused=True, materialize_grads=True)
        slopes = [_full(slope).cpu() for slope in found]

        def stacked(maps: Sequence[Tensor]) -> Tensor:
            return torch.stack([_full(a.detach()).cpu() for a in maps])

        last = len(own) + 1
        return Gradients(
            queries=slopes[0][0],
            own=stacked(own),
            own_gradient=torch.stack(slopes[1:last]),
            cross=stacked(cross),
            cross_gradient=torch.stack(slopes[last:]),
        )

    def _differentiable(self, word: int, queries: Tensor) -> Tensor:
        """y [n] of one word, with its graph. Raises GradientError."""
        states = (getattr(weight, "quant_state", None) for weight in self.model.parameters())
        if any(getattr(state, "packing_format_for_cpu", False) for state in states):
            raise GradientError(
                "No gradient passes through 4-bit weights as bitsandbytes packs them for this processor. Choose "
                'another method, such as query knock-out, or load the model with quantization="8bit" or without.'
            )
        logits = _full(self._forward(queries).logits).log_softmax(-1)
        chosen = self._answer.expand(len(queries), -1).unsqueeze(-1)
        own = torch.tensor(self.of_word, device=logits.device) == word
        return logits.gather(-1, chosen)[..., 0][:, own].sum(-1)

    def _pieces(
        self, queries: Tensor, on_progress: Callable[[int, int], object] | None = None
    ) -> tuple[Tensor, Tensor]:
        """(log p [n, k], whether it is the most probable one [n, k]) of the answer's tokens, on the CPU."""
        first, done = self._first_changed(queries), 0
        logprobs = torch.empty(len(queries), self._answer.shape[1], dtype=_full(queries[:0]).dtype)
        likeliest = torch.empty(logprobs.shape, dtype=torch.bool)
        for start in sorted(set(first.tolist())):
            rows = (first == start).nonzero()[:, 0]
            for begin, size in self._batches(len(rows), 4 * self._answer.shape[1] * self._vocabulary()):
                part = rows[begin : begin + size]
                some = queries[part.to(queries.device)].to(self.queries)
                logprobs[part], likeliest[part] = self.turn(partial(self._batch, some, start))
                done += len(part)
                if on_progress is not None:
                    on_progress(done, len(queries))
        return logprobs, likeliest

    def _batch(self, queries: Tensor, start: int) -> tuple[Tensor, Tensor]:
        logits = _full(self._forward(queries, start).logits).log_softmax(-1)
        chosen = self._answer.expand(len(queries), -1)
        logprobs = logits.gather(-1, chosen.unsqueeze(-1))[..., 0]
        return logprobs.cpu(), (logits.argmax(-1) == chosen).cpu()

    def _first_changed(self, queries: Tensor) -> Tensor:
        """[n] how many leading positions each row shares with the answer's own pass, in steps that keep batches big."""
        if not self.reuse or len(queries) < REUSE_FROM:
            return torch.zeros(len(queries), dtype=torch.long)
        same = (queries.to(self.queries) == self.queries).all(-1).long().cumprod(-1).sum(-1).cpu()
        return same.clamp(max=self.queries.shape[1] - 1) // REUSE_STEP * REUSE_STEP

    def _forward(self, queries: Tensor, start: int = 0, **options: Any) -> Any:
        """One clean pass; from position `start` on where the earlier ones are known."""
        text = self.language.get_input_embeddings()(self._prompt[:, queries.shape[1] :])
        prompt = torch.cat([queries.to(text.dtype), text.expand(len(queries), -1, -1)], 1)
        if start:
            options[CACHE] = self._known(start, len(queries))
        return teacher_forced(self.language, prompt[:, start:], self._answer, **options)

    def _known(self, start: int, count: int) -> DynamicCache:
        """Keys and values of the positions before `start`, for a batch of `count`."""
        if self._before is None:
            cache = DynamicCache(config=self.language.config)
            self.language.get_decoder()(
                inputs_embeds=self.queries.to(self.language.get_input_embeddings().weight.dtype),
                use_cache=True,
                **{CACHE: cache},
            )
            self._before = [(layer.keys, layer.values) for layer in cache.layers]
        cache = DynamicCache(config=self.language.config)
        for index, (keys, values) in enumerate(self._before):
            expanded = (each[..., :start, :].expand(count, -1, -1, -1) for each in (keys, values))
            cache.update(*expanded, index)
        return cache

    def _vocabulary(self) -> int:
        return self.model.config.get_text_config().vocab_size

    def _graph_bytes(self) -> float:
        """About what one sequence's graph holds: some forty numbers per token, layer and unit of width, and logits."""
        text, qformer = self.model.config.get_text_config(), self.model.config.qformer_config
        tokens = self._prompt.shape[1] + self._answer.shape[1]
        units = text.num_hidden_layers * text.hidden_size * tokens
        units += (
            qformer.num_hidden_layers
            * qformer.hidden_size
            * (self.queries.shape[1] + self._vision.shape[:2].numel())
        )
        return 4 * (40 * units + 3 * self._vocabulary() * self._answer.shape[1])

    @staticmethod
    def _batches(count: int, each: float, most: int | None = None) -> Iterator[tuple[int, int]]:
        size = max(1, int(BATCH_BYTES // each))
        size = size if most is None else min(size, most)
        return ((start, size) for start in range(0, count, size))

    def _per_word(self, values: Tensor, mean: bool = False) -> Tensor:
        """Pieces `[n, k]` to words `[n, t]`, summed or averaged."""
        index = torch.tensor(self.of_word)
        summed = values.new_zeros(len(values), len(self.words)).index_add_(1, index, values)
        return summed / torch.bincount(index, minlength=len(self.words)) if mean else summed


def _full(values: Tensor) -> Tensor:
    """In single precision at least: sums of log-probabilities want it."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
