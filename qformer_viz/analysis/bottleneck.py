"""What passes the bottleneck: what can be read off the ViT's patches, off the queries that the language model gets, and
off each query alone. On images of which it is known what they show."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from qformer_viz.analysis.information import PROBES, usable_information

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from qformer_viz.runtime.pipeline import Pipeline
    from qformer_viz.types import ImageSource

LEAST = 0.1


def measure(
    pipe: Pipeline,
    examples: Iterable[tuple[ImageSource, Mapping[str, int | ArrayLike]]],
    questions: Sequence[str] = (),
    on_progress: Callable[[str, int], object] = lambda what, done: None,
) -> dict[str, Any]:
    """Usable information as plain numbers, the fields of `information.Usable` where it says Usable.

    `patches` and `queries`: {probe: {label: Usable}}; `each`: {label: [q]}, the bits that a linear probe reads off one
    query alone; `retention`, see there; `asked`: {question: {label: Usable}}, by the attention probe off the queries of
    a Q-Former that read the question; `sizes`: [vectors, width] of patches and queries; `images`, how many there were;
    `model`, its name.

    examples: (image, {label: integer or booleans}), as `usable_information` takes them, in random order.
    questions: of interest for a Q-Former that reads them. on_progress(what, done): after every image and every
    label.
    """
    patches: list[Tensor] = []
    queries: dict[str | None, list[Tensor]] = {question: [] for question in (None, *questions)}
    read_off: dict[str, list[Tensor]] = {}
    for done, (image, known) in enumerate(examples, 1):
        for question, found in queries.items():
            encoded = pipe.encode(image, question)
            found.append(encoded.queries[0].float().cpu())
        assert encoded.vision is not None, "a pipeline keeps what its ViT says"
        patches.append(encoded.vision[0].half().cpu())
        for name, label in known.items():
            read_off.setdefault(name, []).append(torch.as_tensor(label))
        on_progress("images", done)
    labels = {name: torch.stack(rows) for name, rows in read_off.items()}
    seen = {"patches": torch.stack(patches), "queries": torch.stack(queries.pop(None))}
    steps = 0

    def step(*_: Any) -> None:
        nonlocal steps
        steps += 1
        on_progress("probes", steps)

    def read(features: Tensor, kind: str) -> dict[str, dict[str, float]]:
        found = usable_information(features, labels, kind, on_progress=step)
        return {
            name: {key: round(value, 4) for key, value in asdict(one).items()} for name, one in found.items()
        }

    each = [read(query[:, None], "linear") for query in seen["queries"].unbind(1)]
    both = {name: {kind: read(features, kind) for kind in PROBES} for name, features in seen.items()}
    return {
        "model": pipe.name,
        "images": len(patches),
        "sizes": {name: list(features.shape[1:]) for name, features in seen.items()},
        **both,
        "retention": retention(both["patches"]["attention"], both["queries"]["attention"]),
        "each": {name: [one[name]["bits"] for one in each] for name in labels},
        "asked": {question: read(torch.stack(found), "attention") for question, found in queries.items()},
    }


def retention(patches: Mapping[str, Any], queries: Mapping[str, Any]) -> dict[str, float | None]:
    """{label: bits read off the queries over those read off the patches}; None where those are less than a tenth of the
    label."""
    return {
        name: round(queries[name]["bits"] / one["bits"], 2) if one["bits"] > LEAST * one["entropy"] else None
        for name, one in patches.items()
    }


def table(found: Mapping[str, Any]) -> str:
    """What `measure` found, in Markdown."""
    patches, queries = found["patches"], found["queries"]
    sides = [f"{side}, {kind}" for side in ("patches", "queries") for kind in PROBES]
    heads = ["bits of", "there are", *sides, "retention"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, whole in queries["attention"].items():
        cells = [side[kind][name] for side in (patches, queries) for kind in PROBES]
        shown = " | ".join(f"{cell['bits']:.2f} ({cell['low']:.2f} to {cell['high']:.2f})" for cell in cells)
        kept = found["retention"][name]
        lines.append(f"| {name} | {whole['entropy']:.2f} | {shown} | {'–' if kept is None else kept} |")
    return "\n".join(lines)
