"""A running computation as an iterator of growing answers, with a thread that never outlives it."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable, Iterator

from qformer_viz.types import Answer

Emit = Callable[[Answer], None]
Stopped = Callable[[], bool]


def stream(work: Callable[[Emit, Stopped], Answer], stop: threading.Event | None) -> Iterator[Answer]:
    """Run `work` in a thread of its own; yield what it emits, then what it returns.

    The thread starts at the first `next` and is joined when the iterator ends, is closed or is dropped; an
    error in it is raised here. It sees the context variables of the caller.
    """
    abandoned = threading.Event()
    results: queue.SimpleQueue = queue.SimpleQueue()

    def stopped() -> bool:
        return abandoned.is_set() or (stop is not None and stop.is_set())

    def run() -> None:
        try:
            answer = work(lambda partial: results.put((False, partial)), stopped)
            results.put((True, answer))
        except BaseException as error:
            results.put((True, error))

    context = contextvars.copy_context()
    worker = threading.Thread(target=context.run, args=(run,), name="qformer-stream", daemon=True)
    worker.start()
    try:
        last = False
        while not last:
            last, item = results.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        abandoned.set()
        worker.join()
