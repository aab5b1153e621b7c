"""Decoding what strangers send, in a few child processes that no file can bring the server down with.

    from model.decode_pool import decode
    decode("upload.png").image

A child has limits of its own on processor time and memory (`model.decode_worker`) and is watched from here as well,
which is all there is where the system sets no limits. A child that breaks one is ended and replaced.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from model import decode_worker, heap_fill, images
from model.decode_worker import READY, REPLY, REQUEST
from model.errors import ImageError
from model.films import FRAMES, Film
from model.images import Decoded

CHILDREN = 3
"""Files that are decoded at once; a further one waits for the next free child."""
SECONDS = 1.4
"""Processor time for one file; with what the server spends on it, and on a new child if need be, it stays below 2."""
WALL = 30.0
"""Seconds after which a child is ended that gets no processor time, or waits for something."""
SLACK = 0.1
"""Seconds by which the system's own limit comes before the one that is watched from here."""
START = 60.0
"""Seconds after which a child is ended that is not ready for a first file."""
MEMORY = 360 * 2**20
"""Bytes for one file above what the child has when idle. What the server holds meanwhile keeps the sum below 400 MB."""

TOO_LONG = (
    "This file takes more than 2 seconds of processor time to decode, as files do that are very large or were made to. "
    "Save it again as an ordinary JPEG or PNG of at most 24 megapixels, or a short video, and upload it again."
)
TOO_LARGE = (
    "This file takes more than 400 MB of memory to decode. Save it again as an ordinary JPEG or PNG of at most 24 "
    "megapixels and upload it again."
)
BROKEN = (
    "This file made its decoder stop ({}), as damaged files do. Open and save it again as PNG or JPEG, and upload it "
    "again."
)
NOT_STARTED = (
    "No picture can be opened at the moment ({}). Try again in a minute; if it lasts, tell whoever runs the "
    "server."
)
_MAX_REPLY = 2**16
_log = logging.getLogger(__name__)


def decode(source: Any, *, max_pixels: int = images.MAX_PIXELS, max_bytes: int = images.MAX_BYTES) -> Decoded:
    """As `model.decode`, but files are decoded in a child process with limits. Pictures and arrays that are already in
    memory are converted here.

    Raises:
        ImageError: for anything that is not an acceptable picture, or costs too much to decode.
    """
    if isinstance(source, (Decoded, list, tuple, Image.Image, np.ndarray)):
        return images.decode(source, max_pixels=max_pixels, max_bytes=max_bytes)
    data = images.file_bytes(source, max_bytes)
    options = {"max_pixels": max_pixels, "max_bytes": max_bytes}
    return pool().decode(data, options)


def warm() -> None:
    """Start a first child now, without waiting for it, so that the first upload need not."""
    pool().warm()


