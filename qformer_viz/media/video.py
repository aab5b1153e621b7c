"""Which frames of a video a model sees, and reading them. `qformer_viz.media.image_decoder` decides what is read.

Loads neither torch nor, before a video arrives, PyAV.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from qformer_viz.errors import ImageError

FRAMES = 4
"""What InstructBLIP's checkpoints are given of a video (transformers' InstructBlipVideo)."""

MAX_PIXELS = 200_000_000
"""Most pixels of an animation that are decoded in search of its frames, which build on one another."""

MAX_SOUGHT = 60_000_000
"""Most pixels of a video that are decoded in search of one frame, from the key frame before it on: a second of 1080
lines. Where key frames are further apart, the frame that was reached is shown, with the moment that it is from."""

MAX_CANVAS = 16_000_000
"""Most pixels of an animated picture's canvas, which its reader holds several times over; a larger one is shown as its
first frame."""

MAX_SIZE = 9_500_000
"""Most pixels of a video's frame, a little over 4096 × 2304."""


Keep = Callable[[Image.Image], Image.Image]
"""What becomes of a frame as soon as it is decoded: it is made small, so that no two are held at full size."""


@dataclass(frozen=True, eq=False)
class Video:
    """frames: the pictures that are seen, in order; moments: a word or two on when each is; length: frames of the
    source, 0 where the file does not say."""

    frames: tuple[Image.Image, ...]
    timestamps: tuple[str, ...]
    length: int

    @property
    def notice(self) -> str:
        if self.length == len(self.frames):
            return f"A film: its {self.length} frames are seen."
        whole = f" of {self.length}" if self.length else ""
        return f"A film: {len(self.frames)} frames{whole} are seen ({', '.join(self.timestamps)})."


def sample(length: int, count: int = FRAMES) -> list[int]:
    """`count` indices spread evenly from the first on, as transformers' documentation samples; some twice where there
    are fewer."""
    return [index * length // count for index in range(count)]


def sampled(length: int, size: tuple[int, int]) -> list[int] | None:
    """Which of `length` frames of an animated picture are seen; None where its canvas has more than MAX_CANVAS pixels,
    or where the first few frames alone are more than may be decoded."""
    area = size[0] * size[1]
    within = min(length, MAX_PIXELS // area)
    return None if within < FRAMES < length or area > MAX_CANVAS else sample(within)


def animation(picture: Image.Image, indices: Sequence[int], keep: Keep) -> Video | None:
    """Frames of an animated picture, as its file has them, each handed to `keep` as soon as it is decoded.

    None where a frame is damaged or enlarges the picture. The picture may then be left anywhere.
    """
    size, kept = picture.size, {}
    try:
        for index in range(indices[-1] + 1):
            picture.seek(index)
            if picture.size != size:
                return None
            if index in indices:
                kept[index] = keep(picture.copy())
    except MemoryError:
        raise
    except Exception:
        return None  # the parsers raise whatever they like
    picture.seek(0)
    timestamps = tuple(f"frame {index + 1}" for index in indices)
    return Video(tuple(kept[index] for index in indices), timestamps, getattr(picture, "n_frames", 1))


def pictures(given: Sequence[Image.Image], indices: Sequence[int], length: int) -> Video:
    """A film of pictures that came one by one."""
    sizes = {picture.size for picture in given}
    if len(sizes) != 1:
        listed = ", ".join(f"{width} × {height}" for width, height in sorted(sizes))
        raise ImageError(
            f"The pictures of a film must have one size; these have {listed}. Crop or resize them."
        )
    return Video(tuple(given), tuple(f"picture {index + 1}" for index in indices), length)


def container(data: bytes) -> str | None:
    """FFmpeg's name for the kind of video file that this is, or None. Playlists, which name other files, are none."""
    if data[4:8] == b"ftyp" and data[8:12] not in (b"heic", b"heix", b"avif", b"avis", b"mif1", b"msf1"):
        return "mov"
    if data[:4] == b"\x1aE\xdf\xa3":
        return "matroska"
    return "avi" if data[:4] == b"RIFF" and data[8:12] == b"AVI " else None


def can_read_videos() -> bool:
    return importlib.util.find_spec("av") is not None


def video(data: bytes, kind: str, keep: Keep) -> Video:
    """The sampled frames of a video file, upright, each handed to `keep` once it is decoded. Raises ImageError."""
    if not can_read_videos():
        raise ImageError(
            "This is a video, and reading videos needs PyAV, which is not installed here: pip install av. Or send an "
            "animated GIF or WebP."
        )
    import av

    try:
        with av.open(io.BytesIO(data), format=kind) as file:
            return _frames(file, keep)
    except av.FFmpegError as error:
        raise ImageError(
            f"This video cannot be read ({error.strerror}). Save it again as MP4 (H.264) or WebM, or send an animated "
            "GIF."
        ) from error


def _frames(file: Any, keep: Keep) -> Video:
    if not file.streams.video:
        raise ImageError("This file has no pictures in it, only sound. Send one that has.")
    stream = file.streams.video[0]
    stream.codec_context.thread_count = 1  # threads cost memory, and what they cost is counted all the same
    start = float((stream.start_time or 0) * stream.time_base)
    seconds = float(stream.duration * stream.time_base) if stream.duration else (file.duration or 0) / 1e6
    frames, timestamps = [], []
    for index in range(FRAMES):
        frame = _frame(file, stream, start + index * seconds / FRAMES)
        timestamps.append(f"{max(0.0, frame.time - start):.1f} s")
        frames.append(keep(frame.to_image().rotate(frame.rotation, expand=True)))
    return Video(tuple(frames), tuple(timestamps), stream.frames)


def _frame(file: Any, stream: Any, moment: float) -> Any:
    """The frame that is on screen at a moment, in seconds; the last one where the file says it is longer than it is."""
    file.seek(int(moment / stream.time_base), stream=stream)
    shown, decoded = None, 0
    for frame in file.decode(stream):
        if frame.width * frame.height > MAX_SIZE:
            raise ImageError(
                f"This video is {frame.width} × {frame.height}, too large. Reduce it to 1080 lines or fewer."
            )
        if shown is not None and (frame.time > moment + 1e-6 or decoded > MAX_SOUGHT):
            break
        shown = frame
        decoded += frame.width * frame.height
    if shown is None:
        raise ImageError("This video ends before its first picture. Save it again, or send another one.")
    if shown.is_corrupt:
        raise ImageError(
            "This video is damaged where it is looked at. Save it again, or send an animated GIF."
        )
    return shown
