"""See inside Q-Former models.

    import qformer_viz
    pipe = qformer_viz.load("blip2-emoji", observe=qformer_viz.capture)
    encoded = pipe.encode("scene.png")
    qformer_viz.explain(pipe, encoded, pipe.caption(encoded))

Importing this loads torch, and neither transformers, gradio nor plotly: what needs them is imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING

import torch

from qformer_viz import deprecated
from qformer_viz.analysis import head_ablation, information, query_sets
from qformer_viz.analysis.attention_statistics import QueryStatistics, query_statistics
from qformer_viz.analysis.image_sets import ImageSetStatistics, image_set_statistics
from qformer_viz.analysis.kernel_alignment import cka
from qformer_viz.analysis.model_comparison import ModelComparison, compare_models
from qformer_viz.analysis.query_similarity import (
    Collapse,
    attention_similarity,
    between_image_share,
    collapse,
    complementarity,
    content_dependence,
    cosine,
    effective_rank,
    leaf_order,
    redundancy,
    redundancy_reference,
    specialisation,
    winner_entropy,
)
from qformer_viz.attention_maps import (
    centre_of_mass,
    cls_share,
    effective_patches,
    entropy,
    focus,
    js_distance,
    patches,
    select,
)
from qformer_viz.attribution import METHODS, ExplanationContext, Method
from qformer_viz.attribution.explanation import attribute, explain, prepare
from qformer_viz.errors import (
    BadArchive,
    BadSelection,
    BadShape,
    BadValues,
    CannotWrite,
    GridMismatch,
    IncompleteContext,
    InsideCompiled,
    ManyCaptured,
    NotAQFormer,
    NothingCaptured,
    QFormerVizError,
    StillRecording,
)
from qformer_viz.evaluation import assessment
from qformer_viz.hooks.recording import Recording, capture
from qformer_viz.media.image_decoder import Decoded, decode
from qformer_viz.runtime.checkpoints import CHECKPOINTS, Checkpoint
from qformer_viz.types import Answer, Attribution, Capture, Decoding, EncodedImage, Match, Turn
from qformer_viz.version import __version__ as __version__
from qformer_viz.view import archive
from qformer_viz.view.notebook import View, show

if TYPE_CHECKING:
    from qformer_viz.runtime.loading import load, load_matcher
    from qformer_viz.runtime.matcher import Matcher
    from qformer_viz.runtime.pipeline import Pipeline


# What `torch.save` wrote of these, `torch.load` reads, which runs no code that a file brings along.
torch.serialization.add_safe_globals(
    [ImageSetStatistics, ModelComparison, Attribution, Capture, Collapse, QueryStatistics, Recording]
)

deprecated.install()

_ON_FIRST_USE = {
    "Matcher": "qformer_viz.runtime.matcher",
    "Pipeline": "qformer_viz.runtime.pipeline",
    "load": "qformer_viz.runtime.loading",
    "load_matcher": "qformer_viz.runtime.loading",
}

__all__ = [
    "CHECKPOINTS",
    "METHODS",
    "Answer",
    "Attribution",
    "BadArchive",
    "BadSelection",
    "BadShape",
    "BadValues",
    "CannotWrite",
    "Capture",
    "Checkpoint",
    "Collapse",
    "Decoded",
    "Decoding",
    "EncodedImage",
    "ExplanationContext",
    "GridMismatch",
    "ImageSetStatistics",
    "IncompleteContext",
    "InsideCompiled",
    "ManyCaptured",
    "Match",
    "Matcher",
    "Method",
    "ModelComparison",
    "NotAQFormer",
    "NothingCaptured",
    "Pipeline",
    "QFormerVizError",
    "QueryStatistics",
    "Recording",
    "StillRecording",
    "Turn",
    "View",
    "archive",
    "assessment",
    "attention_similarity",
    "attribute",
    "between_image_share",
    "capture",
    "centre_of_mass",
    "cka",
    "cls_share",
    "collapse",
    "compare_models",
    "complementarity",
    "content_dependence",
    "cosine",
    "decode",
    "effective_patches",
    "effective_rank",
    "entropy",
    "explain",
    "focus",
    "head_ablation",
    "image_set_statistics",
    "information",
    "js_distance",
    "leaf_order",
    "load",
    "load_matcher",
    "patches",
    "prepare",
    "query_sets",
    "query_statistics",
    "redundancy",
    "redundancy_reference",
    "select",
    "show",
    "specialisation",
    "winner_entropy",
]


def __getattr__(name: str) -> object:
    if name in deprecated.NAMES:
        return deprecated.renamed(name)
    if name not in _ON_FIRST_USE:
        raise AttributeError(
            f"module 'qformer_viz' has no attribute {name!r}; it offers {', '.join(__all__)}"
        )
    return getattr(import_module(_ON_FIRST_USE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
