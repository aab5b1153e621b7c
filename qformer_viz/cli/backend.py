"""What the commands work with: the loader, the decoder and the images of a domain. Tests put others in their place."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from PIL import Image

from qformer_viz.cli.command import Backend
from qformer_viz.domains.domain import GroundTruth, Labels
from qformer_viz.domains.domain_registry import EMOJI_SCENES

if TYPE_CHECKING:
    from qformer_viz.media.image_decoder import Decoded
    from qformer_viz.runtime.pipeline import Pipeline
    from qformer_viz.types import ImageSource


def load(name: str, **options: Any) -> Pipeline:
    """`qformer_viz.load` with the attention recorded on every pass through the Q-Former."""
    import qformer_viz
    from qformer_viz.hooks.recording import capture

    return qformer_viz.load(name, observe=capture, **options)


def decode(source: ImageSource) -> Decoded:
    """`qformer_viz.decode`, imported when the first image comes."""
    import qformer_viz

    return qformer_viz.decode(source)


def truths(scenes: int) -> Iterator[GroundTruth]:
    """Scenes with what an explanation should find in them."""
    return EMOJI_SCENES.ground_truth(scenes)


def labelled(scenes: int) -> Iterator[tuple[Image.Image, Labels]]:
    """Scenes with the labels that a probe may read from them."""
    return EMOJI_SCENES.labelled_images(scenes)


def pictures(pipe: Pipeline, count: int) -> Iterator[Image.Image]:
    """Images of a model's own domain."""
    return (decode(each).image for each in islice(pipe.checkpoint.domain.sample_images(), count))


def unseen(pipe: Pipeline, count: int) -> Iterator[Image.Image]:
    """Images of a model's own domain that are no reference images, where there are others."""
    return (decode(each).image for each in pipe.checkpoint.domain.unseen_images(count))


def checkpoints(device: str | None) -> tuple[list[dict[str, Any]], float]:
    """The list, with what fits into the free memory of a device, and how many bytes that is."""
    from qformer_viz.runtime import device_memory
    from qformer_viz.runtime.loading import choose_device

    free = device_memory.free(choose_device(device)[0])
    return device_memory.listing(free), free


def backend() -> Backend:
    """Loader, decoder and the errors that carry a message for the user."""
    from qformer_viz.asset_folder import ASSETS
    from qformer_viz.errors import UserError

    photograph = ASSETS / "photographs" / "astronaut.jpg"
    return Backend(
        load,
        decode,
        (UserError,),
        truths,
        pictures,
        photograph,
        checkpoints,
        labelled,
        unseen,
    )
