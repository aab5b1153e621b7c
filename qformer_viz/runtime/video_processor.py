"""The processor of an InstructBlipVideo checkpoint, without the library's own, which does not import without
torchvision: the frames are pictures, and InstructBLIP's image processor prepares pictures in the same way."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from transformers.utils import cached_file

SETTINGS = (
    "do_resize",
    "size",
    "resample",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
    "do_convert_rgb",
)


@dataclass
class VideoProcessor:
    """What this program uses of a processor."""

    image_processor: Any
    tokenizer: Any
    qformer_tokenizer: Any
    num_query_tokens: int | None
    image_token: str = "<video>"

    @classmethod
    def from_pretrained(cls, location: str, **options: object) -> VideoProcessor:
        """As the library's `from_pretrained`: a folder or a hub id. ValueError where no file says how frames are
        prepared."""
        about = _read(location, "processor_config.json", options)
        prepared = (
            about.get("video_processor")
            or _read(location, "video_preprocessor_config.json", options)
            or _read(location, "preprocessor_config.json", options)
        )
        if not prepared:
            raise ValueError("no file says how frames are prepared (video_preprocessor_config.json)")
        settings = {name: prepared[name] for name in SETTINGS if name in prepared}
        tokenizer = transformers.AutoTokenizer.from_pretrained
        return cls(
            transformers.BlipImageProcessor(**settings),
            tokenizer(location, **options),
            tokenizer(location, subfolder="qformer_tokenizer", **options),
            about.get("num_query_tokens"),
        )


def _read(location: str, name: str, options: dict[str, object]) -> dict[str, Any]:
    """The content of a JSON file of a checkpoint; empty where there is none."""
    wanted = {key: value for key, value in options.items() if key in ("revision", "local_files_only")}
    path = cached_file(location, name, _raise_exceptions_for_missing_entries=False, **wanted)
    return json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
