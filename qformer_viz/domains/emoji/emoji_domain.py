"""The domain of the bundled models: rendered scenes of one to four emoji, with every object's true mask.

The artwork is read when it is first needed, so that listing the checkpoints needs none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from qformer_viz.domains.domain import (
    Domain,
    Example,
    GroundTruth,
    Labels,
    OODCheck,
    SceneMaker,
    Tokenizer,
    WordCheck,
)
from qformer_viz.domains.emoji import example_gallery
from qformer_viz.domains.photographs import PHOTO_COMMAND
from qformer_viz.types import EncodedImage

REFERENCES, REFERENCE_SEED = 64, 31_000
VIDEO_IS_NEW = (
    "The bundled model was trained on single scenes. It has never been trained on several at once, and it may count a "
    "thing more than once."
)


@dataclass(frozen=True)
class EmojiScenes(Domain):
    """Scenes of emoji; 64 nouns, where they are, how many and how large."""

    name: str = "emoji scenes"
    is_bundled: bool = True
    matcher: str | None = "blip2-emoji-itm"
    matcher_caution: str = (
        "It was trained on whole captions of emoji scenes: a text that leaves an object out is wrong to it, as “a dog” "
        "is of a cat and a dog; who stands left of whom it does not tell."
    )

    def reference_images(self) -> Iterator[Image.Image]:
        """Random scenes, which no stage of the training used."""
        from qformer_viz.domains.emoji.scenes import random_scene, render

        for seed in range(REFERENCE_SEED, REFERENCE_SEED + REFERENCES):
            yield render(random_scene(seed)).image

    def unseen_images(self, count: int) -> Iterator[Image.Image]:
        """Random scenes that are no reference images."""
        return (image for image, _ in self.labelled_images(count))

    def ground_truth(self, count: int) -> Iterator[GroundTruth]:
        """Fresh scenes with the mask of every object, and without it."""
        from qformer_viz.domains.emoji.ground_truth import ground_truth_scenes

        return ground_truth_scenes(count)

    def labelled_images(self, count: int) -> Iterator[tuple[Image.Image, Labels]]:
        """Fresh scenes with the labels of `ground_truth.labels`."""
        from qformer_viz.domains.emoji.ground_truth import labelled_scenes

        return labelled_scenes(count)

    def examples(self) -> tuple[Example, ...]:
        """The shipped example scenes."""
        return example_gallery.gallery_images()

    def scene_maker(self) -> SceneMaker:
        """Renders scenes, and recognises the examples and what it rendered."""
        try:
            from qformer_viz.domains.emoji.scene_maker import make_scene_maker
        except (OSError, ValueError) as error:
            raise example_gallery.incomplete("assets/emoji", error) from error
        return make_scene_maker(example_gallery.gallery_scenes())

    def ood_check(self, folder: Path | None) -> OODCheck | None:
        """A probe on the ViT's features, which lies beside the weights."""
        if folder is None:
            return None
        try:
            from qformer_viz.domains.emoji.ood_detector import load_ood_detector

            detector = load_ood_detector(folder)
        except (ImportError, OSError):
            return None

        def check(encoded: EncodedImage) -> str | None:
            if encoded.vision is None:
                return None
            found = detector(encoded.vision[:1].float().cpu())  # of a video the first frame
            if found.in_distribution:
                return VIDEO_IS_NEW if len(encoded.frames) > 1 else None
            return (
                "This image looks unlike anything the bundled model was trained on. It only knows emoji scenes, so "
                f"expect wrong words here (out-of-distribution score {found.score:.1f}; 99 of 100 emoji scenes stay "
                f"below {found.threshold:.1f}). For photographs, start the program with: {PHOTO_COMMAND}"
            )

        return check

    def unknown_words(self, tokenizer: Tokenizer) -> WordCheck:
        """The words that the tokenizer splits: it holds every word of the training text as one token."""

        def pieces(word: str) -> int:
            return len(tokenizer(f" {word}", add_special_tokens=False)["input_ids"])

        def check(question: str) -> tuple[str, ...]:
            words = dict.fromkeys(re.findall(r"[^\W_]+", question.lower()))
            return tuple(word for word in words if pieces(word) > 1)

        return check
