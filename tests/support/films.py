"""A film of noise, and the kinds of model that see films."""

import numpy as np
from PIL import Image

from qformer_viz.types import Decoding
from tests.support import checkpoint_factory as factory

SHORT = Decoding(max_new_tokens=6)
FILM_KINDS = [kind for kind, (family, _) in factory.KINDS.items() if family != "blip2"]


def noise(seed, size=(40, 50)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


FILM = [noise(seed) for seed in range(4)]
