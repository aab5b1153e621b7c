"""Accuracy of the generating models on fresh scenes, and the controls: no image, a wrong image, a written description.

    python -m model evaluate assets/blip2-emoji --scenes 500

Captions: precision, recall and F1 of nouns, counted ("two cats" is two); share that is true altogether; relations;
BLEU-4 and CIDEr against up to five references. Questions: share answered exactly, and the
calibration of the answers' probabilities. All greedy. Intervals: 95 % bootstrap over scenes, seed fixed.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict, Unpack

import numpy as np
import torch
from PIL import Image, ImageFilter

from model import attention_pointing, scene_text, stage_language
from model.inference import BatchInference
from model.stage_language import description_accuracy
from qformer_viz.domains.emoji.scenes import UNSEEN_STYLES, Scene, random_scene, render

SEED = 20_250_101
QUESTIONS_PER_SCENE = 6
REFERENCES = 5
RESAMPLES = 1000
BINS = 10
# Scenes whose projected queries are averaged for the control without an image.
AVERAGED = 16

Sheet = list[tuple[Scene, list[scene_text.Question]]]
SlotsOf = Callable[[int, Sequence[str]], torch.Tensor]


class SceneOptions(TypedDict, total=False):
    """Options of `random_scene`."""

    min_objects: int
    max_objects: int
    nouns: Sequence[str]
    styles: Sequence[str]
    backgrounds: Sequence[str]


@dataclass(frozen=True)
class Result:
    """One scene's score sheet: the caption, its noun counts, and (type, exact, probability) per question."""

    caption: str
    matched: int
    named: int
    true: int
    caption_true: bool
    relation_true: bool | None
    answers: tuple[tuple[str, bool, float], ...]


def fresh_scenes(
    count: int,
    seed: int = SEED,
    wording: str = "plain",
    asked: int = QUESTIONS_PER_SCENE,
    **options: Unpack[SceneOptions],
) -> Sheet:
    """Scenes with their questions, from a seed that training never uses; `options`: those of `random_scene`."""
    rng = np.random.default_rng(seed)
    scenes = [random_scene(rng, **options) for _ in range(count)]
    return [
        (scene, scene_text.questions(scene, rng, asked, wording=wording) if asked else []) for scene in scenes
    ]


def score(
    scene: Scene, asked: list[scene_text.Question], texts: list[str], probabilities: Sequence[float]
) -> Result:
    """Score one scene.

    Args:
        scene: the truth.
        asked: its questions.
        texts: the generated caption, then one answer per question.
        probabilities: that of each text.
    """
    true = Counter(item.noun for item in scene.objects)
    named = scene_text.caption_nouns(texts[0])
    answers = tuple(
        (q.type, a == q.answer, p) for q, a, p in zip(asked, texts[1:], probabilities[1:], strict=True)
    )
    return Result(
        caption=texts[0],
        matched=(true & named).total(),
        named=named.total(),
        true=true.total(),
        caption_true=scene_text.true_of(texts[0], scene),
        relation_true=scene_text.relation_holds(texts[0], scene),
        answers=answers,
    )


def answer_scenes(inference: BatchInference, sheet: Sheet, slots_of: SlotsOf) -> list[Result]:
    """Caption and answer every scene.

    Args:
        inference: the model.
        sheet: scenes with their questions.
        slots_of: (index, n prompts) -> what stands for the image of that scene, `[n, 32, d]`.
    """
    results = []
    for index, (scene, asked) in enumerate(sheet):
        prompts = [scene_text.CAPTION_PROMPT, *(scene_text.QUESTION_PROMPT.format(q.text) for q in asked)]
        results.append(score(scene, asked, *inference.generate(slots_of(index, prompts), prompts)))
    return results


def image_slots(inference: BatchInference, features: torch.Tensor) -> SlotsOf:
    """For `answer_scenes`: the projected queries of each scene's own features, `features` `[n, 257, d]`."""
    return lambda index, prompts: inference.slots(features[index : index + 1], prompts)


def mean_slots(inference: BatchInference, features: torch.Tensor) -> SlotsOf:
    """For `answer_scenes`: always the mean of the projected queries of some images, `features` `[n, 257, d]`."""
    known: dict[str, torch.Tensor] = {}

    def slots_of(_: int, prompts: Sequence[str]) -> torch.Tensor:
        for prompt in prompts:
            key = prompt if inference.reads_questions else ""
            if key not in known:
                known[key] = torch.cat(
                    [inference.slots(f[None], [prompt]) for f in features[:AVERAGED]]
                ).mean(0)
        return torch.stack([known[p if inference.reads_questions else ""] for p in prompts])

    return slots_of


