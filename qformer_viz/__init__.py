"""See inside Q-Former models. Importing this loads torch, and neither transformers, gradio nor plotly."""

from .capture import Recording, capture
from .errors import (
    BadSelection,
    BadShape,
    GridMismatch,
    ManyCaptured,
    NotAQFormer,
    NothingCaptured,
    QFormerVizError,
    StillRecording,
)
from .types import Capture

__version__ = "0.1.0"

__all__ = [
    "BadSelection",
    "BadShape",
    "Capture",
    "GridMismatch",
    "ManyCaptured",
    "NotAQFormer",
    "NothingCaptured",
    "QFormerVizError",
    "Recording",
    "StillRecording",
    "capture",
]
