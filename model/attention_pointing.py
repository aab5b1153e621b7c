"""Cross-attention against the truth: every object's mask is known, so where queries look can be scored.

Attention is the mean over heads; on patches it is renormalised to one, and the share on CLS is told apart.
"""

import numpy as np
import torch

from model import scene_text
from model.inference import Reader
from model.slot_warmup import region
from qformer_viz.domains.emoji.scenes import Scene, patch_labels, render

GROUPS = 4
PERMUTATIONS = 10_000


def maps(reader: Reader, features: torch.Tensor) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Numbers of the cross-attention layers, their maps `[l, b, q, p]`, and the query outputs `[b, q, d]`.

    An InstructBLIP's Q-Former reads the caption prompt.
    """
    qformer = reader.model.qformer
    before = qformer.config._attn_implementation
    qformer.set_attn_implementation("eager")
    read = reader.query(features, [scene_text.CAPTION_PROMPT] * len(features), attentions=True)
    qformer.set_attn_implementation(before)
    numbers = [i for i, layer in enumerate(qformer.encoder.layer) if layer.has_cross_attention]
    crossed = [m for m in read.cross_attentions if m is not None and m.shape[-1] == features.shape[1]]
    queries = reader.model.query_tokens.shape[1]
    attention = torch.stack(crossed).mean(2)[:, :, :queries].cpu().numpy()
    return numbers, attention, read.last_hidden_state[:, :queries].cpu().numpy()


def measure(reader: Reader, features: torch.Tensor, scenes: list[Scene]) -> dict:
    """Shares on objects per layer and query, pointing, entropy, distinct queries, and whether index groups differ."""
    numbers, attention, outputs = maps(reader, features)
    owners = np.stack([patch_labels(render(scene)).ravel() for scene in scenes])
    patches = attention[..., 1:] / attention[..., 1:].sum(-1, keepdims=True)
    home = [
        (i, region(o.x, o.y, attention.shape[2])) for i, scene in enumerate(scenes) for o in scene.objects
    ]
    layers = {}
    for number, layer, whole in zip(numbers, patches, attention, strict=True):
        on_objects = (layer * (owners >= 0)[:, None]).sum(-1)
        at_home = on_objects[[i for i, _ in home], [q for _, q in home]]
        layers[str(number)] = {
            "all": _round(on_objects.mean()),
            "own": _round(at_home.mean()),
            "cls": _round(whole[..., 0].mean()),
            "entropy": _round(_entropy(layer).mean() / np.log(layer.shape[-1])),
            "pointing": _round(pointing(layer, owners).mean()),
            "pointing_wrong_image": _round(pointing(np.roll(layer, 1, 0), owners).mean()),
            "specialisation": _round(specialisation(layer).mean()),
            "per_query": [_round(share) for share in on_objects.mean(0)],
        }
    return {
        "area_of_objects": _round((owners >= 0).mean()),
        "attention_on_cls": _round(attention[..., 0].mean()),
        "layers": layers,
        "distinct_queries": _round(effective_rank(outputs).mean()),
        "groups": group_test(profile(patches[-1], attention[-1, ..., 0], owners)),
    }


def pointing(layer: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """For each object, whether some query has its maximum on it; `layer` `[b, q, p]`, `owners` `[b, p]`.

    32 tries hit something by themselves: compare with the maps of a wrong image.
    """
    best = layer.argmax(-1)
    hits = []
    for peaks, owner in zip(best, owners, strict=True):
        hits += [bool((owner[peaks] == index).any()) for index in range(owner.max() + 1)]
    return np.array(hits, float)


def specialisation(layer: np.ndarray) -> np.ndarray:
    """Per image, in [0, 1]: 0 when all queries share one map, 1 when their maps are disjoint (Jensen-Shannon)."""
    between = _entropy(layer.mean(1)) - _entropy(layer).mean(1)
    return between / np.log(layer.shape[1])


def effective_rank(outputs: np.ndarray) -> np.ndarray:
    """exp of the entropy of the singular values of the centred queries, per image (Roy and Vetterli 2007)."""
    centred = outputs - outputs.mean(1, keepdims=True)
    values = np.linalg.svd(centred, compute_uv=False)
    return np.exp(_entropy(values / values.sum(-1, keepdims=True)))


def profile(layer: np.ndarray, on_cls: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """What each query does on average, standardised, `[q, 5]`: share on objects, on CLS, entropy, column and row."""
    side = round(layer.shape[-1] ** 0.5)
    rows, columns = np.divmod(np.arange(layer.shape[-1]), side)
    features = [
        (layer * (owners >= 0)[:, None]).sum(-1),
        on_cls,
        _entropy(layer),
        layer @ columns,
        layer @ rows,
    ]
    table = np.stack([feature.mean(0) for feature in features], 1)
    return (table - table.mean(0)) / table.std(0).clip(1e-9)


def group_test(table: np.ndarray, permutations: int = PERMUTATIONS) -> dict:
    """Do queries 0-7, 8-15, ... differ? Share of variance between the groups, and its permutation p-value.

    `table` `[q, f]`; chance is the mean share over random orders of the queries.
    """
    rng = np.random.default_rng(0)

    def between(order: np.ndarray) -> float:
        groups = table[order].reshape(GROUPS, -1, table.shape[1])
        return float((groups.mean(1) ** 2).mean() / max((table**2).mean(), 1e-12))

    found = between(np.arange(len(table)))
    chance = np.array([between(rng.permutation(len(table))) for _ in range(permutations)])
    p = (1 + int((chance >= found).sum())) / (1 + permutations)
    return {"between": _round(found), "chance": _round(chance.mean()), "p": round(p, 5)}


def _entropy(shares: np.ndarray) -> np.ndarray:
    return -(shares * np.log(np.clip(shares, 1e-12, None))).sum(-1)


def _round(value) -> float:
    return round(float(value), 4)
