"""Writes the model cards: measures a checkpoint on fresh scenes and puts the figures and plots beside the weights.

python -m model card assets/blip2-emoji

A card is made of `metrics.json` and of what other commands left beside it (`card_sections`); `python -m model card FOLDER --again` draws it anew without measuring.
"""

import json
from pathlib import Path

from model import card_plots, card_sections, scene_text
from model.evaluation import evaluate
from model.inference import BatchInference
from model.retrieval_evaluation import RERANKED, evaluate_retrieval, is_retrieval
from qformer_viz.domains.emoji import ood_detector

METRICS = "metrics.json"
ANSWERING = {
    "noun_f1": "caption nouns, F1",
    "noun_precision": "caption nouns, precision",
    "noun_recall": "caption nouns, recall",
    "caption_true": "captions true altogether",
    "relation_true": "relations stated in captions, true",
    "exact": "questions answered exactly",
    **{f"exact_{kind}": f"… {kind}" for kind in scene_text.QUESTION_TYPES},
}
COMPARING = {
    "image_of_text_contrastive_1": "text to image, recall at 1",
    "image_of_text_contrastive_5": "text to image, recall at 5",
    "image_of_text_reranked_1": "text to image, re-ranked, recall at 1",
    "image_of_text_reranked_5": "text to image, re-ranked, recall at 5",
    "text_of_image_contrastive_1": "image to text, recall at 1",
    "text_of_image_contrastive_5": "image to text, recall at 5",
    "text_of_image_reranked_1": "image to text, re-ranked, recall at 1",
    "text_of_image_reranked_5": "image to text, re-ranked, recall at 5",
    "matching_hard": "matching, hardest wrong pair",
    "matching_edited": "matching, caption with one thing made false",
    "matching_edited_noun": "… a noun",
    "matching_edited_count": "… a count",
    "matching_edited_relation": "… a relation",
}

FRONT = """---
library_name: transformers
license: apache-2.0{tag}
---
# {title}

"""
WORLD = """It was trained from nothing by this repository on rendered scenes of one to four emoji. It knows 64 nouns, where
they are, how many and how large, and nothing else: **it is not the published {published} and knows nothing of
photographs.** It exists so that the explorer works at once and offline, and because every object's true mask is known in
its scenes, so that explanations can be checked.

ViT 6 layers, width 192, patch 14 at 224 px; Q-Former 6 layers, 32 queries, cross-attention in layers 0, 2 and 4{words}.
Stored in float16.

"""
FOOT = """## Reproduce

    python -m model train                          # every stage; resumable
    python -m model card assets/{folder}{pad}# measures and writes this card

All three bundled models come from one run of that command, as it is, on two cores ([its curves]({curves}#how-it-was-trained)). A
new run gives models like these, not these bytes. What was tried and did not work: `model/LOG.md`.
Artwork and its licences: `assets/emoji/LICENSES.md`.
"""


def render_card(metrics: dict, folder: str = "blip2-emoji", tables: str = "") -> str:
    """The card's text from the figures of `metrics.json`; `tables` go before its foot."""
    parts = _retrieving(metrics) if "pool" in metrics else _speaking(metrics, folder)
    curves = "" if folder == "blip2-emoji" else "../blip2-emoji/README.md"
    return parts + tables + FOOT.format(folder=folder, pad=" " * max(1, 20 - len(folder)), curves=curves)