def unset_limits() -> tuple[str, ...]:
    """What this system does not limit by itself, a sentence each; those limits hold within the time of a look from
    outside."""
    return tuple(
        f"No limit can be set on the {what} of a process here: the server looks {1 / _pause():.0f} times a second."
        for what, known in decode_worker.system_limits().items()
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


class Broken(Exception):
    """A child ended or answered nonsense. asked: whether it had the file by then; ended: whether it is the former."""

    def __init__(self, message: str, asked: bool, ended: bool) -> None:
        super().__init__(message)
        self.asked, self.ended = asked, ended


class Child:
    """One process that decodes one file at a time."""

    def __init__(self, seconds: float, wall: float, memory: int) -> None:
        self.limits, self.reason, self.began, self.asked = (seconds, wall, memory), "", 0.0, False
        self._ready, self._idle_memory, self._spent = False, 0, 0.0
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        # -P: a folder in which somebody starts the server is no place to import from.
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", _code(seconds, wall, memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | one_thread | heap_fill.UNCACHED | {"PYTHONWARNINGS": "ignore"},
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        self._end = weakref.finalize(self, _end, self.process, os.getpid())

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def close(self) -> None:
        self._end()

    def ask(self, data: bytes, options: dict[str, int]) -> Decoded:
        """Decode in the child. Raises ImageError if it refuses the file, Broken if it answers nothing sensible."""
        self.began, self.reason, self.asked = time.monotonic(), "", False
        try:
            self._await()
            self.began = time.monotonic()
            self._send(data, options)
            self.asked = True
            del data
            return self._reply()
        except (OSError, EOFError, ValueError, KeyError, TypeError, RecursionError) as error:
            ended = isinstance(error, (OSError, EOFError))
            raise Broken(f"{type(error).__name__}: {error}", self.asked, ended) from error
        finally:
            self.began = 0.0

    def kill(self, reason: str) -> None:
        self.reason = reason
        self.process.kill()

    def look(self) -> None:
        """End the child where it is over a limit. For another thread, again and again while `ask` waits."""
        seconds, wall, memory = self.limits
        if not self.began:
            return
        if time.monotonic() - self.began > (wall if self._ready else START):
            self.kill(TOO_LONG)
            return
        spent, held = _usage(self.process.pid)
        if self._ready and spent - self._spent > seconds + SLACK:
            self.kill(TOO_LONG)
        elif self._ready and held - self._idle_memory > memory:
            self.kill(TOO_LARGE)

    def why(self, ended: bool) -> str:
        """What to tell the owner of the file that this child did not survive. ended: whether it has ended by itself."""
        if not self._ready:
            return NOT_STARTED.format("its decoder does not start")
        if not ended:
            return BROKEN.format("it answered nonsense")
        code = self.process.wait()
        slow = {-getattr(signal, name, 0) for name in ("SIGPROF", "SIGALRM", "SIGXCPU")} - {0}
        return self.reason or (TOO_LONG if code in slow else BROKEN.format(f"it ended with code {code}"))

    def _await(self) -> None:
        if not self._ready and self._read(len(READY)) != READY:
            raise EOFError("it did not start")
        if not self._ready:
            _, self._idle_memory = _usage(self.process.pid)
        self._spent, _ = _usage(self.process.pid)
        self._ready = True

    def _send(self, data: bytes, options: dict[str, int]) -> None:
        text = json.dumps(options).encode()
        self.process.stdin.write(REQUEST.pack(len(text), len(data)) + text)
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def _reply(self) -> Decoded:
        (length,) = REPLY.unpack(self._read(REPLY.size))
        if length > _MAX_REPLY:
            raise ValueError(f"a reply of {length} bytes")
        reply = json.loads(self._read(length))
        if "error" in reply:
            raise ImageError(_text(reply["error"]))
        sizes = [_size(size, images.WORKING_SIDE) for size in reply["frames"]]
        film = reply["film"]
        if len(sizes) != (1 if film is None else FRAMES):
            raise ValueError(f"{len(sizes)} frames")
        digest, frames = hashlib.sha256(), []
        for width, height in sizes:
            pixels = self._read(3 * width * height)
            digest.update(f"{width}x{height}:".encode())
            digest.update(pixels)
            frames.append(Image.frombytes("RGB", (width, height), pixels))
        if film is not None:
            moments = tuple(_text(moment) for moment in film["moments"])
            if type(film["length"]) is not int:
                raise ValueError("a length that is no number")
            film = Film(tuple(frames), moments, film["length"])
        notices = tuple(_text(notice) for notice in reply["notices"])
        return Decoded(frames[0], digest.hexdigest(), _size(reply["size"], 2**31), notices, film)

    def _read(self, count: int) -> bytes:
        data = self.process.stdout.read(count)
        if len(data) < count:
            raise EOFError(f"{len(data)} bytes of {count}")
        return data


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
        """Decode a file's bytes. options: those of `model.decode`. Raises ImageError."""
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
        """Take a child back, or in place of one that has ended start the next, so that nobody waits for that."""
        with self._changed:
            self._busy.discard(child)
            if self._closed:
                child.close()
            elif child.alive:
                self._idle.append(child)
            elif not self._idle:
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
    return 0.1 if all(decode_worker.system_limits().values()) else 0.02


def _code(seconds: float, wall: float, memory: int) -> str:
    """What a child runs, from the same folder as this module, installed or not."""
    root = str(Path(__file__).resolve().parent.parent)
    return (
        f"import sys; sys.path.insert(0, {root!r}); from {__package__}.decode_worker import main; "
        f"main({seconds!r}, {wall!r}, {memory!r})"
    )


def _usage(pid: int) -> tuple[float, int]:
    """(processor time in seconds, bytes in memory) of a process; zeros once it is gone."""
    import psutil

    try:
        process = psutil.Process(pid)
        with process.oneshot():
            times = process.cpu_times()
            return times.user + times.system, process.memory_info().rss
    except psutil.Error:
        return 0.0, 0


def _end(process: subprocess.Popen, owner: int) -> None:
    """End a child of this process; in a copy of this process, leave it to the original."""
    if os.getpid() != owner:
        return
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        with suppress(OSError):  # what was not sent is lost with its reader
            stream.close()


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{type(value).__name__} for a text")
    return value


def _size(value: object, most: int) -> tuple[int, int]:
    width, height = value
    if not (type(width) is type(height) is int and 1 <= width <= most and 1 <= height <= most):
        raise ValueError("a size out of range")
    return width, height
