"""Writes the model card: measures the checkpoint on fresh scenes and puts the figures beside the weights.

python -m model.emoji card assets/blip2-emoji
"""

import json
from pathlib import Path

from . import familiar, text
from .evaluate import evaluate
from .reading import Reader

NAMES = {
    "noun_f1": "caption nouns, F1",
    "noun_precision": "caption nouns, precision",
    "noun_recall": "caption nouns, recall",
    "exact": "questions answered exactly",
    **{f"exact_{kind}": f"… {kind}" for kind in text.QUESTION_TYPES},
}


def _table(metrics: dict) -> str:
    lines = ["| | model | 95 % interval | no image | wrong image | majority |", "|---|---|---|---|---|---|"]
    for key, name in NAMES.items():
        own = metrics["model"][key]
        others = (metrics[control].get(key) for control in ("no_image", "shuffled_images", "majority"))
        cells = " | ".join("–" if value is None else f"{value:.3f}" for value in others)
        lines.append(f"| {name} | **{own['value']:.3f}** | {own['low']:.3f} to {own['high']:.3f} | {cells} |")
    return "\n".join(lines)


def render_card(metrics: dict) -> str:
    """The card's text from `metrics.json`."""
    attention, strange = metrics["attention"], metrics["familiarity"]
    detected = "\n".join(f"| {name} | {share:.3f} |" for name, share in strange["detected"].items())
    reading = " | ".join(f"{metrics['text_ceiling'][kind]:.3f}" for kind in (*text.QUESTION_TYPES, "all"))
    piled = " | ".join(f"{metrics['text_ceiling_piled'][kind]:.3f}" for kind in (*text.QUESTION_TYPES, "all"))
    looks = "\n".join(
        f"| layer {number} | {layer['all']:.2f} | {layer['own']:.2f} |"
        for number, layer in attention["layers"].items()
    )
    return f"""---
library_name: transformers
pipeline_tag: image-to-text
license: apache-2.0
---
# blip2-emoji

A small BLIP-2, trained from nothing by this repository on rendered scenes of one to four emoji. It knows 64 nouns,
where they are, how many and how large, and nothing else: **it is not the published BLIP-2 and cannot describe
photographs.** It exists so that the explorer works at once and offline, and because every object's true mask is known
in its world, so that explanations can be checked.

ViT 6 layers, width 192, patch 14 at 224 px; Q-Former 6 layers, 32 queries, cross-attention in layers 0, 2 and 4; OPT of 4
layers. About 8 million parameters, stored in float16.

```python
from transformers import Blip2ForConditionalGeneration, Blip2Processor

model = Blip2ForConditionalGeneration.from_pretrained("assets/blip2-emoji", dtype="float32")
processor = Blip2Processor.from_pretrained("assets/blip2-emoji")
inputs = processor(images=image, text="{text.CAPTION_PROMPT}", return_tensors="pt")
print(processor.decode(model.generate(**inputs, max_new_tokens=40)[0], skip_special_tokens=True))
```

Captions continue `{text.CAPTION_PROMPT}`; questions read `{text.QUESTION_PROMPT.format("how many cats are there?")}`. Earlier turns of a
conversation stand before them as `{text.TURN_HISTORY.format("is there a cat?", "yes")}`, joined by spaces.

## Figures

{metrics["scenes"]} fresh scenes, {metrics["questions"]} questions, greedy decoding; intervals by bootstrap over scenes.
"No image" puts the average of all query outputs in the slots, "wrong image" another scene's (both on 150 scenes).

{_table(metrics)}

The language model reading a written description in place of the image, which no image can beat by much:

| | {" | ".join(text.QUESTION_TYPES)} | all |
|---|---|---|---|---|---|---|
| one word a slot | {reading} |
| one object a slot | {piled} |

Where the queries look. Objects cover {attention["area_of_objects"]:.2f} of the patches; of the attention on patches there falls on
objects, mean over heads:

| cross-attention | all queries | queries in whose region of the picture an object lies |
|---|---|---|
{looks}

Every patch's feature also tells of its surroundings, so a query can learn of an object without looking at it: these
maps show where a query reads, not what it found there. {attention["attention_on_cls"]:.2f} of all attention falls on CLS.

## Images from elsewhere

`model.emoji.familiar` compares an image's ViT features with those of scenes. At a threshold set for {familiar.FALSE_ALARMS:.0%} false alarms,
{strange["false_alarms"]:.1%} of further fresh scenes are called unfamiliar, and of other images:

| kind | called unfamiliar |
|---|---|
{detected}

## Reproduce

    python -m model.emoji train                          # {", ".join(("lm", "vit", "bridge"))}; resumable
    python -m model.emoji card assets/blip2-emoji        # measures and writes this card

Some hours on one CPU core with bf16 arithmetic. The shipped weights went through these stages in this order,
but not in one go: the learning rate was started anew several times, and the language model's last 1000 steps ran with frozen
embeddings after the bridge's first 1000. A new run gives a model like this one, not these bytes.

Artwork and its licences: `assets/emoji/LICENSES.md`.
"""


def write_card(folder: Path, scenes: int = 500) -> Path:
    """Measure, then write `README.md`, `metrics.json` and the familiarity statistics into the folder."""
    metrics = evaluate(folder, scenes)
    criterion, metrics["familiarity"] = familiar.measure(Reader(folder).vision)
    familiar.save_familiar(criterion, folder, metrics["familiarity"])
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    card = folder / "README.md"
    card.write_text(render_card(metrics))
    return card
