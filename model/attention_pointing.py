"""The pointing evaluation: how much cross-attention falls on objects, whose masks are known.

Attention is the mean over heads. On patches it is renormalised to one; the share on CLS is reported by itself.
"""

import numpy as np
import torch

from model import scene_text
from model.inference import BatchInference
from model.slot_warmup import region
from qformer_viz.domains.emoji.scenes import Scene, patch_labels, render

GROUPS = 4
PERMUTATIONS = 10_000


def maps(inference: BatchInference, features: torch.Tensor) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Attention maps and outputs of the Q-Former. An InstructBLIP's reads the caption prompt.

    Args:
        inference: the model.
        features: ViT features `[b, 257, d]`.

    Returns:
        Numbers of the cross-attention layers, their maps `[l, b, q, p]`, and the query outputs `[b, q, d]`.
    """
    qformer = inference.model.qformer
    before = qformer.config._attn_implementation
    qformer.set_attn_implementation("eager")
    read = inference.qformer_output(features, [scene_text.CAPTION_PROMPT] * len(features), attentions=True)
    qformer.set_attn_implementation(before)
    numbers = [i for i, layer in enumerate(qformer.encoder.layer) if layer.has_cross_attention]
    crossed = [m for m in read.cross_attentions if m is not None and m.shape[-1] == features.shape[1]]
    queries = inference.model.query_tokens.shape[1]
    attention = torch.stack(crossed).mean(2)[:, :, :queries].cpu().numpy()
    return numbers, attention, read.last_hidden_state[:, :queries].cpu().numpy()


def measure(inference: BatchInference, features: torch.Tensor, scenes: list[Scene]) -> dict:
    """Shares on objects per layer and query, pointing, entropy, distinct queries, and whether index groups differ."""
    numbers, attention, outputs = maps(inference, features)
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
    """Whether some query has its maximum on each object.

    32 queries hit some objects by chance, so compare with the maps of a wrong image.

    Args:
        layer: attention `[b, q, p]`.
        owners: number of the object on each patch `[b, p]`, -1 for none.

    Returns:
        0 or 1 for each object of all images.
    """
    best = layer.argmax(-1)
    hits = []
    for peaks, owner in zip(best, owners, strict=True):
        hits += [bool((owner[peaks] == index).any()) for index in range(owner.max() + 1)]
    return np.array(hits, float)


def specialisation(layer: np.ndarray) -> np.ndarray:
    """Jensen-Shannon divergence of the queries' maps `[b, q, p]`, per image, from 0 (one map) to 1 (disjoint maps)."""
    between = _entropy(layer.mean(1)) - _entropy(layer).mean(1)
    return between / np.log(layer.shape[1])


def effective_rank(outputs: np.ndarray) -> np.ndarray:
    """exp of the entropy of the singular values of the centred queries, per image (Roy and Vetterli 2007)."""
    centred = outputs - outputs.mean(1, keepdims=True)
    values = np.linalg.svd(centred, compute_uv=False)
    return np.exp(_entropy(values / values.sum(-1, keepdims=True)))


def profile(layer: np.ndarray, on_cls: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """Mean attention of each query, standardised, `[q, 5]`: share on objects, on CLS, entropy, column and row."""
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
