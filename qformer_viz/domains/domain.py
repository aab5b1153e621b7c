"""The training domain of a model: its images, what is known about them, and how to notice what lies outside it.

A new domain subclasses `Domain` and stands in `domain_registry.DOMAINS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, TypedDict

import numpy as np
from PIL import Image
from torch import Tensor

from qformer_viz.types import EncodedImage

Picture = Image.Image | Path
"""An image, or the file that holds it: what `qformer_viz.decode` takes."""
OODCheck = Callable[[EncodedImage], str | None]
"""Says why an encoded image is out of distribution, in words for the page; None if it is not."""
WordCheck = Callable[[str], Sequence[str]]
"""Lists the words of a question that the model has never read."""
Labels = Mapping[str, int | np.ndarray]
"""What a scene shows, by the name of the label: a class number, or bool `[n]` where several of n may be true."""


class Example(NamedTuple):
    """An image of the gallery and its title."""

    path: Path
    title: str


class GroundTruth(TypedDict):
    """One rendered image whose objects are known.

    image    RGB
    masks    {noun: bool [gh, gw]}, the patches of every object whose noun is shown once
    without  {noun: the image rendered again without that object}
    empty    the image without any object
    """

    image: Image.Image
    masks: dict[str, np.ndarray]
    without: dict[str, Image.Image]
    empty: Image.Image


@dataclass(frozen=True)
class KnownScene:
    """A rendered scene whose parts are known.

    objects  a name for each object
    masks    {noun: bool [gh, gw]}, for nouns shown once
    without  renders the scene without the object of a number
    moved    renders it with the centre of the object at x, y, from 0 to 1
    """

    objects: tuple[str, ...]
    masks: Mapping[str, Tensor]
    without: Callable[[int], Image.Image]
    moved: Callable[[int, float, float], Image.Image]


@dataclass(frozen=True)
class SceneMaker:
    """Renders scenes of a domain.

    render  (nouns, layout, style or None for mixed) -> image
    video   the same arguments -> the frames of a scene that moves
    recall  an image -> what is known of it, if this renderer or the gallery made it, else None
    """

    nouns: tuple[str, ...]
    layouts: tuple[str, ...]
    styles: tuple[str, ...]
    render: Callable[[Sequence[str], str, str | None], Image.Image]
    max_objects: int = 4
    recall: Callable[[Image.Image], KnownScene | None] = lambda image: None
    video: Callable[[Sequence[str], str, str | None], Sequence[Image.Image]] | None = None


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that a domain uses."""

    def __call__(self, text: str, *, add_special_tokens: bool) -> Mapping[str, Sequence[int]]: ...


@dataclass(frozen=True)
class Domain(ABC):
    """What a model was trained on. A subclass overrides what its domain has; the rest says that there is none.

    name             as `world` in explorer.json, and on the page
    is_bundled       models of it are small and come with this program: they run on a CPU, beside one another
    matcher          id of its bundled retrieval checkpoint
    matcher_caution  what to keep in mind about scores of its retrieval models
    """

    name: str
    is_bundled: bool = False
    matcher: str | None = None
    matcher_caution: str = ""

    @abstractmethod
    def reference_images(self) -> Iterator[Picture]:
        """Images that reference activations are averaged over; always the same ones."""

    def sample_images(self) -> Iterator[Picture]:
        """Images for a view that needs several, where the visitor has chosen none."""
        return self.reference_images()

    def unseen_images(self, count: int) -> Iterator[Picture]:
        """Up to `count` images that are no reference images, where there are others."""
        for image, _ in zip(self.reference_images(), range(count), strict=False):
            yield image

    def ground_truth(self, count: int) -> Iterator[GroundTruth]:
        """Up to `count` images whose objects are known, for benchmarks; none where nothing is rendered."""
        return iter(())

    def labelled_images(self, count: int) -> Iterator[tuple[Image.Image, Labels]]:
        """`count` images with the labels that a probe may read from them; none where nothing is rendered."""
        return iter(())

    def examples(self) -> tuple[Example, ...]:
        """The gallery, in its order.

        Raises:
            CheckpointError: a file of it is missing.
        """
        return ()

    def scene_maker(self) -> SceneMaker | None:
        """A renderer of scenes with its own memory of what it has rendered.

        Raises:
            CheckpointError: the artwork is missing.
        """
        return None

    def ood_check(self, folder: Path | None) -> OODCheck | None:
        """The out-of-distribution check of the checkpoint in a folder; None where there is none."""
        return None

    def unknown_words(self, tokenizer: Tokenizer) -> WordCheck | None:
        """The check for words that a model with this tokenizer has never read; None where every word may be known."""
        return None
