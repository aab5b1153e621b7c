"""The error tree. Every message says what was found, what was expected, and the fix."""


class UserError(Exception):
    """Something that the user can mend; the message says how and is shown as it is.

    Raised by this project's own code only. Whatever else a handler meets is a defect: it is logged, not shown.
    """


class QFormerVizError(UserError):
    """Base of everything the library raises on purpose."""

    def __init__(self, found: str, expected: str, fix: str):
        self.found, self.expected, self.fix = found, expected, fix
        super().__init__(found, expected, fix)

    def __str__(self) -> str:
        return f"Found {self.found}; expected {self.expected}. Fix: {self.fix}."


class NotAQFormer(QFormerVizError):
    """The model holds no Q-Former that can be recorded."""


class NothingCaptured(QFormerVizError):
    """The block ended without a Q-Former call that belongs to this recording."""


class InsideCompiled(QFormerVizError):
    """A recording was begun inside a compiled function, where compiled code cannot be told to stand aside."""


class ManyCaptured(QFormerVizError):
    """Several Q-Former calls were recorded where a single one was asked for."""


class StillRecording(QFormerVizError):
    """A recording was read before its block ended."""


class GridMismatch(QFormerVizError):
    """The number of image tokens is not that of the model's patch grid and one CLS token."""


class BadShape(QFormerVizError, ValueError):
    """A tensor does not have the shape its name promises."""


class BadValues(QFormerVizError, ValueError):
    """Numbers outside the range that gives the result a meaning, such as maps that do not sum to one."""


class BadSelection(QFormerVizError, ValueError):
    """An image, layer, head, query or threshold that does not exist."""


class IncompleteContext(QFormerVizError):
    """A case lacks what is asked of it, such as means over other images."""


class NoImage(QFormerVizError):
    """A path that leads to no image."""


class BadArchive(QFormerVizError, ValueError):
    """The file is not an NPZ that `save_npz` wrote."""


class CannotWrite(QFormerVizError):
    """A file or folder that cannot be written: a full disk, a folder without permission, a name that is taken."""


class ImageError(UserError):
    """The upload is not an image this program will open."""


class QuestionError(UserError):
    """The question or the conversation cannot be put to the language model."""


class SceneError(UserError, ValueError):
    """A scene of the bundled world that cannot be drawn."""


class DecodingError(UserError):
    """A decoding setting is outside its range, or two settings exclude one another."""


class CheckpointError(UserError):
    """The checkpoint is unknown, not allowed, incomplete, unreadable or out of reach."""


class GradientError(UserError):
    """The weights are held in a form that no gradient passes through."""


class AttentionError(UserError):
    """The language model has no attention that could be read."""


class CompiledError(UserError):
    """The model is compiled, and what was asked for changes a pass through hooks, which compiled code passes over."""


class OutOfDeviceMemory(UserError):
    """The device ran out of memory; the caches have been emptied and the pipeline can be used again."""
