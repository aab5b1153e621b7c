"""See inside Q-Former models. Importing this loads torch, and neither transformers, gradio nor plotly."""

import torch

from . import export, heads, information, interplay, verdict
from .across import Across, across
from .apart import Apart, apart
from .attention import (
    centre_of_mass,
    cls_share,
    effective_patches,
    entropy,
    focus,
    js_distance,
    patches,
    select,
)
from .attribution import METHODS, Case, Method
from .capture import Recording, capture
from .errors import (
    BadArchive,
    BadSelection,
    BadShape,
    BadValues,
    CannotWrite,
    GridMismatch,
    IncompleteCase,
    InsideCompiled,
    ManyCaptured,
    NotAQFormer,
    NothingCaptured,
    QFormerVizError,
    StillRecording,
)
from .explain import attribute, explain, prepare
from .show import View, show
from .similarity import (
    Collapse,
    attention_similarity,
    between_image_share,
    cka,
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
from .statistics import QueryStatistics, query_statistics
from .types import Attribution, Capture

__version__ = "0.1.0"

# What `torch.save` wrote of these, `torch.load` reads, which runs no code that a file brings along.
torch.serialization.add_safe_globals(
    [Across, Apart, Attribution, Capture, Collapse, QueryStatistics, Recording]
)

__all__ = [
    "METHODS",
    "Across",
    "Apart",
    "Attribution",
    "BadArchive",
    "BadSelection",
    "BadShape",
    "BadValues",
    "CannotWrite",
    "Capture",
    "Case",
    "Collapse",
    "GridMismatch",
    "IncompleteCase",
    "InsideCompiled",
    "ManyCaptured",
    "Method",
    "NotAQFormer",
    "NothingCaptured",
    "QFormerVizError",
    "QueryStatistics",
    "Recording",
    "StillRecording",
    "View",
    "across",
    "apart",
    "attention_similarity",
    "attribute",
    "between_image_share",
    "capture",
    "centre_of_mass",
    "cka",
    "cls_share",
    "collapse",
    "complementarity",
    "content_dependence",
    "cosine",
    "effective_patches",
    "effective_rank",
    "entropy",
    "explain",
    "export",
    "focus",
    "heads",
    "information",
    "interplay",
    "js_distance",
    "leaf_order",
    "patches",
    "prepare",
    "query_statistics",
    "redundancy",
    "redundancy_reference",
    "select",
    "show",
    "specialisation",
    "verdict",
    "winner_entropy",
]
