"""A bounded cache that several threads may use: the least recently used entry goes first."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import Generic, TypeVar

import cachetools

Value = TypeVar("Value")


class LRUCache(Generic[Value]):
    """At most `capacity` values. It never calls anything while it holds its lock, so it cannot deadlock."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._entries: cachetools.LRUCache[Hashable, Value] = cachetools.LRUCache(capacity)
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Value | None:
        """The value, which counts as used; None if it is not there."""
        with self._lock:
            return self._entries.get(key)

    def put(self, key: Hashable, value: Value) -> None:
        """Keep a value; the least recently used one goes where there is no room."""
        with self._lock:
            self._entries[key] = value

    def drop(self, key: Hashable) -> None:
        """Forget a value, if it is there."""
        with self._lock:
            self._entries.pop(key, None)

    def items(self) -> list[tuple[Hashable, Value]]:
        """A snapshot; no value counts as used by it."""
        with self._lock:
            # Not the cache's own look-up, which counts as a use.
            return [(key, cachetools.Cache.__getitem__(self._entries, key)) for key in self._entries]

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()

    def __len__(self) -> int:
        with self._lock:
            return len(self._entries)
