"""Decoding what strangers send, in a few child processes that no file can bring the server down with.

    from qformer_viz.media.decode_pool import decode
    decode("upload.png").image

A child has limits of its own on processor time and memory (`qformer_viz.media.decoder_process`) and is watched from
here as well, which is all there is where the system sets no limits. A child that breaks one is ended and replaced.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from qformer_viz.errors import ImageError
from qformer_viz.media import decoder_process, image_decoder, video
from qformer_viz.media.decoder_handle import NOT_STARTED, Broken, Child
from qformer_viz.media.image_decoder import Decoded
from qformer_viz.media.image_files import MAX_BYTES, file_bytes

if TYPE_CHECKING:
    from qformer_viz.types import ImageSource, OneSource

CHILDREN = 8
"""Files that are decoded at once; a further one waits for the next free child. More than there are processors, so that
several slow files leave room for the quick ones of others."""
IDLE = 2
"""Children that are kept for the next files."""
SECONDS = 1.25
"""Processor time for one file; with what the server spends on it, and on a new child if need be, it stays below 2."""
WALL = 30.0
"""Seconds after which a child is ended that gets no processor time, or waits for something."""
MEMORY = 360 * 2**20
"""Bytes for one file above what the child has when idle. What the server holds meanwhile keeps the sum below 400 MB."""

_log = logging.getLogger(__name__)


def decode(
    source: ImageSource, *, max_pixels: int = image_decoder.MAX_PIXELS, max_bytes: int = MAX_BYTES
) -> Decoded:
    """As `qformer_viz.decode`, but files are decoded in a child process with limits. Pictures and arrays that are
    already in memory are converted here.

    Raises:
        ImageError: for anything that is not an acceptable picture, or costs too much to decode.
    """
    options = {"max_pixels": max_pixels, "max_bytes": max_bytes}
    if isinstance(source, (list, tuple)):
        seen = set(video.sample(len(source)))
        each: OneSource
        film: list[OneSource] = []
        for index, each in enumerate(source):
            film.append(decode(each, **options).image if index in seen else each)
        return image_decoder.decode(film, **options)
    if isinstance(source, (Decoded, Image.Image, np.ndarray)):
        return image_decoder.decode(source, **options)
    return pool().decode(file_bytes(source, max_bytes), options)


def warm() -> None:
    """Start a first child now, without waiting for it, so that the first upload need not."""
    pool().warm()


def unset_limits() -> tuple[str, ...]:
    """What this system does not limit by itself, a sentence each; those limits hold within the time of a look from
    outside."""
    return tuple(
        f"No limit can be set on the {what} of a process here: the server looks {1 / _pause():.0f} times a second."
        for what, known in decoder_process.system_limits().items()
        if not known
    )


def pool() -> Pool:
    """The pool of this process, made when it is first asked for."""
    global _pool
    with _making:
        if _pool is None:
            _pool = Pool()
            atexit.register(_pool.close)
            for sentence in unset_limits():
                _log.warning(sentence)
        return _pool


def _after_fork() -> None:
    """A copy of this process talks to children of its own; those of the original are neither used nor ended."""
    global _pool, _making
    _inherited.append(_pool)
    _pool, _making = None, threading.Lock()


_pool: Pool | None = None
_inherited: list[Pool | None] = []
_making = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Pool:
    """At most `children` processes, started when they are needed, each for one file at a time."""

    def __init__(
        self, children: int = CHILDREN, seconds: float = SECONDS, wall: float = WALL, memory: int = MEMORY
    ) -> None:
        self._limits = (seconds, wall, memory)
        self._free = threading.Semaphore(children)
        self._changed = threading.Condition()
        self._idle: list[Child] = []
        self._busy: set[Child] = set()
        self._watcher: threading.Thread | None = None
        self._closed = False

    def decode(self, data: bytes, options: dict[str, int] | None = None) -> Decoded:
        """Decode a file's bytes. options: those of `qformer_viz.decode`. Raises ImageError."""
        with self._free:
            try:
                return self._ask(data, options or {})
            except Broken as error:
                # Ended before it had the file: not the file's doing.
                if error.asked:
                    raise ImageError(str(error)) from error
            try:
                return self._ask(data, options or {})
            except Broken as error:
                raise ImageError(str(error)) from error

    def _ask(self, data: bytes, options: dict[str, int]) -> Decoded:
        child = self._take()
        try:
            return child.ask(data, options)
        except ImageError:
            raise
        except Broken as error:
            error.args = (child.why(error.ended),)
            child.close()
            _log.info("A decoder is replaced.", exc_info=error)
            raise
        except BaseException:
            child.close()
            raise
        finally:
            self._give(child)

    def warm(self) -> None:
        with self._changed:
            if not self._idle and not self._busy:
                self._idle.append(self._start())

    def processes(self) -> list[int]:
        """Process numbers of all children."""
        with self._changed:
            return [child.process.pid for child in (*self._idle, *self._busy)]

    def close(self) -> None:
        """End all children."""
        with self._changed:
            self._closed = True
            children = [*self._idle, *self._busy]
            self._idle.clear()
            self._changed.notify_all()
        for child in children:
            child.close()

    def _start(self) -> Child:
        try:
            return Child(*self._limits)
        except OSError as error:
            _log.exception("No decoder could be started.")
            raise ImageError(NOT_STARTED.format(error.strerror)) from error

    def _take(self) -> Child:
        with self._changed:
            child = None
            while self._idle and child is None:
                child = self._idle.pop()
                if not child.alive:  # something else ended it
                    child.close()
                    child = None
            child = child or self._start()
            self._busy.add(child)
            if self._watcher is None:
                self._watcher = threading.Thread(target=self._watch, name="decode-watch", daemon=True)
                self._watcher.start()
            self._changed.notify_all()
            return child

    def _give(self, child: Child) -> None:
        """Keep a child for the next file, or end it: where it is slow for good, or enough are kept. Where none is left,
        start the next, so that nobody waits for that."""
        with self._changed:
            self._busy.discard(child)
            if not self._closed and child.alive and not child.slow and len(self._idle) < IDLE:
                self._idle.append(child)
                return
            child.close()
            if not self._closed and not self._idle:
                with suppress(ImageError):  # logged; whoever comes next is told, if it still fails then
                    self._idle.append(self._start())

    def _watch(self) -> None:
        pause = _pause()
        while True:
            with self._changed:
                while not self._busy and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                busy = tuple(self._busy)
            for child in busy:
                child.look()
            time.sleep(pause)


def _pause() -> float:
    """Seconds between looks at the children; shorter where the system limits nothing by itself."""
    return 0.1 if all(decoder_process.system_limits().values()) else 0.02
