"""How good the bundled model is on scenes it has never seen, beside what no image, a wrong image and words give.

    python -m model.emoji evaluate assets/blip2-emoji --scenes 500

Captions: precision, recall and F1 of nouns, counted ("two cats" is two). Questions: share answered exactly.
All greedy. Intervals: 95 % bootstrap over scenes, seed fixed.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import Blip2ForConditionalGeneration, Blip2Processor

from . import text
from .dictation import region
from .language import read_accuracy
from .scenes import Scene, patch_labels, random_scene, render

SEED = 20_250_101
QUESTIONS_PER_SCENE = 6
MAX_NEW_TOKENS = 40
RESAMPLES = 1000


@dataclass(frozen=True)
class Result:
    """One scene's score sheet: noun counts for the caption and (type, exact) per question."""

    matched: int
    said: int
    true: int
    answers: tuple[tuple[str, bool], ...]


def fresh_scenes(count: int, seed: int = SEED) -> list[tuple[Scene, list[text.Question]]]:
    """Scenes with their questions, from a seed that training never uses."""
    rng = np.random.default_rng(seed)
    scenes = [random_scene(rng) for _ in range(count)]
    return [(scene, text.questions(scene, rng, QUESTIONS_PER_SCENE)) for scene in scenes]


class Reader:
    """Greedy answers from a checkpoint; the projected queries stand in for the image, computed once per scene."""

    def __init__(self, folder: Path | str, device: str = "cpu"):
        self.model = (
            Blip2ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).to(device).eval()
        )
        self.processor = Blip2Processor.from_pretrained(folder)

    @torch.no_grad()
    def vision(self, images: Sequence) -> torch.Tensor:
        """RGB images to ViT features `[b, 257, d]`."""
        pixels = self.processor(images=list(images), return_tensors="pt").pixel_values.to(self.model.device)
        return self.model.vision_model(pixel_values=pixels).last_hidden_state

    @torch.no_grad()
    def prefix(self, features: torch.Tensor) -> torch.Tensor:
        """ViT features to the language model's 32 slots `[b, 32, d]`."""
        queries = self.model.query_tokens.expand(len(features), -1, -1)
        read = self.model.qformer(query_embeds=queries, encoder_hidden_states=features, return_dict=True)
        return self.model.language_projection(read.last_hidden_state)

    @torch.no_grad()
    def say(self, prefix: torch.Tensor, prompts: list[str]) -> list[str]:
        """Continue each prompt behind its prefix; prompts are padded on the left of the 32 slots."""
        tokenizer, language_model = self.processor.tokenizer, self.model.language_model
        encoded = tokenizer(prompts, return_tensors="pt", padding=True).to(prefix.device)
        words = language_model.get_input_embeddings()(encoded.input_ids)
        lengths = encoded.attention_mask.sum(1)
        width = prefix.shape[1] + words.shape[1]
        inputs = torch.zeros(len(prompts), width, words.shape[2], device=prefix.device)
        mask = torch.zeros(len(prompts), width, dtype=torch.long, device=prefix.device)
        for row, length in enumerate(lengths.tolist()):
            whole = torch.cat([prefix[row], words[row, words.shape[1] - length :]])
            inputs[row, width - len(whole) :] = whole
            mask[row, width - len(whole) :] = 1
        said = language_model.generate(
            inputs_embeds=inputs, attention_mask=mask, max_new_tokens=MAX_NEW_TOKENS, do_sample=False
        )
        return [line.strip() for line in tokenizer.batch_decode(said, skip_special_tokens=True)]


def score(scene: Scene, asked: list[text.Question], said: list[str]) -> Result:
    """`said`: the caption, then one answer per question."""
    true = Counter(item.noun for item in scene.objects)
    named = text.caption_nouns(said[0])
    answers = tuple((q.type, a == q.answer) for q, a in zip(asked, said[1:], strict=True))
    return Result((true & named).total(), named.total(), true.total(), answers)


def answer_scenes(reader: Reader, sheet, prefixes: torch.Tensor) -> list[Result]:
    """Caption and answer every scene from its prefix `[n, 32, d]`."""
    results = []
    for (scene, asked), prefix in zip(sheet, prefixes, strict=True):
        prompts = [text.CAPTION_PROMPT, *(text.QUESTION_PROMPT.format(q.text) for q in asked)]
        results.append(score(scene, asked, reader.say(prefix.expand(len(prompts), -1, -1), prompts)))
    return results


def summarise(results: Sequence[Result]) -> dict[str, float]:
    """Precision, recall and F1 of nouns, exact answers overall and by type, over the scenes pooled."""
    matched, said, true = (sum(getattr(r, name) for r in results) for name in ("matched", "said", "true"))
    figures = {
        "noun_precision": matched / max(1, said),
        "noun_recall": matched / max(1, true),
        "noun_f1": 2 * matched / max(1, said + true),
    }
    answers = [answer for r in results for answer in r.answers]
    figures["exact"] = float(np.mean([right for _, right in answers]))
    for kind in text.QUESTION_TYPES:
        of_kind = [right for name, right in answers if name == kind]
        if of_kind:
            figures[f"exact_{kind}"] = float(np.mean(of_kind))
    return figures


