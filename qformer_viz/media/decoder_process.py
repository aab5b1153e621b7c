"""The child process that decodes uploads: bytes in, RGB pixels out, until its input ends.

A request is two lengths, JSON and the file; a reply is a length, JSON and the pixels of all frames. No pickles.
The system ends this process when one file takes too long, however it does it, and refuses it memory beyond a limit.
Started by `qformer_viz.media.decode_pool`; loads neither torch nor transformers.
"""

from __future__ import annotations

import json
import os
import select
import signal
import struct
import sys
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

REQUEST, REPLY = struct.Struct(">IQ"), struct.Struct(">I")
READY = b"qformer-viz decoder\n"
PARENT_CHECK = 5.0
"""Seconds between looks at whether the parent still lives; a copy of it may hold the pipe open."""

_STATM = Path("/proc/self/statm")


def system_limits() -> dict[str, bool]:
    """Which limits this system can set on a process from within: on its processor time, and on its memory."""
    return {"processor time": hasattr(signal, "setitimer"), "memory": _STATM.exists()}


class Limits:
    """What one file may take, set before every request.

    Args:
        seconds: of processor time.
        wall: seconds until the process ends, whatever it waits for.
        memory: bytes of address space above what the process has when it is idle.
    """

    def __init__(self, seconds: float, wall: float, memory: int) -> None:
        self.seconds, self.wall, self.memory = seconds, wall, memory
        self.set_memory()

    def set_memory(self) -> None:
        """Count from what is mapped now."""
        if system_limits()["memory"]:
            import resource

            mapped = int(_STATM.read_text().split()[0]) * resource.getpagesize()
            hard = resource.getrlimit(resource.RLIMIT_AS)[1]
            soft = mapped + self.memory
            resource.setrlimit(resource.RLIMIT_AS, (soft if hard < 0 else min(soft, hard), hard))

    def start(self) -> None:
        """Both timers end the process by signals that nothing here handles."""
        self._timers(self.seconds, self.wall)

    def stop(self) -> None:
        self._timers(0, 0)

    def _timers(self, seconds: float, wall: float) -> None:
        if system_limits()["processor time"]:
            signal.setitimer(signal.ITIMER_PROF, seconds)
            signal.setitimer(signal.ITIMER_REAL, wall)


def main(seconds: float, wall: float, memory: int) -> None:
    """Serve requests from standard input until it ends, or the parent does."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is for the parent, which ends this process by its pipe
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    source = sys.stdin.buffer
    sink = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    from qformer_viz.media import image_decoder

    _warm(image_decoder)
    sink.write(READY)
    sink.flush()
    # From here on codecs may print what they like.
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    limits, parent = Limits(seconds, wall, memory), os.getppid()
    while _wait(parent) and len(head := source.read(REQUEST.size)) == REQUEST.size:
        options_length, length = REQUEST.unpack(head)
        options = source.read(options_length)
        limits.start()
        data = source.read(length)
        if len(data) < length:
            break
        _serve(data, json.loads(options), sink, limits)
        limits.stop()


def _wait(parent: int) -> bool:
    """Until there is something to read, or the end of it; False once the parent is gone."""
    if sys.platform == "win32":  # pipes cannot be waited for there
        return True
    while not select.select([sys.stdin.fileno()], [], [], PARENT_CHECK)[0]:
        if os.getppid() != parent:
            return False
    return True


def _serve(data: bytes, options: dict, sink: BinaryIO, limits: Limits) -> None:
    from qformer_viz.errors import ImageError
    from qformer_viz.media import image_decoder, video

    if video.container(data) and video.can_read_videos():
        import av  # noqa: F401  its code is no cost of this file's

        limits.set_memory()
    try:
        decoded = image_decoder.decode(data, **options)
    except ImageError as error:
        text = json.dumps({"error": str(error)}).encode()
        sink.write(REPLY.pack(len(text)) + text)
    else:
        film = decoded.video and {"timestamps": decoded.video.timestamps, "length": decoded.video.length}
        text = json.dumps(
            {
                "size": decoded.size,
                "notices": decoded.notices,
                "frames": [frame.size for frame in decoded.frames],
                "film": film,
            }
        ).encode()
        sink.write(REPLY.pack(len(text)) + text)
        for frame in decoded.frames:
            sink.write(frame.tobytes())
    sink.flush()


def _warm(images: ModuleType) -> None:
    """Load what every picture needs, so that the first one does not wait for it."""
    import io

    from PIL import GifImagePlugin, Image, MpoImagePlugin, TiffImagePlugin, WebPImagePlugin  # noqa: F401

    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    images.decode(file.getvalue())
