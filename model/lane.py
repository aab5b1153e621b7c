"""One thread for each device, in which everything that runs a model runs, one after another.

Every thread that runs torch on the CPU gets workers of its own, and where there are more workers than cores, OpenMP
stops keeping them awake between two operations. A small model is a third slower for it, so all of them share one.
"""

from __future__ import annotations

import contextvars
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from typing import TypeVar

import torch

Result = TypeVar("Result")
POLL = 0.05


class Lane:
    """Callers wait in line. The work sees the caller's context variables and whether it computes gradients."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._process = 0

    def run(self, work: Callable[[], Result], stopped: Callable[[], bool] = lambda: False) -> Result | None:
        """What work() returns or raises; None if `stopped()` became true before its turn came.

        Work that asks for work is not made to wait for itself.
        """
        if threading.current_thread() is self._thread:
            return work()
        context, gradients = contextvars.copy_context(), torch.is_grad_enabled()

        def there() -> Result:
            with torch.set_grad_enabled(gradients):
                return context.run(work)

        future: Future | None = Future()
        self._queue().put((future, there))
        try:
            while not wait([future], POLL).done:
                if stopped() and future.cancel():
                    return None
            return future.result()
        finally:
            future = None  # an error would hold it, and it the error

    def _queue(self) -> queue.SimpleQueue:
        """The queue of a living thread: a forked process starts with none."""
        with self._starting:
            if self._process != os.getpid():
                self._process, self._waiting = os.getpid(), queue.SimpleQueue()
                self._thread = threading.Thread(
                    target=_serve, args=(self._waiting,), name=f"model on {self.name}", daemon=True
                )
                self._thread.start()
            return self._waiting


def _serve(waiting: queue.SimpleQueue) -> None:
    while True:
        _next(*waiting.get())  # a call of its own, so that nothing of it is kept while the next is waited for


def _next(future: Future, work: Callable[[], object]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(work())
    except BaseException as error:
        future.set_exception(error)
        del future, work  # an error would hold them, and they the error


def apart(work: Callable[[], Result]) -> Result:
    """work() in a thread that is gone afterwards, and torch's workers of that thread with it; no lane waits for it."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(contextvars.copy_context().run, work).result()


@cache
def lane(device: str) -> Lane:
    """The lane of a device, such as "cpu" or "cuda:0"."""
    return Lane(device)
