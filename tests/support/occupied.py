"""Keeps a lane busy while something else is tried."""

import threading
from contextlib import contextmanager


@contextmanager
def occupied(queue_for):
    begun, over = threading.Event(), threading.Event()

    def work():
        begun.set()
        over.wait(30)

    thread = threading.Thread(target=queue_for.run, args=(work,), daemon=True)
    thread.start()
    begun.wait(30)
    try:
        yield
    finally:
        over.set()
        thread.join(30)
