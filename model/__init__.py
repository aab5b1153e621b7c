"""The bundled models: the recipe that trains a BLIP-2 on rendered emoji scenes, its evaluation and its cards.

`load`, `decode` and the rest that this package offered in version 0.1 are in `qformer_viz`, and work here for one
release.
"""

import qformer_viz
from qformer_viz import deprecated

_MOVED = (
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
)


def __getattr__(name: str) -> object:
    if name not in _MOVED:
        raise AttributeError(f"module 'model' has no attribute {name!r}")
    deprecated.warn(f"model.{name}", f"qformer_viz.{name}")
    return getattr(qformer_viz, name)
