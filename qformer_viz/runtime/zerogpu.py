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
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor

from qformer_viz.errors import UserError
from qformer_viz.media.image_decoder import decode
from qformer_viz.runtime.lru_cache import LRUCache
from qformer_viz.runtime.pipeline import ANSWERS, KEPT, Pipeline
from qformer_viz.types import Answer, Decoding, EncodedImage, Turn, upload

if TYPE_CHECKING:
    from qformer_viz.types import AnyImage

IMAGES, TOGETHER = 16, 8
"""Images that are remembered, and at most how many are encoded in one trip."""

Built = TypeVar("Built")
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
"""Such as `spaces.GPU`, for functions and generators."""


def remote(pipe: Pipeline, gpu: Decorator) -> Pipeline:
    """The same pipeline by trips to the process that holds the GPU."""
    return cast(Pipeline, RemotePipeline(pipe, gpu))


class RemoteObject:
    """Stands for an object that lives with the model: each method is one trip, and what is known is served here.

    A callback `on_progress` stays here, and is called once, when the trip is over.
    """

    def __init__(self, trip: Callable[..., Any], known: Mapping[str, Any]) -> None:
        self._trip, self._known = trip, known

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name in self._known:
            return self._known[name]
        return partial(self._ask, name)

    def _ask(
        self, name: str, *args: Any, on_progress: Callable[[int, int], None] | None = None, **options: Any
    ) -> Any:
        found = self._trip(name, *args, **options)
        if on_progress is not None:
            on_progress(len(args[0]), len(args[0]))
        return found


