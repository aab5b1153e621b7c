"""Options of the recipe, one flag each; the defaults are the recipe."""

import argparse
from dataclasses import dataclass, fields

from model.checkpoint_assembly import CROSS_EVERY, QUERIES
from model.patch_masking import KINDS
from model.slot_warmup import REGIONS

LOSSES = ("contrastive", "matching", "generation")
BRIDGES = ("qformer", "grid", "average")
STARTS = ("regions", "stage-1")


@dataclass(frozen=True)
class Options:
    """queries        number of queries: 8, 16, 32 or 64
    cross_every    cross-attention in every so-manieth layer of six
    losses         of stage 1; none at all leaves stage 1 out
    start          what stage 2 starts from: queries that attend to a region each, or the queries and layers of stage 1
    masking        which patches stage 1 hides from the Q-Former (`patch_masking.KINDS`); not part of BLIP-2
    diversity      weight of the penalty on queries that are alike, in stage 1 and 2; not part of BLIP-2
    slot_warmup    the warm start of stage 2; not part of BLIP-2
    freeze         "queries" keeps the queries at their random start, "qformer" all of the Q-Former
    bridge         "qformer", or a linear map in its place: of single patches ("grid") or averaged ones ("average")
    shuffled       a control: every image goes with another one's text
    """

    queries: int = QUERIES
    cross_every: int = CROSS_EVERY
    losses: tuple[str, ...] = LOSSES
    start: str = "regions"
    masking: str = "none"
    diversity: float = 0.0
    slot_warmup: bool = True
    freeze: str = "none"
    bridge: str = "qformer"
    shuffled: bool = False


DEFAULT = Options()


def add_flags(parser: argparse.ArgumentParser) -> None:
    """One flag for each option."""
    parser.add_argument("--queries", type=int, choices=sorted(REGIONS), default=QUERIES)
    parser.add_argument("--cross-every", type=int, choices=(1, 2, 3, 6), default=CROSS_EVERY)
    parser.add_argument(
        "--losses", nargs="*", choices=LOSSES, default=list(LOSSES), help="of stage 1; none leaves it out"
    )
    parser.add_argument("--start", choices=STARTS, default="regions", help="of stage 2")
    parser.add_argument("--masking", choices=KINDS, default="none", help="an experiment, not part of BLIP-2")
    parser.add_argument("--diversity", type=float, default=0.0, help="an experiment, not part of BLIP-2")
    parser.add_argument("--no-slot-warmup", "--no-dictation", dest="slot_warmup", action="store_false")
    parser.add_argument("--freeze", choices=("none", "queries", "qformer"), default="none")
    parser.add_argument("--bridge", choices=BRIDGES, default="qformer")
    parser.add_argument("--shuffled", action="store_true", help="a control: wrong images")


def from_arguments(arguments: argparse.Namespace) -> Options:
    chosen = {field.name: getattr(arguments, field.name) for field in fields(Options)}
    return Options(**{**chosen, "losses": tuple(chosen["losses"])})
