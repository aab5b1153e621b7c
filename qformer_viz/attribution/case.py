"""What a method works on."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..attention import patches, select
from ..types import Capture


@dataclass(frozen=True, eq=False)
class Case:
    """One answer about one image.

    scorer    `score(queries [n, q, d]) -> [n, t]`, `requery(keep [n, p]) -> [n, q, d]`, `attention() -> [t, q]`
    capture   of the Q-Former pass that the answer came from
    baseline  [1, q, d] mean queries of other images, at the language model's width
    layer     index along the cross-attention layers whose maps say where a query looked; None is their mean
    """

    scorer: Any
    capture: Capture
    baseline: Tensor
    layer: int | None = None

    def looked(self) -> Tensor:
        """Where each query looked: [q, N], the patch part as a probability, heads averaged."""
        return patches(select(self.capture.cross_attention, self.layer)[0])