def description_slots(inference: BatchInference, sheet: Sheet) -> SlotsOf:
    """For `answer_scenes`: the written description of each scene in place of its image, one object a slot."""
    describe = stage_language.DescriptionSampler(inference.processor.tokenizer).describe

    def slots_of(index: int, prompts: Sequence[str]) -> torch.Tensor:
        described = describe(sheet[index][0], np.random.default_rng([SEED, index]), True)
        slots = stage_language.embed_description(inference.model.language_model, torch.tensor([described]))
        return slots.detach().expand(len(prompts), -1, -1)

    return slots_of


def summarise(results: Sequence[Result]) -> dict[str, float]:
    """Noun precision, recall and F1, true captions and relations, exact answers by type, over the scenes pooled."""
    matched, named, true = (sum(getattr(r, name) for r in results) for name in ("matched", "named", "true"))
    figures = {
        "noun_precision": matched / max(1, named),
        "noun_recall": matched / max(1, true),
        "noun_f1": 2 * matched / max(1, named + true),
        "caption_true": float(np.mean([r.caption_true for r in results])),
    }
    relations = [r.relation_true for r in results if r.relation_true is not None]
    if relations:
        figures["relation_true"] = float(np.mean(relations))
    answers = [answer for r in results for answer in r.answers]
    if answers:
        figures["exact"] = float(np.mean([right for _, right, _ in answers]))
    for kind in scene_text.QUESTION_TYPES:
        of_kind = [right for name, right, _ in answers if name == kind]
        if of_kind:
            figures[f"exact_{kind}"] = float(np.mean(of_kind))
    return figures


def with_intervals(results: Sequence[Result]) -> dict[str, dict[str, float]]:
    """Each figure with its 95 % bootstrap interval over scenes."""
    return intervals(results, summarise)


def intervals(items: Sequence, figures_of: Callable[[Sequence], dict[str, float]]) -> dict:
    """Each of the figures of `items` with its 95 % bootstrap interval over them."""
    rng = np.random.default_rng(0)
    draws = [
        figures_of([items[i] for i in rng.integers(0, len(items), len(items))]) for _ in range(RESAMPLES)
    ]
    summary = {}
    for key, value in figures_of(items).items():
        low, high = np.percentile([draw[key] for draw in draws if key in draw], [2.5, 97.5])
        summary[key] = {"value": round(value, 4), "low": round(float(low), 4), "high": round(float(high), 4)}
    return summary


def calibration(probabilities: Sequence[float], right: Sequence[bool]) -> dict:
    """Expected calibration error over ten equal bins, and the bins as [mean probability, share right, count]."""
    stated, held = np.asarray(probabilities), np.asarray(right, float)
    place = np.minimum((stated * BINS).astype(int), BINS - 1)
    bins = [
        [
            round(float(stated[place == b].mean()), 4),
            round(float(held[place == b].mean()), 4),
            int(np.sum(place == b)),
        ]
        for b in range(BINS)
        if (place == b).any()
    ]
    error = sum(count * abs(p - share) for p, share, count in bins) / len(stated)
    return {"error": round(error, 4), "bins": bins}


def caption_scores(results: Sequence[Result], sheet: Sheet) -> dict[str, float]:
    """BLEU-4 and CIDEr (pycocoevalcap's, on our own white-space tokens) against up to five references."""
    try:
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
    except ImportError as error:
        raise ImportError('BLEU and CIDEr need pycocoevalcap: pip install -e ".[evaluate]"') from error
    rng = np.random.default_rng(1)
    plain = str.maketrans("", "", ",.")
    references = {
        i: [line.translate(plain) for line in scene_text.reference_captions(scene, rng, REFERENCES)]
        for i, (scene, _) in enumerate(sheet)
    }
    said = {i: [result.caption.translate(plain)] for i, result in enumerate(results)}
    bleu = Bleu(4).compute_score(references, said, verbose=0)[0][3]
    return {
        "bleu4": round(float(bleu), 4),
        "cider": round(float(Cider().compute_score(references, said)[0]), 4),
    }


def majority_baseline(sheet: Sheet) -> dict[str, float]:
    """Accuracy of always giving the commonest answer of the type, counted on as many other scenes."""
    common: dict[str, Counter[str]] = {kind: Counter() for kind in scene_text.QUESTION_TYPES}
    for _, asked in fresh_scenes(len(sheet), SEED + 1):
        for question in asked:
            common[question.type][question.answer] += 1
    best = {kind: counts.most_common(1)[0][0] for kind, counts in common.items() if counts}
    right = [(q.type, best.get(q.type) == q.answer) for _, asked in sheet for q in asked]
    figures = {"exact": round(float(np.mean([r for _, r in right])), 4)}
    for kind in scene_text.QUESTION_TYPES:
        figures[f"exact_{kind}"] = round(float(np.mean([r for name, r in right if name == kind])), 4)
    return figures


