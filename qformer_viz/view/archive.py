"""Take a capture away: one NPZ of everything captured, and a JSON manifest that says where it came from.

Shapes in the NPZ are those of `qformer_viz.types.Capture`; everything is float32. No interface code here.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qformer_viz.atomic_files import atomic_write, write_json
from qformer_viz.attribution import METHODS
from qformer_viz.errors import BadArchive, BadShape
from qformer_viz.runtime.map_placement import Placement, box
from qformer_viz.types import Attribution, Capture
from qformer_viz.view import npz_reader

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
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            **{name: getattr(capture, name).numpy() for name in _there(capture)},
            cross_layers=np.array(capture.cross_layers, np.int64),
            grid=np.array(capture.grid, np.int64),
            attn_implementation=np.array(capture.attn_implementation),
            manifest=np.array(json.dumps(dict(manifest or {}))),
            format=np.array(FORMAT),
        )
    return Path(path)


def load_npz(path: str | Path, limit: int = npz_reader.LIMIT) -> tuple[Capture, dict[str, Any]]:
    """The capture and the manifest of a file that `save_npz` wrote. Pickled content is never read.

    limit: bytes that the arrays may take together; a file that declares more is refused before they are read.
    Raises BadArchive for any other file, FileNotFoundError.
    """
    found = npz_reader.read(path, _ARRAYS, OPTIONAL, limit)
    try:
        about = json.loads(found["manifest"].item())
    except (ValueError, RecursionError) as error:
        raise npz_reader.refused(path, f"with a manifest that is no JSON ({error})") from error
    sizes = {name: found[name].shape for name in ("format", "grid", "cross_layers")}
    count = found["cross_attention"].shape[:1]
    if not isinstance(about, dict) or sizes != {"format": (), "grid": (2,), "cross_layers": count}:
        raise npz_reader.refused(path, f"with {sizes} and a manifest of type {type(about).__name__}")
    if found["format"] != FORMAT:
        raise BadArchive(f"format {found['format']}", f"format {FORMAT}", "export it again with this version")
    layers, every = found["cross_layers"], len(found["self_attention"])
    if (np.diff(layers) <= 0).any() or layers[0] < 0 or layers[-1] >= every or found["grid"].min() < 1:
        raise npz_reader.refused(path, "with layers in no order, or a grid without patches")
    try:
        capture = Capture(
            **{name: torch.from_numpy(found[name]) for name in (*TENSORS, *OPTIONAL) if name in found},
            cross_layers=tuple(layers.tolist()),
            grid=tuple(found["grid"].tolist()),
            attn_implementation=found["attn_implementation"].item(),
        )
    except BadShape as error:
        raise npz_reader.refused(path, f"with arrays that do not belong together ({error.found})") from error
    return capture, about


_ARRAYS = {
    **dict.fromkeys((*TENSORS, *OPTIONAL), "float"),
    **dict.fromkeys(("cross_layers", "grid", "format"), "integer"),
    **dict.fromkeys(("attn_implementation", "manifest"), "text"),
}


def manifest(
    capture: Capture,
    described: Mapping[str, Any],
    *,
    image_sha256: str,
    question: str | None = None,
    answer: str | None = None,
    placements: Sequence[Placement] = (),
) -> dict[str, Any]:
    """Everything needed to know what an NPZ holds and how it was made; plain JSON types only.

    described: the pipeline's `describe()` (model, revision, precision, device, library versions, attention).
    image_sha256: hash of the decoded pixels. question None: the image was only captioned.
    placements: which part of each frame the patches cover, noted as `boxes` where it is not all of each.
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
    if any(box(placement) for placement in placements):
        about["boxes"] = [list(placement.shares) for placement in placements]
    return json.loads(json.dumps({**described, **about}, default=str))


def _there(capture: Capture) -> list[str]:
    return [name for name in (*TENSORS, *OPTIONAL) if getattr(capture, name) is not None]


def plain(found: Attribution) -> dict[str, Any]:
    """An attribution in plain JSON types: words [t], logprobs, gains, visual, queries [t][q] or None, patches
    [t][gh][gw], by_frame [t][f][gh][gw] of a film or None, cls [q], method, unit, layer, grid, note."""
    return {
        "words": list(found.words),
        "logprobs": found.logprobs.tolist(),
        "gains": found.image_gain.tolist(),
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
    return write_json(path, {"manifest": dict(manifest), "attributions": list(map(plain, found))})


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
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(headers)
        writer.writerows(rows)
    return Path(path)
