"""One image in, words out: encode once, then caption, ask and stream as often as wanted."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

from model.types import Answer, Decoding, EncodedImage, Turn


class Pipeline:
    """A loaded checkpoint. Made by `model.load`; safe to share between threads.

    name, checkpoint, model (transformers model), processor, device, dtype, quantization, reason, family
    """

    def encode(self, image: Any, question: str | None = None) -> EncodedImage:
        """Run ViT and Q-Former once for this image (for InstructBLIP: the Q-Former once per question)."""
        raise NotImplementedError

    def caption(self, image: Any, decoding: Decoding = Decoding()) -> Answer:
        raise NotImplementedError

    def ask(
        self, image: Any, question: str, history: Sequence[Turn] = (), decoding: Decoding = Decoding()
    ) -> Answer:
        raise NotImplementedError

    def stream_caption(
        self, image: Any, decoding: Decoding = Decoding(), stop: threading.Event | None = None
    ) -> Iterator[Answer]:
        raise NotImplementedError

    def stream_ask(
        self,
        image: Any,
        question: str,
        history: Sequence[Turn] = (),
        decoding: Decoding = Decoding(),
        stop: threading.Event | None = None,
    ) -> Iterator[Answer]:
        raise NotImplementedError

    def forget(self) -> None:
        """Drop every cached image, answer and key-value cache."""

    def describe(self) -> dict[str, Any]:
        """What a manifest needs: model, revision, precision, device, library versions, attention."""
        raise NotImplementedError
