"""Everything the browser canvas needs about one image, in one JSON-able dictionary.

Attention is sent as bytes: for each map the square root of its share of the map's own peak, in `levels`
steps, which spends the steps on the small values. The number of steps falls until the packed maps
fit `MAX_BYTES`. The exact numbers are those of the capture; these are for drawing.
"""

import base64
import io
import json
import zlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from qformer_viz.errors import BadShape
from qformer_viz.runtime.map_placement import Placement, box
from qformer_viz.types import Capture
from qformer_viz.view.palette import OUTLINES, STOPS

VERSION = 1
MAX_BYTES = 700_000
MAX_SIDE = 768
# 255 steps first; 111 hold for 6 x 12 x 32 maps of evenly spread bytes, the worst there is at that size.
STEPS = (255, 223, 191, 159, 127, 111, 95, 79, 63, 47, 31, 23, 15)
_U16 = 65535


def canvas_payload(
    capture: Capture,
    image: Image.Image,
    *,
    meta: dict | None = None,
    index: int = 0,
    video: Sequence[tuple[Image.Image, str]] = (),
    placements: Sequence[Placement] = (),
) -> dict:
    """Pack image `index` of a capture for `QFormerViz.mount`.

    image: the picture at its original geometry; it is embedded at most 768 px long.
    video: (picture, when it is) of every image of the capture, where they are the frames of a film; the first is the
        payload itself, the others are in its `film`.
    placements: which part of the picture, or of each frame of the film, the patches cover; () where all of it.
    meta: JSON-able facts shown as plain text, all optional: `model`, `precision`, `caption`,
        `conversation` (pairs of question and answer), `scope` ("image", "image and question" or "image and text"),
        `notes` (sentences), `facts` (name to value).
    The dictionary without its images takes at most `MAX_BYTES` of JSON for each frame, beyond what `meta` takes.
    """
    cross = capture.image(index).cross_attention[:, 0].numpy()
    packed = pack(cross)
    frames = [
        pack(capture.image(at).cross_attention[:, 0].numpy())
        | {"image": embed(picture, placements[at] if placements else None), "moment": moment}
        for at, (picture, moment) in enumerate(video)
        if at
    ]
    gh, gw = capture.grid
    return {
        "version": VERSION,
        "shape": [*cross.shape[:3], gh * gw],
        "grid": [gh, gw],
        "cross_layers": list(capture.cross_layers),
        **packed,
        "image": embed(image, placements[0] if placements else None),
        "film": frames,
        "moment": video[0][1] if video else "",
        "palettes": {name: list(stops) for name, stops in STOPS.items()},
        "outlines": list(OUTLINES),
        "meta": json.loads(json.dumps(meta or {}, allow_nan=False)),
    }


def pack(cross: np.ndarray) -> dict:
    """`[l, h, q, p]`, CLS first, to `levels`, `maps` (zlib, base64), `peaks` and `cls` (uint16, base64)."""
    if cross.ndim != 4 or not np.isfinite(cross).all() or cross.min() < 0 or cross.max() > 1.001:
        raise BadShape(
            f"an array of shape {list(cross.shape)}",
            "probabilities [l, h, q, p]",
            "pass the cross-attention of one image",
        )
    patches = np.minimum(cross[..., 1:].astype(np.float64), 1)
    cls = np.floor(np.sqrt(np.minimum(cross[..., 0], 1)) * _U16 + 0.5)
    # Rounded up, so that no value exceeds the peak it is measured against.
    peaks = np.minimum(np.ceil(np.sqrt(patches.max(-1)) * _U16), _U16)
    shares = np.sqrt(patches / np.maximum((peaks / _U16) ** 2, 1e-30)[..., None])
    fixed = {"peaks": _base64(peaks.astype("<u2").tobytes()), "cls": _base64(cls.astype("<u2").tobytes())}
    room = MAX_BYTES - 4096 - sum(map(len, fixed.values()))
    for levels in STEPS:
        codes = np.floor(np.minimum(shares, 1) * levels + 0.5).astype(np.uint8)
        maps = _base64(zlib.compress(codes.tobytes(), 6))
        if len(maps) <= room:
            return {"levels": levels, "maps": maps, **fixed}
    raise BadShape(
        f"maps of shape {list(cross.shape)}, too many to send",
        f"maps that pack into {MAX_BYTES} bytes",
        "use the NPZ export, or capture a smaller model",
    )


def unpack(payload: dict) -> tuple[np.ndarray, np.ndarray]:
    """What the browser reads from a payload: patches `[l, h, q, gh*gw]`, CLS shares `[l, h, q]`."""
    *rows, patches = payload["shape"]
    codes = np.frombuffer(zlib.decompress(base64.b64decode(payload["maps"])), np.uint8).reshape(
        *rows, patches
    )
    peaks, cls = (
        (np.frombuffer(base64.b64decode(payload[name]), "<u2").reshape(rows) / _U16) ** 2
        for name in ("peaks", "cls")
    )
    return peaks[..., None] * (codes / payload["levels"]) ** 2, cls


def error_bound(levels: int) -> float:
    """Largest error of a patch value as a share of its map's peak: half a step where it is steepest."""
    return 1 / levels + 1 / (4 * levels**2)


def embed(image: Image.Image, placement: Placement | None = None) -> dict:
    """`src` (a `data:` URL, at most `MAX_SIDE` px long) and the width and height of the original; where patches cover
    another part than the whole, its `box` in shares of the picture and a `note` on it."""
    width, height = image.size
    scale = min(1, MAX_SIDE / max(width, height))
    shown = image.convert("RGB")
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        shown = shown.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    shown.save(
        buffer, "JPEG", quality=88, subsampling=0
    )  # "optimize" fails on noise: its buffer is too small
    made = {"src": "data:image/jpeg;base64," + _base64(buffer.getvalue()), "width": width, "height": height}
    where = box(placement)
    if placement is not None and where is not None:
        made |= {"box": [round(share, 5) for share in where], "note": placement.notice}
    return made


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
