"""Damaged files of every accepted kind, and bombs, through the decoder that the app uses.

    python -m tests.campaigns.uploads --count 10000 --seed 1

Prints what went wrong, and the most that one file cost the server and its children together. 1 is returned where
anything is over its limit. Needs Linux, where the memory that processes have had at most can be read.
"""

import argparse
import contextlib
import io
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from qformer_viz.errors import ImageError
from qformer_viz.media import decode_pool, image_decoder, video
from qformer_viz.media.image_decoder import Decoded
from tests.campaigns import seeds
from tests.campaigns.bombs import BOMBS

SECONDS, MEMORY = 2.0, 400e6
"""What one file may cost: processor time, and bytes above idle."""


@dataclass
class Findings:
    """accepted, refused: files; the lists name the files that broke a promise; seconds and memory: (most, file)."""

    accepted: int = 0
    refused: int = 0
    bombs: int = 0
    lost: list[str] = field(default_factory=list)
    exceptions: list[str] = field(default_factory=list)
    wrong_size: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    unlike: list[str] = field(default_factory=list)
    seconds: tuple[float, str] = (0.0, "")
    memory: tuple[float, str] = (0.0, "")

    def hold(self) -> bool:
        """Whether every promise was kept."""
        broken = self.lost or self.exceptions or self.wrong_size or self.damaged or self.unlike
        return not broken and self.seconds[0] <= SECONDS and self.memory[0] <= MEMORY

    def __str__(self) -> str:
        lists = {
            "sound files refused": self.lost,
            "exceptions other than the user's error": self.exceptions,
            "wrong size": self.wrong_size,
            "accepted although damaged": self.damaged,
            "unlike the decode in the process": self.unlike,
        }
        lines = [f"{self.accepted + self.refused} files, {self.bombs} bombs among them"]
        lines += [f"accepted {self.accepted}, refused {self.refused}"]
        lines += [f"{name}: {len(files)} {' '.join(files[:9])}".rstrip() for name, files in lists.items()]
        lines += [f"most processor time: {self.seconds[0]:.2f} s ({self.seconds[1]})"]
        lines += [f"most memory above idle: {self.memory[0] / 1e6:.0f} MB ({self.memory[1]})"]
        return "\n".join(lines)


