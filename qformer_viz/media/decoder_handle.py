"""The parent's side of one process that decodes uploads: start it, ask it, look after it, judge what it answers."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import weakref
from contextlib import suppress
from pathlib import Path

from PIL import Image

from qformer_viz.errors import ImageError
from qformer_viz.media import heap_fill, image_decoder
from qformer_viz.media.decoder_process import READY, REPLY, REQUEST
from qformer_viz.media.image_decoder import Decoded
from qformer_viz.media.video import FRAMES, Video

SLACK = 0.1
"""Seconds by which the system's own limit comes before the one that is watched from here."""
SLOW = 0.25
"""Seconds of processor time after which a file gives way: its child runs only where nothing else wants to."""
START = 60.0
"""Seconds after which a child is ended that is not ready for a first file."""
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


class Broken(Exception):
    """A child ended or answered nonsense. asked: whether it had the file by then; ended: whether it is the former."""

    def __init__(self, message: str, asked: bool, ended: bool) -> None:
        super().__init__(message)
        self.asked, self.ended = asked, ended


class Child:
    """One process that decodes one file at a time."""

    def __init__(self, seconds: float, wall: float, memory: int) -> None:
        self.limits, self.reason, self.began, self.asked = (seconds, wall, memory), "", 0.0, False
        self.slow = False
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
        assert self.process.stdin is not None and self.process.stdout is not None, "both are pipes"
        self._stdin, self._stdout = self.process.stdin, self.process.stdout
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
        """End the child where it is over a limit, and let it give way to others where its file is slow. For another
        thread, again and again while `ask` waits."""
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
        elif self._ready and spent - self._spent > SLOW and not self.slow:
            self.slow = True
            _give_way(self.process.pid)

    def why(self, ended: bool) -> str:
        """What to tell the owner of the file that this child did not survive. ended: whether it has ended by itself."""
        if not self._ready:
            return NOT_STARTED.format("its decoder does not start")
        try:
            code = self.process.wait(5 if ended else 0)
        except subprocess.TimeoutExpired:
            return BROKEN.format("it answered nonsense")
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
        self._stdin.write(REQUEST.pack(len(text), len(data)) + text)
        self._stdin.write(data)
        self._stdin.flush()

    def _reply(self) -> Decoded:
        (length,) = REPLY.unpack(self._read(REPLY.size))
        if length > _MAX_REPLY:
            raise ValueError(f"a reply of {length} bytes")
        reply = json.loads(self._read(length))
        if "error" in reply:
            raise ImageError(_text(reply["error"]))
        sizes = [_size(size, image_decoder.WORKING_SIDE) for size in reply["frames"]]
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
            timestamps = tuple(_text(moment) for moment in film["timestamps"])
            if type(film["length"]) is not int:
                raise ValueError("a length that is no number")
            film = Video(tuple(frames), timestamps, film["length"])
        notices = tuple(_text(notice) for notice in reply["notices"])
        return Decoded(frames[0], digest.hexdigest(), _size(reply["size"], 2**31), notices, film)

    def _read(self, count: int) -> bytes:
        data = self._stdout.read(count)
        if len(data) < count:
            raise EOFError(f"{len(data)} bytes of {count}")
        return data


def _code(seconds: float, wall: float, memory: int) -> str:
    """What a child runs. Of the package it imports `media` only: the package itself would load torch."""
    folder = str(Path(__file__).resolve().parents[1])
    return (
        "import sys, types; package = types.ModuleType('qformer_viz'); "
        f"package.__path__ = [{folder!r}]; sys.modules['qformer_viz'] = package; "
        "from qformer_viz.media.decoder_process import main; "
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


def _give_way(pid: int) -> None:
    """Give a process the lowest priority; for good, since only an administrator may raise one again."""
    import psutil

    with suppress(psutil.Error):  # it has ended, or the system does not let us
        psutil.Process(pid).nice(getattr(psutil, "IDLE_PRIORITY_CLASS", 19))


def _end(process: subprocess.Popen, owner: int) -> None:
    """End a child of this process; in a copy of this process, leave it to the original."""
    if os.getpid() != owner:
        return
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        with suppress(OSError):  # what was not sent is lost with its reader
            if stream is not None:
                stream.close()


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{type(value).__name__} for a text")
    return value


def _size(value: object, most: int) -> tuple[int, int]:
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{type(value).__name__} for a size")
    width, height = value
    if not (type(width) is type(height) is int and 1 <= width <= most and 1 <= height <= most):
        raise ValueError("a size out of range")
    return width, height
