"""Stage `lm`: a small OPT language model that learns to read.

Its 32 first positions, where the query outputs will stand later, hold a written description of a scene
(`cat b 7 large`, in random order among fillers); behind them stand a caption and question turns. It is trained
on captions and answers only, so the prefix is the only place to learn from. Most rows pile an object's four
words into one slot (their embeddings added), because one query, unlike one word, can hold a whole object.

Four runs, each from where the last one ended. `lm_drill`: bare look-ups among questions (`DescriptionSampler.drill`).
`lm_read`: questions that do not see one another (packed rows), objects piled; rows of nine turns alone stay at
chance for over a thousand steps. `lm`: conversations too, objects in single words too, noise on the prefix, all
wordings; half of the questions compare two things, which stays at chance for left against right and for "smaller"
while it is one kind among many; and invented words among the known ones, so that a sentence is understood by the
words that matter. `lm_captions`: more captions than questions, for the relation that a caption states is learned last:
the second noun must fit a relation word that comes before it.
"""

from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from transformers import OPTConfig, OPTForCausalLM, PreTrainedTokenizerBase

from model import scene_text
from model.training_loop import Schedule, run
from model.training_sequences import IGNORE, Rows, SequenceBuilder, answer_loss
from qformer_viz.domains.emoji.scenes import NOUNS, Scene, random_scene

HIDDEN = 192
POSITIONS = 256
BATCH = 32
DRILL = Schedule(steps=500, lr=1.5e-3)
READ = Schedule(steps=800, lr=1.2e-3)
MIXED = Schedule(steps=4200, lr=1.2e-3, warmup=150)
DESCRIBE = Schedule(steps=1500, lr=8e-4, warmup=60)
# So many steps are all drill; after them every fourth step of `lm_drill` is.
DRILL_ONLY = 300
DRILL_BATCH, DRILL_NOUNS = 64, 10
# Shares of the question types in `lm`, of questions with invented words, and of rows whose objects are piled.
MIX = {
    "presence": 0.06,
    "count": 0.1,
    "position": 0.14,
    "relation": 0.12,
    "size": 0.06,
    "comparison": 0.52,
}
MUMBLED = 0.35
PILED = 0.8
# Wordings of the caption in a packed row: to name each object once is learned late.
CAPTIONS = 3
# Captions and questions in a row of `lm_captions`.
MORE_CAPTIONS, FEWER_TURNS = 8, 5
# Noise on the prefix, relative to its root mean square: the Q-Former's will not be exact either.
NOISE = 0.15
# Scales whose words start in order: how much of a word's start is its own, and the size of what it shares.
OWN, ORDERED = 0.5, 0.036
SCALES = (scene_text.COLUMNS, scene_text.ROWS, tuple(scene_text.SIZE_LEVELS), scene_text.NUMBERS)
# Gain of the look-back heads at the start: large enough to single out one position.
SHARPNESS = 3.0
SEED = 11


def language_config(tokenizer: PreTrainedTokenizerBase) -> OPTConfig:
    return OPTConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        word_embed_proj_dim=HIDDEN,
        num_hidden_layers=4,
        num_attention_heads=4,
        ffn_dim=4 * HIDDEN,
        max_position_embeddings=POSITIONS,
        dropout=0.0,
        init_std=0.02,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