def run(count: int, seed: int, bombs: bool = True, progress: int = 0) -> Findings:
    """Decode `count` damaged files, every sound one and the bombs. progress: a line after so many files; 0 for none."""
    findings, began = Findings(), time.monotonic()
    with contextlib.closing(decode_pool.Pool(children=1)) as pool:
        costs = Costs(pool)
        for number, (name, data) in enumerate(files(count, seed, bombs)):
            bomb = name.startswith("bomb ")
            findings.bombs += bomb
            _try(name, data, pool, costs, findings, compare=not bomb)
            if progress and number % progress == progress - 1:
                print(f"{number + 1} files, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return findings


def files(count: int, seed: int, bombs: bool) -> Iterator[tuple[str, bytes]]:
    """(name, content): sound files, then the bombs, then damaged ones."""
    sound = seeds.sound_files()
    yield from sound.items()
    if bombs:
        yield from ((f"bomb {name}", make()) for name, make in BOMBS.items())
    names, rng = list(sound), np.random.default_rng(seed)
    for number in range(count):
        name, other = rng.choice(names, 2)
        yield f"{name}#{number}", seeds.damaged(sound[name], sound[other], rng)


def _try(
    name: str, data: bytes, pool: decode_pool.Pool, costs: "Costs", findings: Findings, compare: bool
) -> None:
    decoded = None
    with costs.of(name, findings):
        try:
            decoded = pool.decode(data)
        except ImageError as error:
            findings.refused += 1
            if compare and "#" not in name:
                findings.lost.append(f"{name}: {error}")
        except Exception as error:
            findings.exceptions.append(f"{name}: {error!r}")
    if decoded is None:
        return
    findings.accepted += 1
    with silence():
        _judge(name, data, decoded, findings, compare)


def _judge(name: str, data: bytes, decoded: Decoded, findings: Findings, compare: bool) -> None:
    """What is wrong with a file that was accepted."""
    if compare:
        same = image_decoder.decode(data)
        if (same.sha256, same.size, same.notices) != (decoded.sha256, decoded.size, decoded.notices):
            findings.unlike.append(name)
    if video.container(data):
        return
    size, whole = reread(data, decoded)
    if decoded.size not in (size, size[::-1]):
        findings.wrong_size.append(f"{name}: {decoded.size} for {size}")
    if compare and not whole:
        findings.damaged.append(name)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """What codecs print to standard error about damaged files goes nowhere."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def reread(data: bytes, decoded: Decoded) -> tuple[tuple[int, int], bool]:
    """(size in the header, whether Pillow alone reads everything that is shown without an error).

    A still picture is read twice, onto black and onto white: pixels that nobody wrote differ.
    """
    with Image.open(io.BytesIO(data), formats=image_decoder.FORMATS) as picture:
        size = picture.size
    if size[0] * size[1] > image_decoder.EXACT:
        return size, True
    try:
        if decoded.video is not None:
            with Image.open(io.BytesIO(data)) as picture:
                for moment in range(int(decoded.video.timestamps[-1].split()[1])):
                    picture.seek(moment)
                    picture.load()
            return size, True
        black, white = (_onto(value, data) for value in (0, 255))
        return size, black == white
    except Exception:
        return size, False


def _onto(value: int, data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as picture:
        if picture.format == "PNG" and picture.mode in ("1", "L", "P", "RGB", "RGBA", "LA"):
            ink = value if len(picture.getbands()) == 1 else (value,) * len(picture.getbands())
            picture.im = Image.core.fill(picture.mode, picture.size, ink)
        picture.load()
        return picture.tobytes()


class Costs:
    """Processor time and memory of this process and a pool's children, measured around single files."""

    def __init__(self, pool: decode_pool.Pool) -> None:
        self.pool, self.me = pool, psutil.Process()
        self.small = seeds.picture("PNG", "RGB", {})
        pool.decode(self.small)

    @contextlib.contextmanager
    def of(self, name: str, findings: Findings) -> Iterator[None]:
        """Measure what is done inside. A child that had to be replaced is paid for by this file too."""
        children = self.pool.processes()
        idle, spent = self._held(), self._spent()
        for pid in (self.me.pid, *children):
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # what it has had at most counts from now
        with _most(self._held) as seen:
            yield
        peaks = [_peak(pid) for pid in (self.me.pid, *self.pool.processes())]
        most = max(seen[0], sum(peaks))
        if self.pool.processes() != children:
            self.pool.decode(self.small)
        findings.seconds = max(findings.seconds, (self._spent() - spent - seen[1], name))
        findings.memory = max(findings.memory, (float(most - idle), name))

    def _spent(self) -> float:
        mine = self.me.cpu_times()
        theirs = sum(sum(_times(pid)) for pid in self.pool.processes())
        return mine.user + mine.system + mine.children_user + mine.children_system + theirs

    def _held(self) -> int:
        return sum(_resident(pid) for pid in (self.me.pid, *self.pool.processes()))


def _times(pid: int) -> Iterable[float]:
    try:
        return psutil.Process(pid).cpu_times()[:2]
    except psutil.Error:
        return (0.0,)


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
    except (OSError, IndexError):
        return 0


def _peak(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


@contextlib.contextmanager
def _most(measure: Callable[[], int]) -> Iterator[list[float]]:
    """[the largest that `measure` has given, asked every few milliseconds, processor time that the asking took]."""
    seen, done = [measure(), 0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            seen[0] = max(seen[0], measure())
        seen[1] = time.thread_time()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def main(argv: list[str] | None = None) -> int:
    """1 where a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=10000, help="damaged files [%(default)s]")
    parser.add_argument("--seed", type=int, default=1, help="which damage is done [%(default)s]")
    args = parser.parse_args(argv)
    findings = run(args.count, args.seed, progress=1000)
    print(findings)
    return 0 if findings.hold() else 1


if __name__ == "__main__":
    sys.exit(main())
