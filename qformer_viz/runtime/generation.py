"""The language model's own `generate`, fed with projected queries, and what is learned while it runs.

Two additions to stock generation: the log-probability of every token from the raw logits, and the reuse of
key-value caches of the image prefix and earlier turns where that repeats the uncached pass.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
import transformers
from torch import Tensor
from transformers import (
    DynamicCache,
    LogitsProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.cache_utils import DynamicLayer

from qformer_viz.runtime.end_tokens import end_tokens
from qformer_viz.runtime.lru_cache import LRUCache
from qformer_viz.types import Decoding

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from transformers.utils import ModelOutput

_VERSION = tuple(int(part) for part in transformers.__version__.split(".")[:2])
CACHE = "cache" if _VERSION >= (5, 24) else "past_key_values"
"""What transformers calls the key-value cache that a language model is given and gives back."""
PREFIXES = 8
"""Key-value caches kept: one per conversation in flight, about 50 MB each for OPT-2.7B in bf16."""

STEPS_HELD = 64
"""Steps whose logits wait to be read, 13 MB for OPT's vocabulary."""

Progress = Callable[[list[int], list[float]], None]


@dataclass(frozen=True)
class Generated:
    """Token ids and log-probabilities [t], the end-of-sequence token left out; finish as in Answer."""

    ids: list[int]
    logprobs: list[float]
    finish: str


