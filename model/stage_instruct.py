"""Stage `instruct`: the Q-Former also reads the question (InstructBLIP, arXiv 2305.06500), so that its 32 vectors need
to hold only what was asked for.

ViT and language model stay frozen. Queries and their layers start as those of stage 2, the text branch as that of stage
1; every prompt of an image is a pass of its own, with the prompt's words beside the queries.
"""

from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from transformers import (
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
)

from model import scene_text
from model.stage2 import SEED, training_scene
from model.training_loop import ATTENTION, Schedule, run
from model.training_sequences import SequenceBuilder, answer_loss, as_typed
from qformer_viz.domains.emoji.scenes import Scene

BATCH = 24
PROMPTS = 4
SCHEDULE = Schedule(steps=1500, lr=4e-4, warmup=100)
CAPTION_SHARE = 0.3


class Instructed(nn.Module):
    """Queries, Q-Former and projection of an InstructBLIP: what this stage trains."""

    def __init__(self, model: InstructBlipForConditionalGeneration):
        super().__init__()
        self.query_tokens = model.query_tokens
        self.qformer = model.qformer
        self.projection = model.language_projection

    def forward(self, features: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Vision features `[b, 257, d]` and prompts `[b, t]` to the language model's prefix `[b, 32, d]`."""
        queries = self.query_tokens.expand(len(features), -1, -1)
        count = queries.shape[1]
        read = self.qformer(
            input_ids=ids,
            attention_mask=torch.cat([mask.new_ones(len(mask), count), mask], 1),
            query_embeds=queries,
            encoder_hidden_states=features,
        )
        return self.projection(read.last_hidden_state[:, :count])


@torch.no_grad()
def start_from(
    model: InstructBlipForConditionalGeneration,
    blip2: Blip2ForConditionalGeneration,
    stage1_model: Blip2ForImageTextRetrieval,
) -> None:
    """Fill an InstructBLIP from a trained BLIP-2 (ViT, queries, language model) and stage 1 (text branch)."""
    model.vision_model.load_state_dict(blip2.vision_model.state_dict())
    model.language_model.load_state_dict(blip2.language_model.state_dict())
    model.language_projection.load_state_dict(blip2.language_projection.state_dict())
    model.query_tokens.copy_(blip2.query_tokens)
    parts = {**stage1_model.qformer.state_dict(), **blip2.qformer.state_dict()}
    parts |= {f"embeddings.{key}": value for key, value in stage1_model.embeddings.state_dict().items()}
    parts = {
        key.replace("layernorm.", "embeddings.layernorm.", 1) if key.startswith("layernorm.") else key: value
        for key, value in parts.items()
    }
    model.qformer.load_state_dict(parts)


def train_instruct(
    accelerator: Accelerator,
    model: InstructBlipForConditionalGeneration,
    processor: InstructBlipProcessor,
    features: np.ndarray,
    out: Path,
    schedule: Schedule = SCHEDULE,
    batch: int = BATCH,
) -> InstructBlipForConditionalGeneration:
    """Train an `InstructBlipForConditionalGeneration` on cached ViT features `[n, 257, d]`."""
    model.to(accelerator.device)
    language_model = model.language_model.requires_grad_(False).eval()
    model.vision_model.requires_grad_(False)
    model.qformer.set_attn_implementation(ATTENTION)
    builder = SequenceBuilder(processor.tokenizer)

    def draw(step: int):
        rng = np.random.default_rng([SEED, 7, step])
        chosen = np.sort(rng.choice(len(features), batch, replace=False))
        turns = [turn for index in chosen for turn in draw_turns(training_scene(int(index)), rng)]
        read = processor.qformer_tokenizer(
            [prompt for prompt, _ in turns], padding=True, padding_side="right", return_tensors="pt"
        )
        rows = builder.pad([builder.single(*turn) for turn in turns])
        return torch.from_numpy(features[chosen]), read.input_ids, read.attention_mask, rows

    def loss_of(instructed, batch):
        seen, ids, mask, rows = (part.to(accelerator.device) for part in batch)
        prefix = instructed(seen.float().repeat_interleave(PROMPTS, 0), ids, mask)
        loss, right = answer_loss(language_model, prefix, rows)
        return loss, {"tokens_right": right}

    run("instruct", accelerator, Instructed(model), draw, loss_of, schedule, out)
    return model.eval()


def draw_turns(scene: Scene, rng: np.random.Generator, count: int = PROMPTS) -> list[tuple[str, str]]:
    """`count` prompts with their answers: captions and questions in all wordings."""
    asked = scene_text.questions(scene, rng, count, wording="all")
    turns = [(scene_text.QUESTION_PROMPT.format(as_typed(q.text, rng)), q.answer) for q in asked]
    captions = max(count - len(turns), int(rng.binomial(count, CAPTION_SHARE)))
    captioned = [(scene_text.CAPTION_PROMPT, scene_text.caption(scene, rng)) for _ in range(captions)]
    return (captioned + turns)[:count]
