"""Warm start of stage 2, supervised slot by slot: each query learns which words to hold.

The image is divided into 4 x 8 regions, one per query. The four words of an object stand in the slot of the region that
holds its centre; the other slots hold a filler. The prefix is compared with this written description, which the frozen
language model can already read. BLIP-2 has no such start: its stage 2 has the loss of the language model alone, which
follows here and decides.
"""

import torch

from model.scene_text import DESCRIPTION_SLOTS, FILLER, description_words
from qformer_viz.domains.emoji.scenes import IMAGE_SIZE, Scene

# Columns and rows of regions by the number of queries.
REGIONS = {8: (4, 2), 16: (4, 4), 32: (4, 8), 64: (8, 8)}
# Weight of the slots that hold nothing: 28 or more of the 32 do.
EMPTY = 0.3
READ = 0.3


def region(x: float, y: float, queries: int = DESCRIPTION_SLOTS) -> int:
    """The slot, in reading order, of the region that holds a point in pixels."""
    columns, rows = REGIONS[queries]
    column = min(columns - 1, max(0, int(x / IMAGE_SIZE * columns)))
    row = min(rows - 1, max(0, int(y / IMAGE_SIZE * rows)))
    return row * columns + column


def regional_description(scene: Scene, queries: int = DESCRIPTION_SLOTS) -> list[list[str]]:
    """As `scene_text.piled_description`, with every object in the slot of its region, or the nearest free one."""
    slots: list[list[str]] = [[FILLER] for _ in range(queries)]
    for item in scene.objects:
        home = region(item.x, item.y, queries)
        free = [slot for slot in range(queries) if slots[slot] == [FILLER]]
        slots[min(free, key=lambda slot: (abs(slot - home), slot))] = description_words(item)
    return slots


def slot_loss(
    prefix: torch.Tensor, described: torch.Tensor, words: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Distance of a prefix to its description.

    Squared distance relative to the mean squared length of an object's vector (an empty prefix costs a little more than
    1), plus the cross-entropy of an object's words among all words.

    Args:
        prefix: `[b, 32, d]`.
        described: ids of the words of each slot `[b, 32, 4]`, -1 for none.
        words: frozen embeddings `[v, d]`.

    Returns:
        The loss, and the share of objects' words that the prefix is nearest to.
    """
    given = described >= 0
    targets = (words[described.clamp_min(0)] * given[..., None]).sum(-2).float()
    full = given.all(-1)
    scale = targets[full].square().sum(-1).mean()
    distance = (prefix.float() - targets).square().sum(-1) / scale
    held, ids = prefix[full].float(), described[full]
    logits = held @ words.float().T * (10 / scale)
    read = -logits.log_softmax(-1).gather(1, ids).mean()
    right = (logits.topk(ids.shape[1]).indices[:, :, None] == ids[:, None, :]).any(1).float().mean()
    return distance[full].mean() + EMPTY * distance[~full].mean() + READ * read, right.detach()
