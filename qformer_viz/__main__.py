"""`python -m qformer_viz`: the one module here that knows `model`, and the wiring that app.py shares."""

import sys
from typing import Any

from qformer_viz.cli import terminal
from qformer_viz.cli.dispatch import Backend, main, stopped


def load(name: str, **options: Any) -> Any:
    """`qformer_viz.load` with the attention recorded on every pass through the Q-Former."""
    import qformer_viz
    from qformer_viz.hooks.recording import capture

    return qformer_viz.load(name, observe=capture, **options)


def decode(source: Any) -> Any:
    """`qformer_viz.decode`, imported when the first image comes."""
    import qformer_viz

    return qformer_viz.decode(source)


def truths(scenes: int) -> Any:
    """Scenes of the bundled world with what an explanation should find in them."""
    from qformer_viz.domains.emoji.ground_truth import truths

    return truths(scenes)


def labelled(scenes: int) -> Any:
    """Scenes of the bundled world with what a probe may read off them."""
    from qformer_viz.domains.emoji.ground_truth import labelled

    return labelled(scenes)


def pictures(pipe: Any, count: int) -> Any:
    """Images of a model's own world: rendered scenes, or the shipped photographs."""
    from itertools import islice

    from qformer_viz.domains.reference_images import reference_images

    return (decode(each).image for each in islice(reference_images(pipe.checkpoint.world), count))


def unseen(pipe: Any, count: int) -> Any:
    """Fresh scenes for a model of the rendered world; for any other the shipped photographs, which are also what its
    means are taken over."""
    if pipe.checkpoint.world != "emoji scenes":
        return pictures(pipe, count)
    return (image for image, _ in labelled(count))


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


def command() -> int:
    """What an installed `qformer-viz` runs."""
    terminal.prepare()
    try:
        return main(None, backend())
    except KeyboardInterrupt:  # while the libraries were imported
        return stopped()


if __name__ == "__main__":
    sys.exit(command())
