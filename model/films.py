"""Which frames of a moving picture a model sees, and reading them. `model.images` decides what is read at all.

Loads neither torch nor, before a video arrives, PyAV.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from model.errors import ImageError

FRAMES = 4
"""What InstructBLIP's checkpoints are given of a video (transformers' InstructBlipVideo)."""

MAX_PIXELS = 200_000_000
"""Most pixels that are decoded in search of the frames: frames of an animation build on one another."""

MAX_SIZE = 9_500_000
"""Most pixels of a video's frame, a little over 4096 × 2304."""


@dataclass(frozen=True, eq=False)
class Film:
    """frames: the pictures that are seen, in order; moments: a word or two on when each is; length: frames of the
    source, 0 where the file does not say."""

    frames: tuple[Image.Image, ...]
    moments: tuple[str, ...]
    length: int

    @property
    def notice(self) -> str:
        if self.length == len(self.frames):
            return f"A film: its {self.length} frames are seen."
        whole = f" of {self.length}" if self.length else ""
        return f"A film: {len(self.frames)} frames{whole} are seen ({', '.join(self.moments)})."


def sample(length: int, count: int = FRAMES) -> list[int]:
    """`count` indices spread evenly from the first on, as transformers' documentation samples; some twice where there
    are fewer."""
    return [index * length // count for index in range(count)]


def animation(picture: Image.Image) -> Film | None:
    """The sampled frames of an animated picture, as its file has them; None where a frame is damaged, or where the
    first few alone are more than may be decoded. The picture is back at its first frame."""
    within = min(picture.n_frames, MAX_PIXELS // (picture.width * picture.height))
    if within < FRAMES < picture.n_frames:
        return None
    indices, frames = sample(within), {}
    try:
        for index in sorted(set(indices)):
            picture.seek(index)
            frames[index] = picture.copy()
    except Exception:
        return None  # the parsers raise whatever they like
    finally:
        picture.seek(0)
    moments = tuple(f"frame {index + 1}" for index in indices)
    return Film(tuple(frames[index] for index in indices), moments, picture.n_frames)


def pictures(given: Sequence[Image.Image], indices: Sequence[int], length: int) -> Film:
    """A film of pictures that came one by one."""
    sizes = {picture.size for picture in given}
    if len(sizes) != 1:
        told = ", ".join(f"{width} × {height}" for width, height in sorted(sizes))
        raise ImageError(
            f"The pictures of a film must have one size; these have {told}. Crop or resize them."
        )
    return Film(tuple(given), tuple(f"picture {index + 1}" for index in indices), length)


def container(data: bytes) -> str | None:
    """FFmpeg's name for the kind of video file that this is, or None. Playlists, which name other files, are none."""
    if data[4:8] == b"ftyp" and data[8:12] not in (b"heic", b"heix", b"avif", b"avis", b"mif1", b"msf1"):
        return "mov"
    if data[:4] == b"\x1aE\xdf\xa3":
        return "matroska"
    return "avi" if data[:4] == b"RIFF" and data[8:12] == b"AVI " else None


def can_read_videos() -> bool:
    return importlib.util.find_spec("av") is not None


def video(data: bytes, kind: str) -> Film:
    """The sampled frames of a video file, upright. Raises ImageError."""
    if not can_read_videos():
        raise ImageError(
            "This is a video, and reading videos needs PyAV, which is not installed here: pip install av. Or send an "
            "animated GIF or WebP."
        )
    import av

    try:
        with av.open(io.BytesIO(data), format=kind) as file:
            return _frames(file)
    except av.FFmpegError as error:
        raise ImageError(
            f"This video cannot be read ({error.strerror}). Save it again as MP4 (H.264) or WebM, or send an animated "
            "GIF."
        ) from error


def _frames(file: Any) -> Film:
    if not file.streams.video:
        raise ImageError("This file has no pictures in it, only sound. Send one that has.")
    stream = file.streams.video[0]
    start = float((stream.start_time or 0) * stream.time_base)
    seconds = float(stream.duration * stream.time_base) if stream.duration else (file.duration or 0) / 1e6
    found = [_frame(file, stream, start + index * seconds / FRAMES) for index in range(FRAMES)]
    moments = tuple(f"{max(0.0, frame.time - start):.1f} s" for frame in found)
    frames = tuple(frame.to_image().rotate(frame.rotation, expand=True) for frame in found)
    return Film(frames, moments, stream.frames)


def _frame(file: Any, stream: Any, moment: float) -> Any:
    """The frame that is on screen at a moment, in seconds; the last one where the file says it is longer than it is."""
    file.seek(int(moment / stream.time_base), stream=stream)
    shown, decoded = None, 0
    for frame in file.decode(stream):
        if frame.width * frame.height > MAX_SIZE:
            raise ImageError(
                f"This video is {frame.width} × {frame.height}, too large. Reduce it to 1080 lines or fewer."
            )
        if shown is not None and (frame.time > moment + 1e-6 or decoded > MAX_PIXELS):
            break
        shown = frame
        decoded += frame.width * frame.height
    if shown is None:
        raise ImageError("This video ends before its first picture. Save it again, or send another one.")
    return shown
