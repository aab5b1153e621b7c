"""Run compiled code as it was written: a module that `torch.compile` has compiled and that is warm calls no hooks."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from qformer_viz.errors import InsideCompiled

# The compiler's stance belongs to the process. Blocks of several threads overlap in any order, so the first to enter
# sets the stance and the last to leave restores it.
_lock = threading.Lock()
_inside = 0
_restore = ExitStack()


@contextmanager
def uncompiled() -> Iterator[None]:
    """Inside the block nothing runs compiled, in no thread of the process; the stance that was set comes back after.

    Raises InsideCompiled where a compiled function enters the block.
    """
    global _inside
    with _lock:
        if not _inside:
            try:
                _restore.enter_context(torch.compiler.set_stance("force_eager"))
            except RuntimeError as error:
                if "in a torch.compile region" not in str(error):
                    raise
                raise InsideCompiled(
                    "a function that torch.compile has compiled, and that records inside",
                    "the recording around the compiled call",
                    "enter `with qformer_viz.capture(model)` outside, and call the compiled function in the block",
                ) from None
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _restore.close()