def _speaking(metrics: dict, folder: str) -> str:
    instruct = folder.startswith("instruct")
    published = "InstructBLIP" if instruct else "BLIP-2"
    architecture = "InstructBlip" if instruct else "Blip2"
    what = "A small InstructBLIP, whose Q-Former also reads the question." if instruct else "A small BLIP-2."
    controls = """
Controls, on 150 scenes: "written" puts a written description in the slots, one object a slot, which no image can beat
by much; "no image" the average of other images' query outputs, "shuffled images" another scene's; "majority" always gives
the commonest answer.
"""
    return (
        FRONT.format(title=folder, tag="\npipeline_tag: image-to-text")
        + what
        + " "
        + WORLD.format(published=published, words="; OPT of 4 layers")
        + f"""```python
from transformers import {architecture}ForConditionalGeneration, {architecture}Processor

model = {architecture}ForConditionalGeneration.from_pretrained("assets/{folder}", dtype="float32")
processor = {architecture}Processor.from_pretrained("assets/{folder}")
inputs = processor(images=image, text="{scene_text.CAPTION_PROMPT}", return_tensors="pt")
print(processor.decode(model.generate(**inputs, max_new_tokens=40)[0], skip_special_tokens=True))
```

Captions continue `{scene_text.CAPTION_PROMPT}`; questions read `{scene_text.QUESTION_PROMPT.format("how many cats are there?")}`. Earlier turns of a
conversation stand before them as `{scene_text.TURN_HISTORY.format("is there a cat?", "yes")}`, joined by spaces.

## Figures

{metrics["scenes"]} fresh scenes, {metrics["questions"]} questions, greedy decoding; 95 % intervals by bootstrap over scenes. "Unseen
artwork" is two emoji sets that no stage was ever trained on.{controls}
{_table(ANSWERING, metrics, ("written", "no_image", "shuffled_images", "majority"))}

Captions against up to five references: BLEU-4 {metrics["captions"]["bleu4"]:.3f}, CIDEr {metrics["captions"]["cider"]:.2f}. Questions in the paraphrases of
training are answered exactly in {_interval(metrics["wordings"]["all"])} of cases, in paraphrases never trained on in
{_interval(metrics["wordings"]["unseen"])}.

{_ceilings(metrics)}
## Harder images

![caption F1 and exact answers on smaller objects, noise and blur](figures/curves.svg)

{_harder(metrics)}
## Calibration

![reliability of the answers' probabilities](figures/calibration.svg)

Expected calibration error of an answer's own probability: {metrics["calibration"]["error"]:.3f}.

{_pointing(metrics["attention"])}{_out_of_distribution(metrics["familiarity"])}"""
    )


def _retrieving(metrics: dict) -> str:
    winners = sorted(metrics["winners"], reverse=True)
    used = sum(count > 0 for count in winners)
    return (
        FRONT.format(title="blip2-emoji-itm", tag="")
        + "What stage 1 of the recipe leaves: a small BLIP-2 that compares texts with images. "
        + WORLD.format(published="BLIP-2", words=", which also reads text")
        + f"""```python
import qformer_viz

for match in qformer_viz.load_matcher("assets/blip2-emoji-itm").rank(
    image, ["a cat above a dog", "a dog above a cat"]
):
    print(match.text, match.probability, match.similarity)
```

It loads as transformers' `Blip2ForImageTextRetrieval`.

## Figures

{metrics["scenes"]} fresh scenes in pools of {metrics["pool"]}; a caption counts as found if it is true of the image. Matching is balanced over true pairs
and false ones; 95 % intervals by bootstrap. "Unseen artwork" is two emoji sets that no stage was ever trained on.

{_table(COMPARING, metrics, ())}

Training captions name every object, so a text that leaves one out is wrong to it: of a cat and a dog, "a dog" gets next to nothing.
Re-ranked: the {RERANKED} most similar, by matching probability plus similarity. In matching, 0.5 is chance: where the figure
for relations lies there, "to the left of" and "to the right of" are alike to this model. Calibration error of the
matching probability: {metrics["calibration"]["error"]:.3f}.

![reliability of the matching probability](figures/calibration.svg)

## Which query wins

The similarity of a pair is that of its best query. Over all scenes {used} of {len(winners)} queries win at least once; the one that
wins most, in {winners[0] / max(1, sum(winners)):.0%} of images.

![how often each query wins](figures/winners.svg)

"""
    )


def _table(names: dict[str, str], metrics: dict, controls: tuple[str, ...]) -> str:
    heads = ["", "known artwork", "unseen artwork", *(control.replace("_", " ") for control in controls)]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    unseen = metrics["unseen_styles"]["all"]
    for key, name in names.items():
        if key not in metrics["model"]:
            continue
        others = (metrics[control].get(key) for control in controls)
        cells = [
            name,
            f"**{_interval(metrics['model'][key])}**",
            _interval(unseen[key]) if key in unseen else "–",
        ]
        cells += ["–" if value is None else f"{value:.3f}" for value in others]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _interval(figure: dict) -> str:
    return f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"


