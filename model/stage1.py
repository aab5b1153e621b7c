"""Stage 1, representation learning: the Q-Former learns from image-caption pairs with the ViT frozen (BLIP-2, 3.2).

Three losses share one Q-Former and differ in the self-attention between queries and text: contrastive (none), matching
(all), generation (text attends to the queries and to earlier text). Captions of this domain repeat, and one caption can
be true of several images: such pairs are positives and never negatives.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F
from transformers import Blip2ForImageTextRetrieval, OPTForCausalLM, PreTrainedTokenizerBase

from model import scene_text
from model.checkpoint_assembly import CAPTION_POSITIONS, DECODER
from model.patch_masking import keep
from model.recipe_options import DEFAULT, LOSSES, Options
from model.stage2 import SEED, augmented_scene, freeze, similarity_penalty, training_scene
from model.training_loop import ATTENTION, Schedule, run
from qformer_viz.domains.emoji.scenes import Scene

BATCH = 40
SCHEDULE = Schedule(steps=2500, lr=6e-4, warmup=150)
# A second run, half of whose scenes are of `stage2.augmented_scene`.
AUGMENTED = Schedule(steps=700, lr=5e-4, warmup=60)
AUGMENTED_SCENES = 6000
TEMPERATURE = 0.07
SMOOTHING = 0.1
# Share of negative texts that are the image's own caption with one thing made false; the others are in-batch.
EDITED = 0.65
IGNORE = -100


def self_attention_mask(kind: str, queries: int, text_mask: torch.Tensor) -> torch.Tensor:
    """The self-attention mask over `[queries | text]` of BLIP-2 (arXiv 2301.12597), figure 2.

    Args:
        kind: one of `LOSSES`.
        queries: how many.
        text_mask: `[b, t]`, 0 on padding.

    Returns:
        bool `[b, 1, q + t, q + t]`; rows attend to columns.
    """
    batch, length = text_mask.shape
    total = queries + length
    is_query = torch.arange(total, device=text_mask.device) < queries
    if kind == "contrastive":
        allowed = is_query[:, None] == is_query[None]
    elif kind == "matching":
        allowed = torch.ones(total, total, dtype=torch.bool, device=text_mask.device)
    elif kind == "generation":
        earlier = torch.ones(total, total, dtype=torch.bool, device=text_mask.device).tril()
        allowed = torch.where(is_query[:, None], is_query[None], is_query[None] | earlier)
    else:
        raise ValueError(f"unknown kind of mask {kind!r}; choose from {', '.join(LOSSES)}")
    real = F.pad(text_mask.bool(), (queries, 0), value=True)
    return (allowed[None] & real[:, None, :])[:, None].expand(batch, 1, total, total)


def _added(allowed: torch.Tensor) -> torch.Tensor:
    """A mask as what is added to scores: any attention implementation takes it, a bool one only SDPA does."""
    return torch.zeros(allowed.shape, device=allowed.device).masked_fill(
        ~allowed, torch.finfo(torch.float32).min
    )


@dataclass(frozen=True)
class Pairs:
    """Captions of a batch: `ids`, `mask` `[b, t]` (start token first); the same for captions made false; `true`
    `[b, b]`: whether caption j is true of image i."""

    ids: torch.Tensor
    mask: torch.Tensor
    false_ids: torch.Tensor
    false_mask: torch.Tensor
    true: torch.Tensor

    def to(self, device: torch.device) -> "Pairs":
        return Pairs(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


def draw_pairs(scenes: list[Scene], tokenizer: PreTrainedTokenizerBase, rng: np.random.Generator) -> Pairs:
    """One true and one false caption for each scene."""
    captions = [scene_text.caption(scene, rng) for scene in scenes]
    wrong = [scene_text.false_caption(scene, rng)[0] for scene in scenes]
    encoded = tokenizer([*captions, *wrong], padding=True, padding_side="right", return_tensors="pt")
    ids, mask = encoded.input_ids.split(len(captions)), encoded.attention_mask.split(len(captions))
    if ids[0].shape[1] > CAPTION_POSITIONS:
        raise ValueError(f"a caption of {ids[0].shape[1]} tokens; the Q-Former reads {CAPTION_POSITIONS}")
    true = torch.tensor([[scene_text.true_of(caption, scene) for caption in captions] for scene in scenes])
    return Pairs(ids[0], mask[0], ids[1], mask[1], true)


class Stage1Losses(nn.Module):
    """The three losses over a `Blip2ForImageTextRetrieval`, with the heads that only training needs."""

    def __init__(
        self,
        model: Blip2ForImageTextRetrieval,
        decoder_id: int,
        losses: tuple[str, ...] = LOSSES,
        diversity: float = 0.0,
    ):
        super().__init__()
        width = model.config.qformer_config.hidden_size
        self.model = model
        self.losses = losses
        self.diversity = diversity
        self.decoder_id = decoder_id
        self.log_temperature = nn.Parameter(torch.tensor(TEMPERATURE).log())
        self.to_word = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        model.vision_model.requires_grad_(False)

    def read(self, kind: str, features: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor, kept=None):
        """Query and text outputs, `[b, q, d]` and `[b, t, d]`, under the mask of `kind`.

        `kept` `[b, p]`: image tokens that may be read; None is all.
        """
        queries = self.model.query_tokens.expand(len(features), -1, -1)
        count = queries.shape[1]
        out = self.model.qformer(
            query_embeds=self.model.embeddings(input_ids=ids, query_embeds=queries),
            query_length=count,
            attention_mask=_added(self_attention_mask(kind, count, mask)),
            encoder_hidden_states=features,
            # Four axes, because the library would size a mask of two for queries and text together.
            encoder_attention_mask=None if kept is None else _added(kept.bool()[:, None, None]),
        ).last_hidden_state
        return out[:, :count], out[:, count:]

    def contrast(self, features: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor, kept=None):
        """Cosine of each image's queries with each caption, `[image, caption, q]`."""
        return self._compare(*self.read("contrastive", features, ids, mask, kept))

    def _compare(self, queries: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        images = F.normalize(self.model.vision_projection(queries), dim=-1)
        captions = F.normalize(self.model.text_projection(words[:, 0]), dim=-1)
        return torch.einsum("iqd,jd->ijq", images.float(), captions.float())

    def match(self, features: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor, kept=None) -> torch.Tensor:
        """Two logits per pair (no, yes), averaged over the queries, `[b, 2]`."""
        return self.model.itm_head(self.read("matching", features, ids, mask, kept)[0]).float().mean(1)

    @torch.no_grad()
    def attended(self, features: torch.Tensor) -> torch.Tensor:
        """Attention on each patch, mean over layers, heads and queries, `[b, patches]`."""
        qformer = self.model.qformer
        before = qformer.config._attn_implementation
        qformer.set_attn_implementation("eager")
        queries = self.model.query_tokens.expand(len(features), -1, -1)
        read = qformer(query_embeds=queries, encoder_hidden_states=features, output_attentions=True)
        qformer.set_attn_implementation(before)
        maps = [m for m in read.cross_attentions if m is not None and m.shape[-1] == features.shape[1]]
        return torch.stack(maps).float().mean((0, 2, 3))[:, 1:]

    def forward(self, features: torch.Tensor, pairs: Pairs, kept: torch.Tensor | None = None):
        """The sum of the chosen losses, and figures to watch."""
        total = features.new_zeros(())
        figures: dict[str, torch.Tensor] = {}
        queries, words = self.read("contrastive", features, pairs.ids, pairs.mask, kept)
        every = self._compare(queries, words)
        if self.diversity:
            total = total + self.diversity * similarity_penalty(queries)
        if "contrastive" in self.losses:
            loss, seen = contrastive_loss(every, pairs.true, self.log_temperature.exp().clamp(0.01, 0.5))
            total, figures = total + loss, figures | seen
        if "matching" in self.losses:
            loss, seen = self._matching(features, pairs, every.max(-1).values.detach(), kept)
            total, figures = total + loss, figures | seen
        if "generation" in self.losses:
            loss, seen = self._generation(features, pairs, kept)
            total, figures = total + loss, figures | seen
        return total, figures

    def _matching(self, features: torch.Tensor, pairs: Pairs, similarity: torch.Tensor, kept):
        weights = (similarity / self.log_temperature.exp().detach()).masked_fill(pairs.true, -torch.inf)
        # A batch in which every caption is true of an image leaves that image without negatives.
        usable = ~pairs.true.all(1) & ~pairs.true.all(0)
        weights = weights[usable][:, usable]
        rows = usable.nonzero()[:, 0]
        text_of = rows[torch.multinomial(weights.softmax(1), 1)[:, 0]]
        image_of = rows[torch.multinomial(weights.T.softmax(1), 1)[:, 0]]
        edited = torch.rand(len(rows), device=features.device) < EDITED
        own, wrong = edited[:, None], (pairs.false_ids[rows], pairs.false_mask[rows])
        width = max(pairs.ids.shape[1], pairs.false_ids.shape[1])
        ids, mask, wrong_ids, wrong_mask = (
            F.pad(part, (0, width - part.shape[1])) for part in (pairs.ids, pairs.mask, *wrong)
        )
        negative_ids = torch.where(own, wrong_ids, ids[text_of])
        negative_mask = torch.where(own, wrong_mask, mask[text_of])
        logits = self.match(
            torch.cat([features, features[rows], features[image_of]]),
            torch.cat([ids, negative_ids, ids[rows]]),
            torch.cat([mask, negative_mask, mask[rows]]),
            None if kept is None else torch.cat([kept, kept[rows], kept[image_of]]),
        )
        label = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
        label[: len(features)] = 1
        right = (logits.argmax(1) == label).float().mean()
        return F.cross_entropy(logits, label), {"matched": right.detach()}

    def _generation(self, features: torch.Tensor, pairs: Pairs, kept):
        ids = pairs.ids.clone()
        ids[:, 0] = self.decoder_id
        words = self.read("generation", features, ids, pairs.mask, kept)[1][:, :-1]
        target = pairs.ids[:, 1:].masked_fill(~pairs.mask[:, 1:].bool(), IGNORE)
        wanted = target != IGNORE
        logits = (self.to_word(words[wanted]) @ self.model.embeddings.word_embeddings.weight.T).float()
        loss = F.cross_entropy(logits, target[wanted], label_smoothing=SMOOTHING)
        return loss, {"words": (logits.argmax(-1) == target[wanted]).float().mean().detach()}


def contrastive_loss(every: torch.Tensor, true: torch.Tensor, temperature: torch.Tensor):
    """Both directions of InfoNCE on the best query of each pair; `every` `[i, j, q]`, `true` `[i, j]`.

    Where several captions are true of an image, they share the target. The entropy of the winning query over the
    batch's own pairs is 0 where one query always wins and 1 where all win equally often.
    """
    best, winner = every.max(-1)
    logits = best / temperature
    loss = logits.new_zeros(())
    for scores, positive in ((logits, true), (logits.T, true.T)):
        target = positive.float() / positive.sum(1, keepdim=True)
        target = (1 - SMOOTHING) * target + SMOOTHING / len(scores)
        loss = loss - 0.5 * (target * scores.log_softmax(1)).sum(1).mean()
    own = torch.bincount(winner.diagonal(), minlength=every.shape[-1]).float()
    share = own / own.sum()
    entropy = -(share * share.clamp_min(1e-9).log()).sum() / np.log(every.shape[-1])
    found = true.gather(0, best.argmax(0)[None])[0].float().mean()
    return loss, {"found": found.detach(), "winners": entropy.detach()}


@torch.no_grad()
def initialise(
    model: Blip2ForImageTextRetrieval, language_model: OPTForCausalLM, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Words start as the language model's embeddings, positions small; linear layers wide enough for 192 channels."""
    words = model.embeddings.word_embeddings.weight
    known = language_model.get_input_embeddings().weight
    words[: len(known)] = known * (words.shape[1] ** -0.5 / known.std())
    words[len(known) :].normal_(std=words.shape[1] ** -0.5)
    model.embeddings.position_embeddings.weight.normal_(std=0.3 * words.shape[1] ** -0.5)
    for part in (model.vision_projection, model.text_projection):
        nn.init.normal_(part.weight, std=part.in_features**-0.5)


def train_stage1(
    accelerator: Accelerator,
    model: Blip2ForImageTextRetrieval,
    tokenizer: PreTrainedTokenizerBase,
    features: np.ndarray,
    out: Path,
    schedule: Schedule = SCHEDULE,
    augmented: tuple[np.ndarray, Schedule] | None = None,
    batch: int = BATCH,
    options: Options = DEFAULT,
) -> Blip2ForImageTextRetrieval:
    """Train the Q-Former of `model` (a `Blip2ForImageTextRetrieval`) on cached ViT features `[n, 257, d]`.

    `augmented`: features of `stage2.augmented_scene` and the schedule of a second run, for half of its batches.
    After the first run the matching head rejects objects of which the ViT is not certain.
    """
    decoder = tokenizer.convert_tokens_to_ids(DECODER)
    module = Stage1Losses(model, decoder, options.losses, options.diversity).to(accelerator.device)
    freeze(module.model, options)
    model.qformer.set_attn_implementation(ATTENTION)

    def stage(
        number: int, sets: list[tuple[np.ndarray, Callable[[int], Scene]]]
    ) -> tuple[Callable[[int], Any], Callable[..., Any]]:
        def draw(step: int):
            rng = np.random.default_rng([SEED, number, step])
            seen, scenes = [], []
            for stored, scene in sets:
                chosen = np.sort(rng.choice(len(stored), batch // len(sets), replace=False))
                seen.append(torch.from_numpy(stored[chosen]))
                scenes += [scene(int(i)) for i in chosen]
            return step, torch.cat(seen), scenes, draw_pairs(scenes, tokenizer, rng), rng

        def loss_of(wrapped, drawn):
            step, seen, scenes, pairs, rng = drawn
            seen, kept = seen.to(accelerator.device).float(), None
            if options.masking != "none":
                attended = module.attended(seen) if options.masking == "attention" else None
                kept = keep(options.masking, scenes, attended, rng).to(accelerator.device)
            if options.shuffled:
                seen = seen.roll(1, 0)
            torch.manual_seed(SEED + step)
            return wrapped(seen, pairs.to(accelerator.device), kept)

        return draw, loss_of

    sets: list[tuple[np.ndarray, Callable[[int], Scene]]] = [(features, training_scene)]
    draw, loss_of = stage(5, sets)
    run("align", accelerator, module, draw, loss_of, schedule, out)
    if augmented:
        sets.append((augmented[0], augmented_scene))
        draw, loss_of = stage(6, sets)
        run("align_strange", accelerator, module, draw, loss_of, augmented[1], out)
    return model.eval()