def shrink(scene: Scene, factor: float) -> Scene:
    """The same scene with smaller objects."""
    return replace(scene, objects=tuple(replace(o, size=o.size * factor) for o in scene.objects))


def with_noise(picture: Image.Image, sigma: float) -> Image.Image:
    """The image with Gaussian noise of this standard deviation, of 255."""
    noise = np.random.default_rng(0).normal(0, sigma, (*picture.size[::-1], 3))
    return Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8))


def with_blur(picture: Image.Image, radius: float) -> Image.Image:
    """The image after a Gaussian blur of this radius in pixels."""
    return picture.filter(ImageFilter.GaussianBlur(radius))


OBJECTS = (5, 6)
SIZES = (0.85, 0.7, 0.55, 0.4)
NOISES = (10, 20, 40, 60)
BLURS = (0.5, 1.0, 2.0, 3.0)


def evaluate(folder: Path | str, scenes: int = 500, seed: int = SEED) -> dict:
    """Every figure of the model card, as nested plain numbers.

    Args:
        folder: the checkpoint.
        scenes: how many fresh scenes.
        seed: of the scenes.
    """
    inference = BatchInference(folder)
    sheet = fresh_scenes(scenes, seed)
    features = vision_features(inference, [render(scene).image for scene, _ in sheet])
    results = answer_scenes(inference, sheet, image_slots(inference, features))
    # The controls and curves need no narrow interval: a part of the scenes will do.
    part = min(len(sheet), 150)
    some, seen = sheet[:part], features[:part]
    answers = [answer for result in results for answer in result.answers]
    words, tokenizer = inference.model.language_model, inference.processor.tokenizer

    def answered(sheet: Sheet, change: Callable = lambda picture: picture) -> list[Result]:
        features = vision_features(inference, [change(render(scene).image) for scene, _ in sheet])
        return answer_scenes(inference, sheet, image_slots(inference, features))

    def curve(levels: Sequence, results_at: Callable) -> dict:
        return {str(level): _rounded(summarise(results_at(level))) for level in levels}

    unseen = {
        style: answered(fresh_scenes(part, seed + 2, styles=(style,), nouns=nouns))
        for style, nouns in UNSEEN_STYLES.items()
    }
    return {
        "scenes": scenes,
        "questions": len(answers),
        "seed": seed,
        "model": with_intervals(results),
        "captions": caption_scores(results, sheet),
        "calibration": calibration([p for _, _, p in answers], [right for _, right, _ in answers]),
        "no_image": _rounded(summarise(answer_scenes(inference, some, mean_slots(inference, features)))),
        "shuffled_images": _rounded(
            summarise(answer_scenes(inference, some, image_slots(inference, seen.roll(1, 0))))
        ),
        "written": _rounded(summarise(answer_scenes(inference, some, description_slots(inference, some)))),
        "majority": majority_baseline(sheet),
        "text_ceiling": description_accuracy(words, tokenizer),
        "text_ceiling_piled": description_accuracy(words, tokenizer, piled=True),
        "wordings": {
            wording: with_intervals(answered(fresh_scenes(part, seed + 3, wording)))["exact"]
            for wording in ("all", "unseen")
        },
        "unseen_styles": {
            "all": with_intervals([result for results in unseen.values() for result in results]),
            **{style: _rounded(summarise(results)) for style, results in unseen.items()},
        },
        "more_objects": curve(
            OBJECTS,
            lambda n: answered(fresh_scenes(part, seed + 4, asked=0, min_objects=n, max_objects=n)),
        ),
        "undisturbed": _rounded(summarise(results[:part])),
        "smaller": curve(SIZES, lambda f: answered([(shrink(scene, f), asked) for scene, asked in some])),
        "noise": curve(NOISES, lambda sigma: answered(some, lambda picture: with_noise(picture, sigma))),
        "blur": curve(BLURS, lambda radius: answered(some, lambda picture: with_blur(picture, radius))),
        "attention": attention_pointing.measure(inference, seen, [scene for scene, _ in some]),
    }


def vision_features(inference: BatchInference, images: Sequence[Image.Image]) -> torch.Tensor:
    """ViT features of many images, `[n, 257, d]`."""
    return torch.cat([inference.vision(images[i : i + 50]) for i in range(0, len(images), 50)])


def _rounded(figures: dict[str, float]) -> dict[str, float]:
    return {key: round(value, 4) for key, value in figures.items()}