class Generator:
    """Generation over one language model. Not safe under threads: the pipeline runs it in its device queue."""

    def __init__(
        self,
        model: PreTrainedModel,
        quantization: str | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        """tokenizer: the language model's; its end token is one of `ends`."""
        self.model = model
        self.quantised = quantization is not None
        self.language = model.language_model
        self.decoder_only = not self.language.config.is_encoder_decoder
        # LLM.int8 picks outlier columns over all tokens of a pass: in two pieces it is another computation.
        self.reuse = self.decoder_only and quantization != "8bit"
        self._prefixes: LRUCache[_Prefix] = LRUCache(PREFIXES)
        self.ends = end_tokens(model, tokenizer)

    def forget(self) -> None:
        self._prefixes.clear()

    def run(
        self,
        queries: Tensor,
        fingerprint: str,
        prompt: Sequence[int],
        decoding: Decoding,
        stopped: Callable[[], bool],
        progress: Progress | None = None,
    ) -> Generated:
        """Continue the prompt: placeholders replaced by `queries` [1, q, d], then text.

        progress(ids, logprobs) is called after every token, except with beams.
        """
        # Inference mode is faster than no_grad. Quantised layers keep tensors from their first pass, and
        # such a tensor would forbid gradients later, so they do without.
        with torch.no_grad() if self.quantised else torch.inference_mode():
            return self._run(queries, fingerprint, prompt, decoding, stopped, progress)

    def _run(
        self,
        queries: Tensor,
        fingerprint: str,
        prompt: Sequence[int],
        decoding: Decoding,
        stopped: Callable[[], bool],
        progress: Progress | None,
    ) -> Generated:
        ids = torch.tensor([prompt], device=queries.device)
        inputs = {"inputs_embeds": self.embed(ids, queries), "attention_mask": torch.ones_like(ids)}
        if self.decoder_only:
            inputs["input_ids"] = ids
        single = decoding.num_beams == 1
        past = self._recall(fingerprint, prompt) if self.reuse and single else None
        if past is not None:
            inputs[CACHE] = past
        first = len(prompt) if self.decoder_only else 1
        watch = _Watch(first, self.ends, stopped, progress if single else None)
        with _seeded(decoding.seed if decoding.do_sample else None, queries.device):
            out = self.language.generate(
                **inputs,
                **self._settings(decoding),
                logits_processor=watch.processors(decoding.repetition_penalty) if single else None,
                stopping_criteria=StoppingCriteriaList([watch.criterion]),
                return_dict_in_generate=True,
            )
        sequence = out.sequences[0].tolist()
        if self.reuse and single:
            self._keep(fingerprint, sequence, len(prompt), getattr(out, CACHE))
        new = sequence[first:]
        kept = self._until_end(new)
        if single:
            watch.settle(out.sequences)
            logprobs = watch.logprobs[: len(kept)]
        else:
            logprobs = self.logprobs(inputs["inputs_embeds"], kept)
        return Generated(kept, logprobs, self._finish(kept, new, watch.was_stopped))

    def embed(self, ids: Tensor, queries: Tensor) -> Tensor:
        """[1, t, d]: text embeddings with the placeholders, which come first, replaced by the queries, in order."""
        embedded = self.language.get_input_embeddings()(ids)
        slots = (ids == ids[:, :1]).unsqueeze(-1)
        if int(slots.sum()) != queries.shape[1]:
            raise AssertionError(f"{int(slots.sum())} image placeholders for {queries.shape[1]} queries")
        return embedded.masked_scatter(slots, queries.to(embedded.dtype))

    def logprobs(self, prompt: Tensor, ids: list[int]) -> list[float]:
        """log p(ids | prompt) [t], teacher-forced in one clean pass; prompt is embedded, [1, t, d]."""
        if not ids:
            return []
        new = torch.tensor([ids], device=prompt.device)
        logits = teacher_forced(self.language, prompt, new).logits.float().log_softmax(-1)
        return logits.gather(-1, new.unsqueeze(-1))[0, :, 0].tolist()

    def _settings(self, decoding: Decoding) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "max_new_tokens": decoding.max_new_tokens,
            "num_beams": decoding.num_beams,
            "do_sample": decoding.do_sample,
            # Alone, the watch applies the penalty, after it has read the raw logits.
            "repetition_penalty": decoding.repetition_penalty if decoding.num_beams > 1 else 1.0,
        }
        if decoding.do_sample:
            settings |= {"temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0}
        if self.ends:
            settings["eos_token_id"] = sorted(self.ends)
            pad = self.language.generation_config.pad_token_id
            # Vicuna's configuration says -1, of which `generate` warns.
            if pad is None or pad < 0:
                settings["pad_token_id"] = min(self.ends)
        return settings

    def _until_end(self, new: list[int]) -> list[int]:
        return next((new[:i] for i, token in enumerate(new) if token in self.ends), new)

    @staticmethod
    def _finish(kept: list[int], new: list[int], stopped: bool) -> str:
        if len(kept) < len(new):
            return "eos"
        return "stopped" if stopped else "length"

    def _recall(self, fingerprint: str, prompt: Sequence[int]) -> DynamicCache | None:
        """A private copy of the longest kept beginning of this prompt; at least one token is left to read."""
        best, longest = None, 0
        for key, prefix in self._prefixes.items():
            if prefix.fingerprint == fingerprint:
                shared = min(_shared(prefix.ids, prompt), len(prompt) - 1)
                if shared > longest:
                    best, longest = key, shared
        found = None if best is None else self._prefixes.get(best)
        if found is None:
            return None
        cache = DynamicCache(config=self.language.config)
        for index, (keys, values) in enumerate(found.layers):
            cache.update(keys[..., :longest, :], values[..., :longest, :], index)  # it copies
        return cache

    def _keep(self, fingerprint: str, sequence: list[int], prompt_length: int, cache: Any) -> None:
        """File what the pass has read. It replaces every cache whose prompt it begins with: a conversation
        holds one, and a retry still finds its prompt."""
        layers = getattr(cache, "layers", ())
        if not layers or any(type(layer) is not DynamicLayer for layer in layers):
            return  # sliding windows forget, so their caches are not prefixes
        ids = tuple(sequence[: cache.get_seq_length()])
        for key, old in self._prefixes.items():
            if old.fingerprint == fingerprint and _shared(old.ids, ids) >= old.prompt_length:
                self._prefixes.drop(key)
        kept = tuple((layer.keys[..., : len(ids), :], layer.values[..., : len(ids), :]) for layer in layers)
        self._prefixes.put((fingerprint, ids), _Prefix(fingerprint, ids, prompt_length, kept))


@dataclass(frozen=True)
class _Prefix:
    """Keys and values [1, h, t, d] of every layer for the token ids [t]; never changed once filed."""

    fingerprint: str
    ids: tuple[int, ...]
    prompt_length: int
    layers: tuple[tuple[Tensor, Tensor], ...]


class _Watch:
    """Sees every step of one generation: the raw logits first, the chosen token after."""

    def __init__(
        self, first: int, ends: frozenset[int], stopped: Callable[[], bool], progress: Progress | None
    ) -> None:
        """first: where in a sequence the first generated token stands."""
        self.first, self.ends, self.stopped, self.progress = first, ends, stopped, progress
        self.logprobs: list[float] = []
        self.was_stopped = False
        self._unread: list[Tensor] = []
        self.criterion = _Criterion(self)

    def processors(self, repetition_penalty: float) -> LogitsProcessorList:
        chain: list[LogitsProcessor] = [_Reader(self)]
        if repetition_penalty != 1.0:
            chain.append(RepetitionPenaltyLogitsProcessor(repetition_penalty))
        return LogitsProcessorList(chain)

    def read(self, logits: Tensor) -> None:
        self._unread.append(logits)

    def chosen(self, sequences: Tensor) -> bool:
        """Note the newest token; say whether to stop."""
        if self.progress is not None:
            self.settle(sequences)
            ids = sequences[0, self.first :].tolist()
            if ids[-1] in self.ends:
                self.progress = None  # on a GPU `generate` may run a step past the end before it looks
            else:
                self.progress(ids, self.logprobs)
        elif len(self._unread) == STEPS_HELD:
            self.settle(sequences)
        self.was_stopped = self.was_stopped or self.stopped()
        return self.was_stopped

    def settle(self, sequences: Tensor) -> None:
        """Turn the logits held back into log-probabilities, many at once: it costs less than one by one."""
        new = sequences[0, self.first + len(self.logprobs) :]
        unread, self._unread = self._unread[: len(new)], []
        if unread:
            distributions = torch.cat(unread).float().log_softmax(-1)
            self.logprobs += distributions.gather(1, new[:, None])[:, 0].tolist()


class _Reader(LogitsProcessor):
    def __init__(self, watch: _Watch) -> None:
        self.watch = watch

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.watch.read(scores)
        return scores


class _Criterion(StoppingCriteria):
    def __init__(self, watch: _Watch) -> None:
        self.watch = watch

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        stop = self.watch.chosen(input_ids)
        return torch.full((input_ids.shape[0],), stop, dtype=torch.bool, device=input_ids.device)


def teacher_forced(language: PreTrainedModel, prompt: Tensor, ids: Tensor, **options: object) -> ModelOutput:
    """One clean pass over `ids` [1, t] after each embedded prompt [n, p, d]; its logits [n, t, v] predict the ids.

    With `output_attentions=True` the maps have a row for every position, in a decoder-only model those of the prompt
    too: the row that predicts the first id is number p - 1. `options[CACHE]`: of what comes before the prompt.
    """
    count = len(prompt)
    if not language.config.is_encoder_decoder:
        embeds = language.get_input_embeddings()(ids).expand(count, -1, -1)
        embeds = torch.cat([prompt, embeds], dim=1)
        past = cast("DynamicCache | None", options.get(CACHE))
        if past is not None:
            length = past.get_seq_length() + embeds.shape[1]
            options["attention_mask"] = torch.ones(count, length, dtype=torch.long, device=embeds.device)
        # Positions by index, not by their number: a slice is not contiguous, and the head would then multiply a copy of
        # itself for every row of the batch.
        last = embeds.shape[1] - 1
        rows = torch.arange(last - ids.shape[1], last, device=embeds.device)
        return language(inputs_embeds=embeds, use_cache=past is not None, logits_to_keep=rows, **options)
    start = language.generation_config.decoder_start_token_id
    start = language.config.decoder_start_token_id if start is None else start
    shifted = torch.cat([torch.full_like(ids[:, :1], start), ids[:, :-1]], dim=1)
    return language(
        inputs_embeds=prompt, decoder_input_ids=shifted.expand(count, -1), use_cache=False, **options
    )


def _shared(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the common beginning."""
    pairs = zip(left, right, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))


@contextlib.contextmanager
def _seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Make sampling repeatable and leave other random numbers alone; `generate` takes no generator."""
    if seed is None:
        yield
        return
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