def _ceilings(metrics: dict) -> str:
    kinds = (*scene_text.QUESTION_TYPES, "all")
    rows = "\n".join(
        f"| {name} | {' | '.join(format(metrics[key][kind], '.3f') for kind in kinds)} |"
        for name, key in (("one word a slot", "text_ceiling"), ("one object a slot", "text_ceiling_piled"))
    )
    return f"""The language model reading a written description, questions only:

| | {" | ".join(kinds)} |
{"|---" * (len(kinds) + 1)}|
{rows}

"""


def _harder(metrics: dict) -> str:
    lines = ["| scenes with | caption nouns, F1 | captions true altogether |", "|---|---|---|"]
    for count, figures in metrics["more_objects"].items():
        lines.append(f"| {count} objects | {figures['noun_f1']:.3f} | {figures['caption_true']:.3f} |")
    return (
        "\n".join(lines)
        + "\n\nTraining scenes hold at most four objects, and the words for numbers end at four.\n\n"
    )


def _pointing(attention: dict) -> str:
    rows = "\n".join(
        f"| layer {number} | {layer['all']:.2f} | {layer['own']:.2f} | {layer['pointing']:.2f} "
        f"({layer['pointing_wrong_image']:.2f}) | {layer['entropy']:.2f} | {layer['specialisation']:.2f} | {layer['cls']:.2f} |"
        for number, layer in attention["layers"].items()
    )
    groups = attention["groups"]
    return f"""## Where the queries attend

![share of each query's attention on objects, by layer](figures/attention.svg)

Objects cover {attention["area_of_objects"]:.2f} of the patches. Mean over heads; shares of the attention on patches:

| cross-attention | on objects, all queries | queries in whose region an object lies | object hit by some query's peak (wrong image) | entropy, 1 is even | specialisation | on CLS |
|---|---|---|---|---|---|---|
{rows}

Every patch's feature also encodes its surroundings, so a query can encode an object without attending to it: these maps
show where a query attends, not what it found there. The outputs of the 32 queries amount to {attention["distinct_queries"]:.1f} distinct ones
(effective rank). Groups 0-7, 8-15, 16-23, 24-31: {groups["between"]:.2f} of the variance of what queries do lies between the groups,
{groups["chance"]:.2f} would by chance (permutation test, p = {groups["p"]:.4f}). Here the recipe starts each query at a region of the picture in
reading order, so neighbours in number are neighbours in place: groups differ by construction, which says nothing about
published models.

"""


def _out_of_distribution(measured: dict) -> str:
    rows = "\n".join(f"| {name} | {share:.3f} |" for name, share in measured["detected"].items())
    return f"""## Out-of-distribution images

`qformer_viz.domains.emoji.ood_detector` is a linear probe on an image's ViT features, trained on scenes against rendered images of other kinds.
At a threshold set for {ood_detector.FALSE_ALARMS:.0%} false alarms, {measured["false_alarms"]:.1%} of further fresh scenes are called out of distribution, and of other
images (each rendered kind is measured by a probe that was trained on the others; none is trained on photographs):

| kind | called out of distribution |
|---|---|
{rows}

"""


def write_card(folder: Path, scenes: int = 500, again: bool = False, curves: Path | None = None) -> Path:
    """Measure (unless `again`), then write `README.md`, `metrics.json`, plots and the out-of-distribution detector. `curves`:
    the `--out` of the training whose curves the card is to show."""
    record = folder / METRICS
    if again:
        metrics = json.loads(record.read_text(encoding="utf-8"))
    elif is_retrieval(folder):
        metrics = evaluate_retrieval(folder, scenes)
    else:
        metrics = evaluate(folder, scenes)
        detector, metrics["familiarity"] = ood_detector.measure(BatchInference(folder).vision)
        ood_detector.save_ood_detector(detector, folder, metrics["familiarity"])
    if curves:
        card_sections.keep_training(curves, folder)
    record.write_text(json.dumps(metrics, indent=1) + "\n")
    card_plots.draw(metrics, folder / "figures")
    card_sections.draw(folder)
    card = folder / "README.md"
    card.write_text(card_of(folder))
    return card


def card_of(folder: Path) -> str:
    """The card that belongs to what lies in the folder."""
    metrics = json.loads((folder / METRICS).read_text(encoding="utf-8"))
    return render_card(metrics, folder.name, card_sections.sections(folder))