class RemotePipeline(RemoteObject):
    """A `Pipeline` by trips. What it was asked before is remembered here, for the worker remembers nothing."""

    def __init__(self, pipe: Pipeline, gpu: Decorator) -> None:
        # A fork has the pipeline in memory, nothing of it is pickled. `spaces` keeps these functions for ever, and
        # they must not keep a model that nobody uses any more.
        there = weakref.ref(pipe)

        def call(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
            try:
                pipe = _settled(there)
                found = function(pipe, *_to_device(args, pipe.device), **options)
                return _to_cpu(tuple(found) if isinstance(found, Iterator) else found)
            except UserError as error:
                return error

        def stream(name: str, *args: Any) -> Iterator[Any]:
            try:
                pipe = _settled(there)
                yield from getattr(pipe, name)(*_to_device(args, pipe.device))
            except UserError as error:
                yield error

        self._call, self._stream = _raising(gpu(call)), gpu(stream)
        here = (
            "name",
            "family",
            "checkpoint",
            "quantization",
            "reason",
            "sees_video",
            "reads_questions",
            "model",
            "processor",
        )
        local = ("device", "dtype", "describe", "qformer_text_tokens", "self_check")
        super().__init__(
            partial(self._call, _method), {name: getattr(pipe, name) for name in (*here, *local)}
        )
        self._encoded: LRUCache[EncodedImage] = LRUCache(IMAGES)
        self._answers: LRUCache[Answer] = LRUCache(ANSWERS)
        self._remembered: LRUCache[Any] = LRUCache(KEPT)

    def run(self, function: Callable[..., Built], *args: object) -> Built:
        """`Pipeline.run`, in one trip."""
        return self._call(function, *map(_bare, args))

    def build(
        self, kind: Callable[..., Built], *args: object, here: Mapping[str, Any] | None = None
    ) -> Built:
        """`Pipeline.build`: made anew in every trip that one of its methods takes."""
        trip = partial(self._call, _method_of, kind, tuple(map(_bare, args)))
        return cast(Built, RemoteObject(trip, here or {}))

    def remember(self, key: Hashable, compute: Callable[[], Built]) -> Built:
        """As `Pipeline.remember`."""
        found = self._remembered.get(key)
        if found is None:
            found = compute()
            self._remembered.put(key, found)
        return found

    def encode(self, image: AnyImage, question: str | None = None) -> EncodedImage:
        """As `Pipeline.encode`, with every tensor on the CPU."""
        decoded = decode(upload(image))
        (encoded,) = self.encode_each([decoded], question)
        self._encoded.put((decoded.sha256, self._read(question)), encoded)
        return encoded

    def encode_each(self, images: Iterable[AnyImage], question: str | None = None) -> Iterator[EncodedImage]:
        """`encode` of one image after the other, several of them a trip; not kept, as by `Pipeline.encode_each`."""
        read = self._read(question)
        ahead = (decode(upload(image)) for image in images)
        while part := list(islice(ahead, TOGETHER)):
            kept = {each.sha256: self._encoded.get((each.sha256, read)) for each in part}
            known = {digest: encoded for digest, encoded in kept.items() if encoded is not None}
            fresh = {each.sha256: each for each in part if each.sha256 not in known}
            if fresh:
                known |= zip(fresh, self._ask("encode_each", tuple(fresh.values()), question), strict=True)
            yield from (known[each.sha256] for each in part)

    def _read(self, question: str | None) -> str | None:
        """What the Q-Former reads meanwhile."""
        return question if self.reads_questions else None

    def caption(self, image: AnyImage, decoding: Decoding | None = None) -> Answer:
        """As `Pipeline.caption`."""
        return self._answer("caption", image, decoding)

    def ask(
        self,
        image: AnyImage,
        question: str,
        history: Sequence[Turn] = (),
        decoding: Decoding | None = None,
    ) -> Answer:
        """As `Pipeline.ask`."""
        return self._answer("ask", image, question, tuple(history), decoding)

    def stream_caption(
        self,
        image: AnyImage,
        decoding: Decoding | None = None,
        stop: threading.Event | None = None,
    ) -> Iterator[Answer]:
        """As `Pipeline.stream_caption`."""
        return self._streamed(stop, "stream_caption", image, decoding)

    def stream_ask(
        self,
        image: AnyImage,
        question: str,
        history: Sequence[Turn] = (),
        decoding: Decoding | None = None,
        stop: threading.Event | None = None,
    ) -> Iterator[Answer]:
        """As `Pipeline.stream_ask`."""
        return self._streamed(stop, "stream_ask", image, question, tuple(history), decoding)

    def forget(self) -> None:
        """As `Pipeline.forget`."""
        for cache in (self._encoded, self._answers, self._remembered):
            cache.clear()

    def _answer(self, name: str, image: AnyImage, *args: Any) -> Answer:
        encoded = image if isinstance(image, EncodedImage) else self.encode(image)
        decoding = args[-1] or Decoding()
        key = (encoded.fingerprint, name, *args[:-1], decoding)
        known = self._answers.get(key) if decoding.repeatable else None
        if known is None:
            known = self._ask(name, encoded, *args)
            if decoding.repeatable:
                self._answers.put(key, known)
        return known

    def _streamed(
        self, stop: threading.Event | None, name: str, image: AnyImage, *args: Any
    ) -> Iterator[Answer]:
        encoded = image if isinstance(image, EncodedImage) else self.encode(image)
        for answer in map(_raised, self._stream(name, encoded, *args)):
            if stop is not None and stop.is_set() and answer.finish is None:
                # The event does not reach the worker; leaving the loop ends its generator.
                yield replace(answer, finish="stopped")
                return
            yield answer


def _method(pipe: Pipeline, name: str, *args: Any, **options: Any) -> Any:
    """A method of the pipeline, in the worker."""
    return getattr(pipe, name)(*args, **options)


def _method_of(
    pipe: Pipeline, kind: Callable[..., Any], made_of: tuple[Any, ...], name: str, *args: Any, **options: Any
) -> Any:
    """A method of an object that `Pipeline.build` makes, in the worker."""
    return getattr(pipe.build(kind, *made_of), name)(*args, **options)


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


def _bare(value: Any) -> Any:
    """An image without what the worker has no use for; all else as it is."""
    return replace(value, capture=None, owner=None) if isinstance(value, EncodedImage) else value


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


def zero_gpu() -> Decorator | None:
    """`spaces.GPU` on a ZeroGPU Space, else None. To be called before a model runs in the process that serves.

    Once that process has woken the CUDA driver, no fork of it can use a GPU; and transformers wakes it in every pass,
    on the CPU too, when it asks whether a CUDA graph is being captured. None ever is.
    """
    if not os.environ.get("SPACES_ZERO_GPU"):
        return None
    import spaces

    torch.cuda.is_current_stream_capturing = lambda: False
    return spaces.GPU
