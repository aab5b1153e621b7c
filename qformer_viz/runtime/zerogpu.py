"""A pipeline whose model runs in another process, as on Hugging Face ZeroGPU: every call is a trip there and back.

On ZeroGPU a function decorated with `spaces.GPU` runs in a forked worker that holds the GPU; what it returns is
pickled. So nothing that lives in the worker is remembered, and what comes back are arrays on the CPU. Images and
answers are kept here, in the process that serves the page, and so are the weights, in main memory: a worker finds them
in its fork and brings them to the GPU. (`spaces` can imitate a GPU in this process, but only in its first thread.)
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from qformer_viz.attribution.reference_activations import ReferenceActivations
from qformer_viz.attribution.scorer import Gradients
from qformer_viz.errors import UserError
from qformer_viz.hooks.interventions import QFormerActivations
from qformer_viz.media.images import decode
from qformer_viz.runtime.lru_cache import LRUCache
from qformer_viz.runtime.pipeline import ANSWERS, Pipeline
from qformer_viz.runtime.token_text import split_words
from qformer_viz.types import Answer, Decoding, EncodedImage, Turn, upload

IMAGES, TOGETHER = 16, 8
"""Images that are remembered, and at most how many are encoded in one trip."""


class RemotePipeline:
    """What the page uses of a `Pipeline`, over `gpu`: a decorator such as `spaces.GPU` for functions and generators."""

    def __init__(self, pipe: Pipeline, gpu: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        self._pipe = pipe
        self.name, self.family, self.checkpoint = pipe.name, pipe.family, pipe.checkpoint
        self.quantization, self.reason, self.sees_video = pipe.quantization, pipe.reason, pipe.sees_video
        self.model, self.processor, self.device, self.dtype = (
            pipe.model,
            pipe.processor,
            pipe.device,
            pipe.dtype,
        )
        self._encoded: LRUCache[EncodedImage] = LRUCache(IMAGES)
        self._answers: LRUCache[Answer] = LRUCache(ANSWERS)
        self._means: dict[str | None, ReferenceActivations] = {}

        # A fork has the pipeline in memory, nothing of it is pickled. `spaces` keeps these functions for ever, and
        # they must not keep a model that nobody uses any more.
        there = weakref.ref(pipe)

        def tried(work: Callable[[Pipeline], Any]) -> Any:
            try:
                return _to_cpu(work(_settled(there)))
            except UserError as error:
                return error

        def call(name: str, *args: Any) -> Any:
            def work(pipe: Pipeline) -> Any:
                found = getattr(pipe, name)(*_to_device(args, pipe.device))
                return tuple(found) if isinstance(found, Iterator) else found

            return tried(work)

        def stream(name: str, *args: Any) -> Iterator[Any]:
            try:
                pipe = _settled(there)
                yield from getattr(pipe, name)(*_to_device(args, pipe.device))
            except UserError as error:
                yield error

        def score(encoded: EncodedImage, answer: Answer, name: str, *args: Any) -> Any:
            def work(pipe: Pipeline) -> Any:
                scorer = pipe.scorer(_to_device(encoded, pipe.device), answer)
                return getattr(scorer, name)(*_to_device(args, pipe.device))

            return tried(work)

        self._call, self._stream, self._score = _raising(gpu(call)), gpu(stream), _raising(gpu(score))

    def encode(self, image: Any, question: str | None = None) -> EncodedImage:
        """As `Pipeline.encode`, with every tensor on the CPU."""
        decoded = decode(upload(image))
        (encoded,) = self.encode_each([decoded], question)
        self._encoded.put((decoded.sha256, self._read(question)), encoded)
        return encoded

    def encode_each(self, images: Iterable[Any], question: str | None = None) -> Iterator[EncodedImage]:
        """`encode` of one image after the other, several of them a trip; not kept, as by `Pipeline.encode_each`."""
        read = self._read(question)
        ahead = (decode(upload(image)) for image in images)
        while part := list(islice(ahead, TOGETHER)):
            known = {each.sha256: self._encoded.get((each.sha256, read)) for each in part}
            fresh = {each.sha256: each for each in part if known[each.sha256] is None}
            if fresh:
                known |= zip(fresh, self._call("encode_each", tuple(fresh.values()), question), strict=True)
            yield from (known[each.sha256] for each in part)

    def _read(self, question: str | None) -> str | None:
        """What the Q-Former reads meanwhile."""
        return question if self.family == "instructblip" else None

    def caption(self, image: Any, decoding: Decoding | None = None) -> Answer:
        return self._answer("caption", image, decoding)

    def ask(
        self, image: Any, question: str, history: Sequence[Turn] = (), decoding: Decoding | None = None
    ) -> Answer:
        return self._answer("ask", image, question, tuple(history), decoding)

    def stream_caption(
        self, image: Any, decoding: Decoding | None = None, stop: threading.Event | None = None
    ) -> Iterator[Answer]:
        return self._streamed(stop, "stream_caption", image, decoding)

    def stream_ask(
        self,
        image: Any,
        question: str,
        history: Sequence[Turn] = (),
        decoding: Decoding | None = None,
        stop: threading.Event | None = None,
    ) -> Iterator[Answer]:
        return self._streamed(stop, "stream_ask", image, question, tuple(history), decoding)

    def scorer(self, image: EncodedImage, answer: Answer) -> RemoteScorer:
        return RemoteScorer(self._score, image, answer)

    def hidden(self, encoded: EncodedImage, keep: Tensor, where: str = "qformer") -> EncodedImage:
        return self._call("hidden", encoded, keep, where)

    def library_attention(self, image: Any) -> Tensor:
        return self._call("library_attention", image)

    def mean_queries(self, question: str | None = None) -> Tensor:
        return self._all_means(question).queries

    def mean_features(self, question: str | None = None) -> Tensor:
        return self._all_means(question).features

    def usual(self, question: str | None = None) -> QFormerActivations:
        return self._all_means(question).inside

    def said(self, encoded: EncodedImage) -> QFormerActivations:
        return self._call("said", _bare(encoded))

    def qformer_text_tokens(self, question: str | None = None) -> tuple[str, ...]:
        return self._pipe.qformer_text_tokens(question)

    def forget(self) -> None:
        self._encoded.clear()
        self._answers.clear()
        self._means.clear()

    def describe(self) -> dict[str, Any]:
        return self._pipe.describe()

    def _all_means(self, question: str | None) -> ReferenceActivations:
        if question not in self._means:
            self._means[question] = self._call("means", question)
        return self._means[question]

    def _answer(self, name: str, image: Any, *args: Any) -> Answer:
        encoded = image if isinstance(image, EncodedImage) else self.encode(image)
        decoding = args[-1] or Decoding()
        key = (encoded.fingerprint, name, *args[:-1], decoding)
        known = self._answers.get(key) if decoding.repeatable else None
        if known is None:
            known = self._call(name, encoded, *args)
            if decoding.repeatable:
                self._answers.put(key, known)
        return known

    def _streamed(self, stop: threading.Event | None, name: str, image: Any, *args: Any) -> Iterator[Answer]:
        encoded = image if isinstance(image, EncodedImage) else self.encode(image)
        for answer in map(_raised, self._stream(name, encoded, *args)):
            if stop is not None and stop.is_set() and answer.finish is None:
                # The event does not reach the worker; leaving the loop ends its generator.
                yield replace(answer, finish="stopped")
                return
            yield answer


class RemoteScorer:
    """A `Scorer` by trips: what it is asked runs there, what it knows is here."""

    def __init__(self, score: Callable[..., Any], encoded: EncodedImage, answer: Answer) -> None:
        self._score, self.encoded, self.answer = score, encoded, answer
        self.words, self.of_word = split_words(answer.tokens)
        self.queries = encoded.queries

    def score(self, queries: Tensor, on_progress: Callable[[int, int], Any] | None = None) -> Tensor:
        return self._told(on_progress, "score", queries)

    def shown(self, keep: Tensor, on_progress: Callable[[int, int], Any] | None = None) -> Tensor:
        return self._told(on_progress, "shown", keep)

    def ablate_heads(
        self,
        own: Tensor,
        cross: Tensor,
        usual: QFormerActivations,
        on_progress: Callable[[int, int], Any] | None = None,
    ) -> Tensor:
        return self._told(on_progress, "silenced", own, cross, usual)

    def ablate_query_messages(
        self, chosen: Tensor, usual: QFormerActivations, on_progress: Callable[[int, int], Any] | None = None
    ) -> Tensor:
        return self._told(on_progress, "hushed", chosen, usual)

    def apart(self, usual: QFormerActivations) -> Tensor:
        return self._ask("apart", usual)

    def unread(self, read: Tensor, on_progress: Callable[[int, int], Any] | None = None) -> Tensor:
        return self._told(on_progress, "unread", read)

    def repeats(self, queries: Tensor) -> Tensor:
        return self._ask("repeats", queries)

    def attention(self, queries: Tensor | None = None) -> Tensor:
        return self._ask("attention", queries)

    def values(self, index: int) -> Tensor:
        return self._ask("values", index)

    def spell(self, states: Tensor, count: int) -> list[list[tuple[str, float]]]:
        return self._ask("spell", states, count)

    def feature_gradients(self, word: int, vision: Tensor) -> tuple[Tensor, Tensor]:
        return self._ask("vision_slopes", word, vision)

    def attention_gradients(self, word: int) -> Gradients:
        return self._ask("attention_slopes", word)

    def _told(
        self, on_progress: Callable[[int, int], Any] | None, name: str, rows: Tensor, *further: Any
    ) -> Tensor:
        """One trip for all rows: it begins with a process and a GPU, which takes longer than most of what it brings."""
        found = self._ask(name, rows, *further)
        if on_progress is not None:
            on_progress(len(rows), len(rows))
        return found

    def _ask(self, name: str, *args: Any) -> Any:
        return self._score(_bare(self.encoded), self.answer, name, *args)


def _settled(there: weakref.ref[Pipeline]) -> Pipeline:
    pipe = there()
    assert pipe is not None  # whoever calls holds it
    pipe.settle()
    return pipe


def _raised(found: Any) -> Any:
    """What a trip brought back. Errors travel as values: of those raised there, `spaces` tells only the name."""
    if isinstance(found, UserError):
        raise found
    return found


def _raising(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: _raised(function(*args))


def _bare(encoded: EncodedImage) -> EncodedImage:
    """Without what the worker has no use for."""
    return replace(encoded, record=None, owner=None)


def _to_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, tuple):
        return _alike(value, map(_to_cpu, value))
    if isinstance(value, EncodedImage):
        moved = {"queries": _to_cpu(value.queries), "vision": _to_cpu(value.vision)}
        return replace(value, **moved, owner=None)
    return value


def _to_device(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, tuple):
        return _alike(value, (_to_device(each, device) for each in value))
    if isinstance(value, EncodedImage):
        moved = {"queries": _to_device(value.queries, device), "vision": _to_device(value.vision, device)}
        return replace(_bare(value), **moved)
    return value


def _alike(value: tuple, parts: Iterable[Any]) -> tuple:
    """A tuple of the same kind, which may have names."""
    return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)


def zero_gpu() -> Callable[[Callable[..., Any]], Callable[..., Any]] | None:
    """`spaces.GPU` on a ZeroGPU Space, else None. To be called before a model runs in the process that serves.

    Once that process has woken the CUDA driver, no fork of it can use a GPU; and transformers wakes it in every pass,
    on the CPU too, when it asks whether a CUDA graph is being captured. None ever is.
    """
    if not os.environ.get("SPACES_ZERO_GPU"):
        return None
    import spaces

    torch.cuda.is_current_stream_capturing = lambda: False
    return spaces.GPU
