"""Everything that runs a model on a device runs one after another, and all that a server's many threads ask for in one
thread.

Every thread that runs torch on the CPU gets workers of its own, and where there are more workers than cores, OpenMP
stops keeping them awake between two operations. A small model is a third slower for it. A script, which has no thread
but its main one, is served there.
"""

from __future__ import annotations

import contextvars
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")
Waiting = tuple["Future[Any]", Callable[[], Any]]
"""Work that waits for its turn, and where its result goes."""
POLL = 0.05


class DeviceQueue:
    """Callers wait in line. The work sees the caller's context variables and whether it computes gradients."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._begin()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        """A forked process starts without the thread, and perhaps with a lock that nobody will ever release."""
        self._starting, self._turn = threading.Lock(), threading.RLock()
        self._waiting: queue.SimpleQueue[Waiting] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def run(self, work: Callable[[], Result], stopped: Callable[[], bool] = lambda: False) -> Result | None:
        """What work() returns or raises; None if `stopped()` became true before its turn came.

        Work that asks for work is not made to wait for itself.
        """
        if threading.current_thread() is self._thread:
            return work()
        if threading.current_thread() is threading.main_thread():
            return self._here(work, stopped)
        context, gradients = contextvars.copy_context(), torch.is_grad_enabled()

        def there() -> Result:
            with torch.set_grad_enabled(gradients):
                return context.run(work)

        future: Future[Result] = Future()
        self._start()
        self._waiting.put((future, there))
        try:
            while not wait([future], POLL).done:
                if stopped() and future.cancel():
                    return None
            return future.result()
        finally:
            del future  # an error would hold it, and it the error

    def _here(self, work: Callable[[], Result], stopped: Callable[[], bool]) -> Result | None:
        while not self._turn.acquire(timeout=POLL):
            if stopped():
                return None
        try:
            return work()
        finally:
            self._turn.release()

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=_serve, args=(self._waiting, self._turn), name=f"model on {self.name}", daemon=True
                )
                self._thread.start()


def _serve(waiting: queue.SimpleQueue[Waiting], turn: threading.RLock) -> None:
    while True:
        _next(*waiting.get(), turn)  # a call of its own, so that nothing is kept while the next is waited for


def _next(future: Future[Any], work: Callable[[], Any], turn: threading.RLock) -> None:
    try:
        with turn:
            if future.set_running_or_notify_cancel():
                future.set_result(work())
    except BaseException as error:
        future.set_exception(error)
        del future, work  # an error would hold them, and they the error


def apart(work: Callable[[], Result]) -> Result:
    """work() in a thread that is gone afterwards, and torch's workers of that thread with it; no queue waits for it."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(contextvars.copy_context().run, work).result()


@cache
def queue_for(device: str) -> DeviceQueue:
    """The queue of a device, such as "cpu" or "cuda:0"."""
    return DeviceQueue(device)
