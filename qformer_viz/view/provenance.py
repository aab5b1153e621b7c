"""What every view of a capture says about itself: model, precision, scope of the maps, conversation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qformer_viz.runtime.pipeline import Pipeline
    from qformer_viz.types import EncodedImage

NOTES = {
    "image": "The Q-Former of this model never sees the question: these maps belong to the image.",
    "image and question": "The Q-Former of this model reads the question: these maps belong to both.",
}

FILM = (
    "Every frame goes through the Q-Former alone, and the language model reads the queries of all frames in order. "
    "InstructBLIP's published weights were trained on single pictures; what they say of films is zero-shot."
)


def provenance_of(pipe: Pipeline, encoded: EncodedImage, turns: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The `meta` of a canvas payload; turns are (question, answer), a caption's question is empty."""
    described = pipe.describe()
    scope = "image and question" if encoded.question else "image"
    captions = [answer for question, answer in turns if not question]
    return {
        "model": str(described.get("title") or pipe.name),
        "precision": pipe.quantization or str(described.get("precision", "")),
        "scope": scope,
        "caption": captions[0] if captions else "",
        "conversation": [list(turn) for turn in turns if turn[0]],
        "notes": [NOTES[scope], *([FILM] if encoded.timestamps else [])],
        "facts": {"image": encoded.sha256[:16]}
        | {name: value for name, value in described.items() if isinstance(value, str) and value},
    }
