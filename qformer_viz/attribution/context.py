"""What a method works on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor

from qformer_viz.attention_maps import patches, select
from qformer_viz.errors import IncompleteContext
from qformer_viz.hooks.interventions import QFormerActivations
from qformer_viz.types import Capture

if TYPE_CHECKING:
    from qformer_viz.attribution.scorer import Scorer

Computed = TypeVar("Computed")
_MEANS = {
    "features": "the mean ViT outputs of other images, to start from",
    "reference": "the mean activations of the Q-Former over other images, which stand in for ablated ones",
}


def _missing(name: str) -> Callable[[], Any]:
    def ask() -> Any:
        raise IncompleteContext(
            f"a context without `{name}`",
            _MEANS[name],
            "make the context with qformer_viz.prepare(pipe, encoded, answer), or pass "
            f"{name}=lambda: ... as qformer_viz.ExplanationContext tells",
        )

    return ask


@dataclass(frozen=True, eq=False)
class ExplanationContext:
    """What a method works on: one answer about one image, and what explanations of it share.

    scorer        log-probabilities of the words under changed queries, see `qformer_viz.attribution.scorer.Scorer`
    capture       of the Q-Former pass that the answer came from
    baseline      [1, f·q, d] mean projected queries over reference images
    features      () -> [1, p, d] mean ViT outputs over reference images, for integrated gradients
    reference     () -> mean activations inside the Q-Former over reference images, for head and message ablation
    layer         index along the cross-attention layers whose maps are used; None is their mean
    word_indices  the words to explain; None for all
    on_progress   on_progress(done, total) after each part of long work; raise from it to stop

    Without `features` or `reference`, what needs it raises IncompleteContext.
    """

    scorer: Scorer
    capture: Capture
    baseline: Tensor
    features: Callable[[], Tensor] = field(default_factory=lambda: _missing("features"))
    reference: Callable[[], QFormerActivations] = field(default_factory=lambda: _missing("reference"))
    layer: int | None = None
    word_indices: Sequence[int] | None = None
    on_progress: Callable[[int, int], object] = lambda done, of: None
    _cache: dict[object, Any] = field(default_factory=dict, repr=False)

    @property
    def words(self) -> list[int]:
        """The words to explain; a method returns a row for each."""
        return list(range(len(self.scorer.words)) if self.word_indices is None else self.word_indices)

    @property
    def frames(self) -> int:
        """f: of a film, or 1."""
        return self.capture.cross_attention.shape[1]

    def query_attention(self) -> Tensor:
        """Where each query looked: [q, N], the patch part as a probability, heads averaged; of a film, frame by frame
        [f·q, N]."""
        return patches(select(self.capture.cross_attention, self.layer)).flatten(0, 1)

    def known(self, *keys: object) -> bool:
        """Whether `cached` holds all of these by now."""
        return all(key in self._cache for key in keys)

    def cached(self, what: object, compute: Callable[[], Computed]) -> Computed:
        """compute(), or what it gave before, also to a method that reads another layer or other words."""
        if what not in self._cache:
            self._cache[what] = compute()
        return self._cache[what]
