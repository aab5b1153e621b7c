"""The canvas, and the words of an answer, for a notebook or a file: drawn in the browser, without a server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from qformer_viz.atomic_files import make_folder, write_text
from qformer_viz.attribution.explanation import captured
from qformer_viz.errors import BadSelection, BadShape
from qformer_viz.hooks.recording import Recording
from qformer_viz.runtime.input_placement import Placement
from qformer_viz.types import Attribution, Capture, EncodedImage
from qformer_viz.view.provenance import provenance_of
from qformer_viz.view.stage_payload import canvas_payload
from qformer_viz.view.standalone_page import standalone_page
from qformer_viz.view.word_payload import of_several

if TYPE_CHECKING:
    from qformer_viz.runtime.pipeline import Pipeline
    from qformer_viz.types import EncodedImage


@dataclass(frozen=True, repr=False)
class View:
    """One HTML page that needs nothing else. A notebook shows it, in a frame of its own; `save` writes it to a file.

    height: of that frame, in CSS pixels; the reader may drag its lower edge.
    """

    html: str
    height: int = 900

    def save(self, path: str | Path) -> Path:
        """Write the page, making its folder if needed; returns the path. Raises CannotWrite."""
        make_folder(Path(path).parent)
        return write_text(path, self.html)

    def __repr__(self) -> str:
        return f"View(a page of {len(self.html) / 1e6:.1f} MB: a notebook shows it, .save(path) writes it)"

    def _repr_html_(self) -> str:
        # A sandbox without the notebook's origin: what an image or an answer says cannot touch the notebook.
        return (
            f'<iframe srcdoc="{escape(self.html)}" sandbox="allow-scripts allow-downloads" title="QFormer-Viz" '
            f'style="width:100%;height:{int(self.height)}px;border:0;resize:vertical;overflow:auto"></iframe>'
        )


def show(
    seen: EncodedImage | Capture | Recording,
    picture: Image.Image | None = None,
    *,
    pipe: Pipeline | None = None,
    why: Attribution | Sequence[Attribution] = (),
    turns: Sequence[tuple[str, str]] = (),
    model: str = "",
    height: int = 900,
) -> View:
    """What each query looks at, and with `why` which queries and patches each word came from, to explore.

    seen: an image encoded by a pipeline that records (`qformer_viz.load(..., observe=qformer_viz.capture)`); or a
    capture of
        one image, with its `picture`.
    pipe: the pipeline, so that the page says which model speaks and how it was loaded; else `model` is its name.
    why: what `explain` gave for an answer, by one method or several.
    turns: (question, answer) of the conversation, shown below; a caption's question is "".
    Raises BadSelection without a capture, its picture, or for a batch of images; BadShape where `why` belongs to
    another image or where its attributions are of different words.
    """
    film: list[tuple[Image.Image, str]] = []
    placements: tuple[Placement, ...] = ()
    if isinstance(seen, (Capture, Recording)):
        capture = seen.result if isinstance(seen, Recording) else seen
        if not isinstance(picture, Image.Image) or capture.cross_attention.shape[1] != 1:
            raise BadSelection(
                f"a capture of {capture.cross_attention.shape[1]} images and {type(picture).__name__} as picture",
                "a capture of one image, and that image (PIL)",
                "show(capture.image(i), picture)",
            )
    else:
        capture, picture = captured(seen), seen.image
        placements = seen.placements
        film = list(zip(seen.frames, seen.timestamps, strict=False))  # a still picture has no moments
    if pipe is not None and not isinstance(seen, (Capture, Recording)):
        meta = provenance_of(pipe, seen, turns)
    else:
        # Queries whose attention to one another does not add up to one attend to text as well.
        reads = bool((capture.self_attention.sum(-1) < 0.999).any())
        meta = {
            "model": model or getattr(pipe, "name", "model not named"),
            "scope": "image and text" if reads else "image",
            "conversation": [list(turn) for turn in turns],
        }
    payload = canvas_payload(capture, picture, meta=meta, video=film, placements=placements)
    found = [why] if isinstance(why, Attribution) else list(why)
    for each in found:
        if (each.grid, each.frames) != (capture.grid, max(1, len(film))):
            raise BadShape(
                f"an explanation of {each.frames} pictures on a grid of {each.grid}",
                f"{max(1, len(film))} on {capture.grid}",
                "explain an answer about this image",
            )
    return View(standalone_page(payload, words=of_several(found) if found else None), height)
