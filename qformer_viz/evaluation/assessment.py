"""Whether a map is faithful: one word's map against random order, the centre prior and the model itself; a verdict."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from qformer_viz.attribution.context import ExplanationContext
from qformer_viz.attribution.methods.knockout import compute as knockout
from qformer_viz.attribution.methods.knockout import effects
from qformer_viz.attribution.methods.occlusion import shown
from qformer_viz.errors import BadSelection
from qformer_viz.evaluation.faithfulness import area, curves, dilate, mass, pointing, spearman
from qformer_viz.types import Attribution

FRACTIONS = (0.0, 0.01, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
ERASER = (0.01, 0.05, 0.1, 0.2, 0.5)
RANDOM, SEED, TIE = 5, 0, 0.02


@dataclass(frozen=True, eq=False)
class Assessment:
    """deletion, insertion: {order: log-probabilities at `fractions`}; the orders are MAP, CENTRE and RANDOM_ORDER,
    whose curve is the mean of several. `areas` {order: (deletion, insertion)}, of a whole image as 1 and none as 0;
    None where no patch makes a difference. `comprehensiveness` and `sufficiency` at `ERASER` shares of the patches, in
    nats (DeYoung et al. 2020). `agreement`: rank correlation with query knock-out, None for itself; `of_queries`:
    whether of the weights of queries, else of patches. `pointing`, `mass` and the `chance` of pointing: where the
    object's mask is known. `better` (deletion, insertion): whether the map's area beats every random order, and the
    centre or ties with it, as it does where the object is in the centre."""

    word: str
    method: str
    fractions: tuple[float, ...]
    deletion: dict[str, list[float]]
    insertion: dict[str, list[float]]
    areas: dict[str, tuple[float, float]] | None
    comprehensiveness: tuple[float, ...]
    sufficiency: tuple[float, ...]
    agreement: float | None
    of_queries: bool
    pointing: float | None
    mass: float | None
    chance: float | None
    better: tuple[bool, bool]

    @property
    def sentence(self) -> str:
        """The verdict in one sentence: confirmed, partly confirmed, not confirmed, or not testable."""
        ten = ERASER.index(0.1)
        lost = round(self.comprehensiveness[ten], 1)
        verb = "brings" if lost < 0 else "costs"
        cost = f"Hiding its strongest tenth {verb} “{self.word}” {abs(lost):.1f} nats."
        if self.areas is None:
            return f"Not testable: hiding the whole image from the queries does not make “{self.word}” less likely."
        if all(self.better):
            return (
                f"✓ Confirmed: the map finds patches that matter more than random ones and the centre. {cost}"
            )
        if any(self.better):
            sooner, later = ("shown alone", "hidden") if self.better[1] else ("hidden", "shown alone")
            return (
                f"~ Partly confirmed: its patches matter more than chance and centre when {sooner}, but not when "
                f"{later}. {cost}"
            )
        return f"✗ Not confirmed: its patches matter no more than random ones or the centre. {cost}"


MAP, CENTRE, RANDOM_ORDER = "this map", "the centre first", "random order"


def assess(
    context: ExplanationContext,
    found: Attribution,
    word: int,
    mask: Tensor | None = None,
    on_progress: Callable[[int, int], object] = lambda done, of: None,
) -> Assessment:
    """The verdict on one word (its index in the answer) of an attribution of this case.

    mask: bool [gh, gw], where the word's object is, if that is known. on_progress(done, total): raise from it to stop.
    """
    spoken = context.scorer.words[word]
    if spoken not in found.words:
        raise BadSelection(
            f"a map without “{spoken}”", "the word among those explained", "explain this word first"
        )
    row = word if len(found.words) == len(context.scorer.words) else found.words.index(spoken)
    patches = found.by_frame[row]
    orders = _orders(patches)

    def score(keep: Tensor) -> Tensor:
        return shown(context.scorer, keep.unflatten(1, (context.frames, -1)), on_progress)[:, word]

    both = curves(list(orders.values()), score, FRACTIONS)
    drawn = dict(zip(orders, both, strict=True))
    blank, whole = drawn[MAP][1][[0, -1]].tolist()
    tell = whole - blank > 0.1
    areas = {
        name: tuple(area(curve, whole, blank, FRACTIONS) for curve in pair) for name, pair in drawn.items()
    }
    chance = [areas[name] for name in orders if name not in (MAP, CENTRE)]
    at = [FRACTIONS.index(share) for share in ERASER]
    deletion, insertion = drawn[MAP]
    agreement, of_queries = _agreement(context, found, row, word)
    return Assessment(
        word=spoken,
        method=found.method,
        fractions=FRACTIONS,
        deletion=_mean(drawn, 0),
        insertion=_mean(drawn, 1),
        areas=_merged(areas, chance) if tell else None,
        comprehensiveness=tuple((whole - deletion[at]).tolist()),
        sufficiency=tuple((whole - insertion[at]).tolist()),
        agreement=agreement,
        of_queries=of_queries,
        pointing=None if mask is None else pointing(found.patches[row], mask),
        mass=None if mask is None else mass(found.patches[row], mask),
        chance=None if mask is None else dilate(mask).float().mean().item(),
        better=(
            areas[MAP][0] < min(areas[CENTRE][0] + TIE, *(each[0] for each in chance)),
            areas[MAP][1] > max(areas[CENTRE][1] - TIE, *(each[1] for each in chance)),
        ),
    )


def _orders(patches: Tensor) -> Mapping[str, Tensor]:
    rows, columns = patches.shape[-2:]
    y, x = torch.linspace(-1, 1, rows)[:, None], torch.linspace(-1, 1, columns)
    rng = torch.Generator().manual_seed(SEED)
    chance = {f"{RANDOM_ORDER} {i}": torch.rand(patches.shape, generator=rng) for i in range(RANDOM)}
    return {MAP: patches, CENTRE: torch.exp(-(x**2 + y**2)).expand_as(patches), **chance}


def _mean(drawn: Mapping[str, tuple[Tensor, Tensor]], which: int) -> dict[str, list[float]]:
    chance = torch.stack([pair[which] for name, pair in drawn.items() if name.startswith(RANDOM_ORDER)])
    curves_ = {MAP: drawn[MAP][which], CENTRE: drawn[CENTRE][which], RANDOM_ORDER: chance.mean(0)}
    return {name: curve.tolist() for name, curve in curves_.items()}


def _merged(areas: dict, chance: list) -> dict[str, tuple[float, float]]:
    mean = tuple(sum(each[which] for each in chance) / len(chance) for which in (0, 1))
    return {MAP: areas[MAP], CENTRE: areas[CENTRE], RANDOM_ORDER: mean}


def _agreement(
    context: ExplanationContext, found: Attribution, row: int, word: int
) -> tuple[float | None, bool]:
    if found.method == "knockout":
        return None, True
    if found.of_queries:
        return spearman(found.queries[row], effects(context)[word]), True
    by_frame = knockout(context)[word].unflatten(0, (context.frames, -1)).sum(1)
    return spearman(found.by_frame[row].flatten(), by_frame.flatten()), False
