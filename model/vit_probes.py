"""The ViT's gate: linear probes on its frozen patches decode what stands on a patch and where its object is.

What the ViT does not encode, the Q-Former cannot learn.
"""

import numpy as np
import torch
from transformers import Blip2VisionModel

from model.stage_vit import GRID, to_pixels
from qformer_viz.domains.emoji.scenes import (
    NOUNS,
    STYLES,
    UNSEEN_STYLES,
    ZONE,
    patch_labels,
    random_scene,
    render,
)

SEED = 4242


@torch.no_grad()
def _patches(vit: Blip2VisionModel, scenes: int, seed: int, styles=STYLES, names=NOUNS):
    """Features `[n, d]` of object patches, their noun `[n]` and the zone (0-8) of the object's centre `[n]`."""
    features, nouns, zones = [], [], []
    rng = np.random.default_rng(seed)
    for _ in range(scenes):
        scene = random_scene(rng, styles=styles, nouns=names)
        rendered = render(scene)
        owners = patch_labels(rendered, GRID).ravel()
        out = vit(pixel_values=to_pixels([np.asarray(rendered.image)])).last_hidden_state[0, 1:]
        on = owners >= 0
        features.append(out[torch.from_numpy(on)].float())
        for owner in owners[on]:
            item = scene.objects[owner]
            nouns.append(NOUNS.index(item.noun))
            zones.append(3 * min(2, int(item.y / ZONE)) + min(2, int(item.x / ZONE)))
    return torch.cat(features), torch.tensor(nouns), torch.tensor(zones)


def _probe(features, labels, classes: int):
    """What multinomial logistic regression learns: (features, labels) -> its share right."""
    torch.manual_seed(0)
    mean, std = features.mean(0), features.std(0)
    standard = (features - mean) / std
    probe = torch.nn.Linear(features.shape[1], classes)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=0.01, weight_decay=0.01)
    for _ in range(300):
        loss = torch.nn.functional.cross_entropy(probe(standard), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def right(features, labels) -> float:
        return round(float((probe((features - mean) / std).argmax(1) == labels).float().mean()), 4)

    return right


def probe_vision(vit: Blip2VisionModel, train_scenes: int = 500, test_scenes: int = 150) -> dict[str, float]:
    """Accuracy per patch on fresh scenes: its noun (of 64) and its object's zone (of 9); and the noun in each artwork
    set that was never trained on."""
    vit = vit.cpu().float().eval()
    seen, nouns, zones = _patches(vit, train_scenes, SEED)
    fresh, fresh_nouns, fresh_zones = _patches(vit, test_scenes, SEED + 1)
    names = _probe(seen, nouns, len(NOUNS))
    found = {
        "noun": names(fresh, fresh_nouns),
        "position": _probe(seen, zones, 9)(fresh, fresh_zones),
    }
    for style, known in UNSEEN_STYLES.items():
        unseen, unseen_nouns, _ = _patches(vit, test_scenes, SEED + 1, (style,), known)
        found[f"noun, {style}"] = names(unseen, unseen_nouns)
    return found
