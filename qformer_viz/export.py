"""Take a capture away: one NPZ of everything captured, and a JSON manifest that says where it came from.

Shapes in the NPZ are those of `qformer_viz.types.Capture`; everything is float32. No interface code here.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch

from .attribution import METHODS
from .errors import BadArchive
from .types import Attribution, Capture

FORMAT = 1
TENSORS = ("cross_attention", "self_attention", "query_states", "query_tokens")
OPTIONAL = ("text_attention",)
AXES = {
    "cross_attention": "[l, b, h, q, p] probabilities, p = 0 is CLS",
    "self_attention": "[L, b, h, q, q] probabilities between queries",
    "query_states": "[L + 1, b, q, d] before layer 0, then after each layer",
    "query_tokens": "[q, d] as learned",
    "text_attention": "[L, b, h, q, s] probabilities from queries to the text that the Q-Former reads",
}
LIBRARIES = ("torch", "transformers", "numpy", "qformer-viz")


def save_npz(capture: Capture, path: str | Path, manifest: Mapping[str, Any] | None = None) -> Path:
    """Write every tensor of the capture, layer indices, grid and the manifest; returns the path."""
    path = Path(path)
    arrays = {name: getattr(capture, name).numpy() for name in _there(capture)}
    with path.open("wb") as file:
        np.savez_compressed(
            file,
            **arrays,
            cross_layers=np.array(capture.cross_layers, np.int64),
            grid=np.array(capture.grid, np.int64),
            attn_implementation=np.array(capture.attn_implementation),
            manifest=np.array(json.dumps(dict(manifest or {}))),
            format=np.array(FORMAT),
        )
    return path


def load_npz(path: str | Path) -> tuple[Capture, dict[str, Any]]:
    """The capture and the manifest of a file that `save_npz` wrote. Pickled content is never read."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise BadArchive(f"{path}, not readable as NPZ ({error})", _WANTED, _FIX) from None
    missing = {*TENSORS, "cross_layers", "grid", "attn_implementation", "manifest", "format"} - set(found)
    if missing:
        raise BadArchive(f"{path} without {', '.join(sorted(missing))}", _WANTED, _FIX)
    if int(found["format"]) != FORMAT:
        raise BadArchive(
            f"format {int(found['format'])}", f"format {FORMAT}", "export it again with this version"
        )
    capture = Capture(
        **{name: torch.from_numpy(found[name]) for name in (*TENSORS, *OPTIONAL) if name in found},
        cross_layers=tuple(int(layer) for layer in found["cross_layers"]),
        grid=(int(found["grid"][0]), int(found["grid"][1])),
        attn_implementation=str(found["attn_implementation"]),
    )
    return capture, json.loads(str(found["manifest"]))


_WANTED = "an NPZ written by qformer_viz.export.save_npz"
_FIX = "export the capture again"


def manifest(
    capture: Capture,
    described: Mapping[str, Any],
    *,
    image_sha256: str,
    question: str | None = None,
    answer: str | None = None,
) -> dict[str, Any]:
    """Everything needed to know what an NPZ holds and how it was made; plain JSON types only.

    described: the pipeline's `describe()` (model, revision, precision, device, library versions, attention).
    image_sha256: hash of the decoded pixels. question None: the image was only captioned.
    """
    shapes = {name: list(getattr(capture, name).shape) for name in _there(capture)}
    about = {
        "format": FORMAT,
        "image_sha256": image_sha256,
        "question": question,
        "answer": answer,
        "qformer_attn_implementation": capture.attn_implementation,
        "cross_layers": list(capture.cross_layers),
        "grid": list(capture.grid),
        "shapes": shapes,
        "axes": {name: AXES[name] for name in shapes},
        "versions": {**versions(), **described.get("versions", {})},
    }
    return json.loads(json.dumps({**described, **about}, default=str))


def _there(capture: Capture) -> list[str]:
    return [name for name in (*TENSORS, *OPTIONAL) if getattr(capture, name) is not None]


def plain(found: Attribution) -> dict[str, Any]:
    """An attribution in plain JSON types: words [t], logprobs, gains, visual, queries [t][q] or None, patches
    [t][gh][gw], by_frame [t][f][gh][gw] of a film or None, cls [q], method, unit, layer, grid, note."""
    return {
        "words": list(found.words),
        "logprobs": found.logprobs.tolist(),
        "gains": found.gains.tolist(),
        "visual": found.visual.tolist(),
        "method": found.method,
        "unit": METHODS[found.method].unit if found.method in METHODS else None,
        "layer": found.layer,
        "grid": list(found.grid),
        "queries": found.queries.tolist() if found.of_queries else None,
        "patches": found.patches.tolist(),
        "by_frame": found.by_frame.tolist() if found.frames > 1 else None,
        "cls": found.cls.tolist(),
        "note": found.note,
    }


def save_attributions(found: Sequence[Attribution], path: str | Path, manifest: Mapping[str, Any]) -> Path:
    """Attributions of one answer, each as `plain` says, and the manifest as JSON; returns the path."""
    path = Path(path)
    whole = {"manifest": dict(manifest), "attributions": list(map(plain, found))}
    path.write_text(json.dumps(whole, ensure_ascii=False), encoding="utf-8")
    return path


def versions() -> dict[str, str]:
    """The installed versions of what made the numbers."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed as a package"
    return found


def save_csv(headers: list[str], rows: list[list[Any]], path: str | Path) -> Path:
    """A table as CSV with a header line."""
    path = Path(path)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(headers)
        writer.writerows(rows)
    return path