@torch.no_grad()
def initialise(model: OPTForCausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
    """Start with the two kinds of heads that reading needs and that take longest to form by themselves.

    From the library's plain start, "is there a cat?" stays at chance for over a thousand steps. Here positions
    start as sinusoids; in the first two layers most heads attend one, two or three tokens back (queries are keys
    rotated by as many steps, so each word can gather the words before it), and elsewhere half of the heads share
    one matrix between queries and keys, so that equal words attend to one another. A plural starts where its
    singular is. Columns, rows, sizes and numbers start as points of a smooth line each, so that what is near is alike
    and comparing two of them is a difference. All of it is free to change.
    """
    heads = model.config.num_attention_heads
    width = HIDDEN // heads
    decoder = model.model.decoder
    table = decoder.embed_positions.weight
    frequencies = 1.0 / 50 ** (torch.arange(HIDDEN // 2) / (HIDDEN // 2))
    phases = torch.arange(len(table))[:, None] * frequencies
    table[:, 0::2], table[:, 1::2] = 0.03 * phases.sin(), 0.03 * phases.cos()
    words = model.get_input_embeddings().weight
    words *= 1.5
    for noun in NOUNS:
        one, many = (
            tokenizer(f" {word}", add_special_tokens=False).input_ids
            for word in (noun, scene_text.plural(noun))
        )
        words[many[0]] = words[one[0]]
    for scale in SCALES:
        ids = [tokenizer(f" {word}", add_special_tokens=False).input_ids[0] for word in scale]
        harmonics = torch.arange(1, 4)
        line = (
            torch.cos(torch.pi * harmonics * (torch.arange(len(ids))[:, None] + 0.5) / len(ids)) / harmonics
        )
        words[ids] = OWN * words[ids] + line @ torch.randn(len(harmonics), HIDDEN) * ORDERED
    steps_back = {0: (None, 1, 2, 3), 1: (None, 1, 2, None)}
    for index, layer in enumerate(decoder.layers):
        for head, back in enumerate(steps_back.get(index, (None, None, 0, 0))):
            rows = slice(head * width, (head + 1) * width)
            query, key = layer.self_attn.q_proj.weight[rows], layer.self_attn.k_proj.weight[rows]
            if back is None:
                query.normal_(std=HIDDEN**-0.5)
                key.copy_(query)
            elif back:
                _look_back(query, key, frequencies, back)


def _look_back(query: torch.Tensor, key: torch.Tensor, frequencies: torch.Tensor, steps: int) -> None:
    """Make `[width, d]` weights under which position i agrees best with position i - `steps`."""
    query.zero_()
    key.zero_()
    pairs = torch.linspace(0, len(frequencies) - 1, len(key) // 2).round().long()
    for row, pair in enumerate(pairs.tolist()):
        angle = torch.tensor(float(steps)) * frequencies[pair]
        sine, cosine, u, v = 2 * pair, 2 * pair + 1, 2 * row, 2 * row + 1
        key[u, sine] = key[v, cosine] = SHARPNESS
        query[u, sine], query[u, cosine] = SHARPNESS * angle.cos(), -SHARPNESS * angle.sin()
        query[v, sine], query[v, cosine] = SHARPNESS * angle.sin(), SHARPNESS * angle.cos()


class DescriptionSampler:
    """Draws batches: descriptions `[b, 32, 4]` (up to four words a slot, -1 where there is none) and `Rows`."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        batch: int = BATCH,
        seed: int = SEED,
        piled: float = 0.5,
        **rows,
    ):
        """`piled`: share of descriptions that pile; `rows`: options of the `SequenceBuilder`."""
        self.builder = SequenceBuilder(tokenizer, **rows)
        self.piled = piled
        self.tokenizer = tokenizer
        self.batch_size = batch
        self.seed = seed

    def describe(self, scene: Scene, rng: np.random.Generator, piled: bool = False) -> list[list[int]]:
        slots = (
            scene_text.piled_description(scene, rng)
            if piled
            else [[w] for w in scene_text.description(scene, rng)]
        )
        ids = [[self.builder.encode(f" {word}")[0] for word in words] for words in slots]
        return [row + [-1] * (4 - len(row)) for row in ids]

    def draw(self, step: int) -> tuple[torch.Tensor, Rows]:
        rng = np.random.default_rng([self.seed, step])
        scenes = [random_scene(rng) for _ in range(self.batch_size)]
        described = torch.tensor([self.describe(scene, rng, rng.random() < self.piled) for scene in scenes])
        rows = self.builder.batch(scenes, rng)
        # Long conversations reach positions that short training rows do not: shift some texts back.
        room = max(1, POSITIONS - int(rows.positions.max()))
        shift = rng.integers(0, room, self.batch_size) * (rng.random(self.batch_size) < 0.15)
        rows.positions[:, 1:] += torch.from_numpy(shift)[:, None]
        return described, rows

    def drill(self, step: int) -> tuple[torch.Tensor, Rows]:
        """As `draw`, but the text looks nouns up: ` cat b 7 large dog - car e 2 small`, `-` for an absent one.

        A dozen look-ups in 30 tokens, against a few in a whole row of questions.
        """
        rng = np.random.default_rng([self.seed, 1, step])
        rows, described = [], []
        for _ in range(DRILL_BATCH):
            scene = random_scene(rng, min_objects=2)
            described.append(self.describe(scene, rng, rng.random() < 0.5))
            known = {
                item.noun: scene_text.description_words(item)[1:] for item in scene_text.unique_objects(scene)
            }
            taken = {item.noun for item in scene.objects}
            absent = [
                noun for noun in (NOUNS[i] for i in rng.permutation(len(NOUNS))[:10]) if noun not in taken
            ]
            asked = [*known, *absent[: DRILL_NOUNS - len(known)]]
            row = [(self.tokenizer.bos_token_id, IGNORE)]
            for noun in (asked[i] for i in rng.permutation(len(asked))):
                answered = [
                    self.builder.encode(f" {word}")[0] for word in known.get(noun, [scene_text.FILLER])
                ]
                row.append(
                    (
                        self.builder.encode(" " + (noun if rng.random() < 0.5 else scene_text.plural(noun)))[
                            0
                        ],
                        IGNORE,
                    )
                )
                row.extend((word, word) for word in answered)
            rows.append([(i, label, scene_text.DESCRIPTION_SLOTS + n, 0) for n, (i, label) in enumerate(row)])
        return torch.tensor(described), self.builder.pad(rows)


def embed_description(model: OPTForCausalLM, described: torch.Tensor) -> torch.Tensor:
    """`[b, 32, 4]` ids to the prefix `[b, 32, d]`: the words of a slot are added."""
    words = model.get_input_embeddings()(described.clamp_min(0))
    return (words * (described >= 0)[..., None]).sum(-2)


def train_language(
    accelerator: Accelerator,
    tokenizer: PreTrainedTokenizerBase,
    out: Path,
    drill: Schedule = DRILL,
    read: Schedule = READ,
    mixed: Schedule = MIXED,
    captions: Schedule = DESCRIBE,
    batch: int = BATCH,
) -> OPTForCausalLM:
    """Returns the trained `OPTForCausalLM`."""
    torch.manual_seed(SEED)
    model = OPTForCausalLM(language_config(tokenizer))
    initialise(model, tokenizer)

    def stage(
        name: str, schedule: Schedule, sampler: DescriptionSampler, drill_only: int = 0, noise: float = 0.0
    ):
        def draw(step: int):
            drilling = drill_only and (step < drill_only or step % 4 == 0)
            return step, drilling, *(sampler.drill(step) if drilling else sampler.draw(step))

        def loss_of(module, batch):
            step, drilling, *drawn = batch
            described, rows = (part.to(accelerator.device) for part in drawn)
            prefix = embed_description(module, described)
            if noise:
                random = torch.randn(prefix.shape, generator=torch.Generator().manual_seed(step)).to(prefix)
                prefix = prefix + noise * prefix.detach().pow(2).mean().sqrt() * random
            loss, right = answer_loss(module, prefix, rows)
            return loss, {"drill_right" if drilling else "answers_right": right}

        return run(name, accelerator, model, draw, loss_of, schedule, out)

    stage(
        "lm_drill",
        drill,
        DescriptionSampler(tokenizer, batch, SEED),
        min(DRILL_ONLY, max(1, drill.steps // 2)),
    )
    stage("lm_read", read, DescriptionSampler(tokenizer, batch, SEED + 1, piled=1.0, packed_share=1.0))
    rows = {"packed_share": 0.75, "turns": 10, "mix": MIX, "wording": "all", "mumbled": MUMBLED}
    rows |= {"caption_share": 1.0, "captions": CAPTIONS}
    stage("lm", mixed, DescriptionSampler(tokenizer, batch, SEED + 2, piled=PILED, **rows), noise=NOISE)
    rows |= {"captions": MORE_CAPTIONS, "turns": FEWER_TURNS}
    return stage(
        "lm_captions",
        captions,
        DescriptionSampler(tokenizer, batch, SEED + 4, piled=PILED, **rows),
        noise=NOISE,
    )


@torch.no_grad()
def description_accuracy(
    model: OPTForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    scenes: int = 400,
    seed: int = 991,
    piled: bool = False,
    wording: str = "plain",
) -> dict[str, float]:
    """The gate: share of exact answers from written descriptions of fresh scenes, by question type."""
    rng = np.random.default_rng(seed)
    sampler = DescriptionSampler(tokenizer)
    encode = sampler.builder.encode
    right: dict[str, list[bool]] = {kind: [] for kind in scene_text.QUESTION_TYPES}
    model.eval()
    for _ in range(scenes):
        scene = random_scene(rng)
        prefix = embed_description(
            model, torch.tensor([sampler.describe(scene, rng, piled)]).to(model.device)
        )
        for question in scene_text.questions(scene, rng, 5, wording=wording):
            asked = [tokenizer.bos_token_id, *encode(scene_text.QUESTION_PROMPT.format(question.text))]
            answered = [*encode(" " + question.answer), tokenizer.eos_token_id]
            words = model.get_input_embeddings()(torch.tensor([asked + answered]).to(model.device))
            logits = model(inputs_embeds=torch.cat([prefix, words], 1)).logits[0, -len(answered) - 1 : -1]
            right[question.type].append(logits.argmax(-1).tolist() == answered)
    figures = {kind: round(float(np.mean(values)), 4) for kind, values in right.items()}
    return {**figures, "all": round(float(np.mean([v for values in right.values() for v in values])), 4)}
