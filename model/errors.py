"""One small tree of errors whose messages are written for the person at the page and name the fix.

Catch `ModelError` for all of them. Anything else that escapes from `model` is a defect.
"""


class ModelError(Exception):
    """Base of everything this package raises for input, checkpoints and resources."""


class ImageError(ModelError):
    """The upload is not an image this program will open."""


class QuestionError(ModelError):
    """The question or the conversation cannot be put to the language model."""


class SceneError(ModelError, ValueError):
    """A scene of the bundled world that cannot be drawn."""


class DecodingError(ModelError):
    """A decoding setting is outside its range, or two settings exclude one another."""


class CheckpointError(ModelError):
    """The checkpoint is unknown, not allowed, incomplete, unreadable or out of reach."""


class GradientError(ModelError):
    """The weights are held in a form that no gradient passes through."""


class AttentionError(ModelError):
    """The language model has no attention that could be read."""


class CompiledError(ModelError):
    """The model is compiled, and what was asked for changes a pass through hooks, which compiled code passes over."""


class MemoryError_(ModelError):
    """The device ran out of memory; the caches have been emptied and the pipeline can be used again."""
