"""The ViT's gate: linear probes on its frozen patches decode what stands on a patch and where its object is.

What the ViT does not hold, the bridge cannot learn.
"""

import numpy as np
import torch

from .scenes import NOUNS, ZONE, patch_labels, random_scene, render
from .vision import GRID, to_pixels

SEED = 4242


@torch.no_grad()
def _patches(vit, scenes: int, seed: int):
    """Features `[n, d]` of object patches, their noun `[n]` and the zone (0-8) of the object's centre `[n]`."""
    features, nouns, zones = [], [], []
    rng = np.random.default_rng(seed)
    for _ in range(scenes):
        scene = random_scene(rng)
        drawn = render(scene)
        owners = patch_labels(drawn, GRID).ravel()
        out = vit(pixel_values=to_pixels([np.asarray(drawn.image)])).last_hidden_state[0, 1:]
        on = owners >= 0
        features.append(out[torch.from_numpy(on)].float())
        for owner in owners[on]:
            item = scene.objects[owner]
            nouns.append(NOUNS.index(item.noun))
            zones.append(3 * min(2, int(item.y / ZONE)) + min(2, int(item.x / ZONE)))
    return torch.cat(features), torch.tensor(nouns), torch.tensor(zones)


def _probe(train_x, train_y, test_x, test_y, classes: int) -> float:
    """Held-out accuracy of multinomial logistic regression."""
    torch.manual_seed(0)
    mean, std = train_x.mean(0), train_x.std(0)
    train_x, test_x = (train_x - mean) / std, (test_x - mean) / std
    probe = torch.nn.Linear(train_x.shape[1], classes)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=0.01, weight_decay=0.01)
    for _ in range(300):
        loss = torch.nn.functional.cross_entropy(probe(train_x), train_y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return round(float((probe(test_x).argmax(1) == test_y).float().mean()), 4)


def probe_vision(vit, train_scenes: int = 500, test_scenes: int = 150) -> dict[str, float]:
    """Accuracy per patch on fresh scenes: its noun (of 64) and its object's zone (of 9)."""
    vit = vit.cpu().float().eval()
    train_x, train_noun, train_zone = _patches(vit, train_scenes, SEED)
    test_x, test_noun, test_zone = _patches(vit, test_scenes, SEED + 1)
    return {
        "noun": _probe(train_x, train_noun, test_x, test_noun, len(NOUNS)),
        "position": _probe(train_x, train_zone, test_x, test_zone, 9),
    }
