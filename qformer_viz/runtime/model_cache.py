"""Loaded models that come and go: loaded when asked for, the least recently used one dropped for room."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

import torch

from qformer_viz.errors import OutOfDeviceMemory

Loaded = TypeVar("Loaded")


class ModelCache(Generic[Loaded]):
    """At most `most` of them. Loading goes on beside those that are there; only if it finds no room are they dropped,
    and it tries again. Safe under threads: one loads at a time."""

    def __init__(self, most: int = 3) -> None:
        self.most = most
        self._lock = threading.Lock()
        self._loaded: dict[str, Loaded] = {}

    def get(self, name: str, load: Callable[[], Loaded]) -> Loaded:
        """What `load` gave for this name, now or before. Its errors are passed on, and leave the others as they are."""
        with self._lock:
            found = self._loaded.pop(name, None)
            if found is None:
                found = self._load(load)
            self._loaded[name] = found
            while len(self._loaded) > self.most:
                self._loaded.pop(next(iter(self._loaded)))
                tidy()
            return found

    def _load(self, load: Callable[[], Loaded]) -> Loaded:
        try:
            return load()
        except OutOfDeviceMemory:
            if not self._loaded:
                raise
        self._loaded.clear()
        tidy()
        return load()


def tidy() -> None:
    """Give back what dropped models held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
