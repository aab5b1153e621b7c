"""Everything that touches weights: decode an image, load a checkpoint, encode, caption, ask, stream.

    import model
    pipe = model.load("blip2-emoji")
    pipe.caption("scene.png").text

Names are imported on first use, so `import model.emoji` or `import model.images` loads neither torch nor
transformers. The loader lives in `model/loading.py`: a submodule called `load` would shadow `model.load`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model import errors
    from model.checkpoints import CHECKPOINTS, Checkpoint
    from model.images import Decoded, decode
    from model.loading import load, load_matcher
    from model.matching import Matcher
    from model.pipeline import Pipeline
    from model.types import Answer, Decoding, EncodedImage, Match, Turn

_HOME = {
    "CHECKPOINTS": "model.checkpoints",
    "Checkpoint": "model.checkpoints",
    "Decoded": "model.images",
    "decode": "model.images",
    "load": "model.loading",
    "load_matcher": "model.loading",
    "Match": "model.types",
    "Matcher": "model.matching",
    "Pipeline": "model.pipeline",
    "Answer": "model.types",
    "Decoding": "model.types",
    "EncodedImage": "model.types",
    "Turn": "model.types",
}

__all__ = [
    "CHECKPOINTS",
    "Answer",
    "Checkpoint",
    "Decoded",
    "Decoding",
    "EncodedImage",
    "Match",
    "Matcher",
    "Pipeline",
    "Turn",
    "decode",
    "errors",
    "load",
    "load_matcher",
]


def __getattr__(name: str):
    if name == "errors":
        return import_module("model.errors")
    if name not in _HOME:
        raise AttributeError(f"module 'model' has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