def with_intervals(results: Sequence[Result]) -> dict[str, dict[str, float]]:
    """Each figure with its 95 % bootstrap interval over scenes."""
    rng = np.random.default_rng(0)
    draws = [
        summarise([results[i] for i in rng.integers(0, len(results), len(results))]) for _ in range(RESAMPLES)
    ]
    summary = {}
    for key, value in summarise(results).items():
        low, high = np.percentile([draw[key] for draw in draws if key in draw], [2.5, 97.5])
        summary[key] = {"value": round(value, 4), "low": round(float(low), 4), "high": round(float(high), 4)}
    return summary


def majority_baseline(sheet) -> dict[str, float]:
    """Always the commonest answer of the type, learned from as many other scenes."""
    common: dict[str, Counter[str]] = {kind: Counter() for kind in text.QUESTION_TYPES}
    for _, asked in fresh_scenes(len(sheet), SEED + 1):
        for question in asked:
            common[question.type][question.answer] += 1
    best = {kind: counts.most_common(1)[0][0] for kind, counts in common.items() if counts}
    right = [(q.type, best.get(q.type) == q.answer) for _, asked in sheet for q in asked]
    figures = {"exact": round(float(np.mean([r for _, r in right])), 4)}
    for kind in text.QUESTION_TYPES:
        figures[f"exact_{kind}"] = round(float(np.mean([r for name, r in right if name == kind])), 4)
    return figures


@torch.no_grad()
def attention_on_objects(reader: Reader, features: torch.Tensor, sheet) -> dict:
    """Share of the patch cross-attention that falls on objects, beside the objects' share of the area.

    "layers": for each cross-attention layer, by its number, the mean over heads and all queries, and over those
    queries alone in whose region (`dictation.region`) an object has its centre.
    """
    qformer = reader.model.qformer
    qformer.set_attn_implementation("eager")
    queries = reader.model.query_tokens.expand(len(features), -1, -1)
    read = qformer(
        query_embeds=queries, encoder_hidden_states=features, output_attentions=True, return_dict=True
    )
    maps = [m for m in read.cross_attentions if m is not None and m.shape[-1] == features.shape[1]]
    numbers = [i for i, layer in enumerate(qformer.encoder.layer) if layer.has_cross_attention]
    attention = torch.stack(maps).mean(2).cpu().numpy()  # [l, b, q, p]
    covered = np.stack([patch_labels(render(scene)).ravel() >= 0 for scene, _ in sheet])
    patches = attention[..., 1:] / attention[..., 1:].sum(-1, keepdims=True)
    on_objects = (patches * covered[:, None]).sum(-1)
    home = [(i, region(o.x, o.y)) for i, (scene, _) in enumerate(sheet) for o in scene.objects]
    own = on_objects[:, [i for i, _ in home], [q for _, q in home]].mean(1)
    return {
        "area_of_objects": round(float(covered.mean()), 4),
        "attention_on_cls": round(float(attention[..., 0].mean()), 4),
        "layers": {
            str(number): {"all": round(float(every.mean()), 4), "own": round(float(at_home), 4)}
            for number, every, at_home in zip(numbers, on_objects, own, strict=True)
        },
    }


def evaluate(folder: Path | str, scenes: int = 500, seed: int = SEED) -> dict:
    """Everything the model card states, as nested plain numbers."""
    sheet = fresh_scenes(scenes, seed)
    reader = Reader(folder)
    images = [render(scene).image for scene, _ in sheet]
    features = torch.cat([reader.vision(images[i : i + 50]) for i in range(0, len(images), 50)])
    prefixes = reader.prefix(features)
    model = with_intervals(answer_scenes(reader, sheet, prefixes))
    # The controls need no narrow interval: a part of the scenes will do.
    part = min(len(sheet), 150)
    average = prefixes.mean(0, keepdim=True).expand(part, -1, -1)
    shuffled = prefixes[:part].roll(1, 0)
    return {
        "scenes": scenes,
        "questions": sum(len(asked) for _, asked in sheet),
        "seed": seed,
        "model": model,
        "no_image": _rounded(summarise(answer_scenes(reader, sheet[:part], average))),
        "shuffled_images": _rounded(summarise(answer_scenes(reader, sheet[:part], shuffled))),
        "majority": majority_baseline(sheet),
        "text_ceiling": read_accuracy(reader.model.language_model, reader.processor.tokenizer),
        "text_ceiling_piled": read_accuracy(
            reader.model.language_model, reader.processor.tokenizer, piled=True
        ),
        "attention": attention_on_objects(reader, features[:part], sheet[:part]),
    }


def _rounded(figures: dict[str, float]) -> dict[str, float]:
    return {key: round(value, 4) for key, value in figures.items()}
