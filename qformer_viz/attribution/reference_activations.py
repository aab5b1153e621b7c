"""Means over images of a model's world, so that a query or a head can be replaced by what it says of any image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from qformer_viz.asset_folder import ASSETS
from qformer_viz.hooks.interventions import QFormerActivations, reading
from qformer_viz.media.images import decode
from qformer_viz.runtime.image_encoder import Encoder
from qformer_viz.runtime.lru_cache import LRUCache

SCENES, SEED = 64, 31_000
PHOTOGRAPHS = ASSETS / "photographs"
AT_ONCE = 8
"""Reference images that the Q-Former sees at once."""
KEPT = 16


class ReferenceActivations(NamedTuple):
    """Over reference images: the ViT's outputs [1, p, d], the projected queries [1, q, d], and what is said inside the
    Q-Former."""

    features: Tensor
    queries: Tensor
    usual: QFormerActivations


class ReferenceCache:
    """The means of one model, for each text that its Q-Former reads; each computed once. `turn(work)` is work with the
    model."""

    def __init__(
        self, encoder: Encoder, qformer: Any, world: str, turn: Callable[[Callable[[], Any]], Any]
    ) -> None:
        self._encoder, self._qformer, self._world, self._turn = encoder, qformer, world, turn
        self._means: LRUCache[ReferenceActivations] = LRUCache(KEPT)
        self._features: Tensor | None = None

    @torch.no_grad()
    def means(self, question: str | None, read: Callable[[str], Any]) -> ReferenceActivations:
        """read(question): what the Q-Former gets of one that it reads; None is not read."""
        known = self._means.get(question)
        if known is None:
            inputs = None if question is None else read(question)

            def look(part: Tensor) -> list[Tensor]:
                with reading(self._qformer) as said:
                    queries = self._encoder.queries(part, inputs)
                return [
                    queries,
                    *(torch.stack(said[name], 1).float().sum(0) for name in QFormerActivations._fields),
                ]

            features = self._seen(keep=inputs is not None)
            looked = [self._turn(partial(look, part)) for part in features.split(AT_ONCE)]
            queries, *said = zip(*looked, strict=True)
            usual = QFormerActivations(*(sum(each) / len(features) for each in said))
            known = ReferenceActivations(
                features.mean(0, keepdim=True), torch.cat(queries).mean(0, keepdim=True), usual
            )
            self._means.put(question, known)
        return known

    def forget(self) -> None:
        self._means.clear()
        self._features = None

    def _seen(self, keep: bool) -> Tensor:
        """ViT outputs [n, p, d] of the reference images; keep: for other questions, which will want them again."""
        found = self._features
        if found is None:
            images = map(decode, reference_images(self._world))
            found = torch.cat([self._turn(partial(self._encoder.features, image)) for image in images])
            if keep:
                self._features = found
        return found


def reference_images(world: str) -> Iterator[Any]:
    """Fresh random scenes for a model of the rendered world, the shipped photographs for any other."""
    if world != "emoji scenes":
        yield from sorted(PHOTOGRAPHS.glob("*.jpg"))
        return
    from qformer_viz.domains.emoji.scenes import random_scene, render

    for seed in range(SEED, SEED + SCENES):
        yield render(random_scene(seed)).image
