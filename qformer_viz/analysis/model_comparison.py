"""Two models on the same images, for instance before and after fine-tuning: which queries look elsewhere, which carry
something else, and which have changed places."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qformer_viz.analysis import kernel_alignment
from qformer_viz.errors import BadShape
from qformer_viz.types import Capture

OLD_KEYS = {
    "moved": "attention_shift",
    "unrelated": "shift_between_unrelated",
    "partner": "matched_query",
    "alike": "state_cka",
}
"""Names of 0.1 in the JSON of `qformer-viz compare`, which stay for one release."""


@dataclass(frozen=True, eq=False)
class ModelComparison:
    """Rows are the cross-attention layers in order and, last, the map averaged over layers, as in
    `ImageSetStatistics`; maps are averaged over heads. b images.

    rows: names of the rows, for instance ("0", "2", "4", "mean"). images: b.
    moved: [r, q] share of a query's attention, CLS included, that the second model spends elsewhere: half the summed
        difference of the two maps (total variation), mean over images; 0 the same, 1 nothing shared.
    unrelated: [r] the same between different queries of the two, mean: how far apart maps are that have nothing to do
        with one another.
    partner: [q] of the second model's queries the one whose maps are nearest in all layers, no query taken twice
        (least total cost); a query's own number where the two have kept their places.
    alike: [L + 1, q] `similarity.cka` over images of a query's states, as they enter the Q-Former and after every
        layer: 1 where the two models tell the images apart in the same way, 0 where they have nothing in common. None
        of fewer than four images; NaN where a state hardly depends on the image, as before the first layer.
    """

    rows: tuple[str, ...]
    images: int
    attention_shift: Tensor
    shift_between_unrelated: Tensor
    matched_query: Tensor
    state_cka: Tensor | None


def compare_models(first: Sequence[Capture], second: Sequence[Capture]) -> ModelComparison:
    """Compare two models over captures of the same images in the same order.

    Layers, queries and patch grid must agree; heads, widths and language models need not. A capture may hold several
    images.
    """
    from scipy.optimize import linear_sum_assignment  # slow to import, and needed here only

    _comparable(first, second)
    maps = [torch.cat([c.cross_attention.mean(2) for c in captures], 1) for captures in (first, second)]
    one, other = (torch.cat([each, each.mean(0, keepdim=True)]).double() for each in maps)  # [r, b, q, p]
    between = torch.cdist(one, other, p=1).mean(1) / 2  # [r, q, q]
    queries = between.shape[-1]
    own = torch.eye(queries, dtype=torch.bool)
    _, matched_query = linear_sum_assignment(between[:-1].mean(0).numpy())
    states = [
        torch.cat([c.query_states for c in captures], 1).transpose(1, 2) for captures in (first, second)
    ]
    images = maps[0].shape[1]
    return ModelComparison(
        rows=(*map(str, first[0].cross_layers), "mean"),
        images=images,
        attention_shift=between[:, own].float(),
        shift_between_unrelated=between[:, ~own].mean(-1).float(),
        matched_query=torch.from_numpy(matched_query),
        state_cka=kernel_alignment.cka(*states) if images >= 4 else None,
    )


def _comparable(first: Sequence[Capture], second: Sequence[Capture]) -> None:
    def geometry(capture: Capture) -> tuple:
        layers, queries = len(capture.self_attention), capture.query_tokens.shape[0]
        return capture.cross_layers, layers, queries, capture.grid

    kinds = {geometry(capture) for capture in (*first, *second)}
    if len(kinds) > 1:
        raise BadShape(
            "models that differ in " + ", ".join(_differences(sorted(kinds, key=str))),
            "the same in both",
            "compare checkpoints of one architecture",
        )
    counts = [sum(capture.cross_attention.shape[1] for capture in captures) for captures in (first, second)]
    if counts[0] != counts[1] or not counts[0]:
        raise BadShape(
            f"{counts[0]} images of one model and {counts[1]} of the other",
            "the same images in the same order",
            "let both models look at each",
        )


def _differences(kinds: list[tuple]) -> list[str]:
    names = ("cross-attention layers", "number of layers", "number of queries", "patch grid")
    return [
        f"{name} ({kinds[0][i]} and {kinds[1][i]})"
        for i, name in enumerate(names)
        if kinds[0][i] != kinds[1][i]
    ]


def table(found: ModelComparison) -> str:
    """By row how much attention moved and how far states are alike; then which queries, as Markdown."""
    lines = [
        "| layer | attention that went elsewhere, mean over queries | most | between unrelated queries |",
        "|---|---|---|---|",
    ]
    for name, shift, unrelated in zip(
        found.rows, found.attention_shift, found.shift_between_unrelated, strict=True
    ):
        most = int(shift.argmax())
        lines.append(f"| {name} | {shift.mean():.3f} | {shift[most]:.3f}, query {most} | {unrelated:.3f} |")
    order = found.attention_shift[-1].argsort(descending=True, stable=True).tolist()[:5]
    lines += [
        "",
        "Moved most, mean of layers: "
        + ", ".join(f"query {q} {found.attention_shift[-1, q]:.2f}" for q in order)
        + ".",
    ]
    places = [f"{q} → {p}" for q, p in enumerate(found.matched_query.tolist()) if p != q]
    lines.append(
        f"Looks like another query of the second model than its own: {', '.join(places) or 'none'} "
        f"({len(places)} of {len(found.matched_query)})."
    )
    if found.state_cka is not None:
        last = found.state_cka[-1]
        known = last[~last.isnan()]
        if len(known):
            least = int(last.nan_to_num(2).argmin())
            lines.append(
                f"What the last states tell of the images is alike by {known.mean():.2f} (CKA, mean over queries; "
                f"1 the same, 0 nothing in common), least for query {least}: {known.min():.2f}."
            )
    return "\n".join(lines)


def figures(found: ModelComparison) -> dict[str, Any]:
    """Every figure, for JSON; None where there is none."""
    state_cka = None
    if found.state_cka is not None:
        state_cka = [[None if v != v else v for v in row] for row in found.state_cka.tolist()]
    tensors = {
        name: getattr(found, name).tolist()
        for name in ("attention_shift", "shift_between_unrelated", "matched_query")
    }
    figures = {"rows": found.rows, "images": found.images, **tensors, "state_cka": state_cka}
    return figures | {old: figures[new] for old, new in OLD_KEYS.items()}
