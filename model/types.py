"""The nouns that pass between the pipeline and its callers; importing this loads no torch.

Shape words: b image, q query, p patch with CLS first, t token, d width.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from model.errors import DecodingError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from model.images import Decoded
    from model.placement import Placement

Turn = tuple[str, str]
"""One earlier turn of a conversation: (question, answer). A caption turn has the question ""."""


@dataclass(frozen=True)
class Decoding:
    """How the language model picks words. The default is greedy and therefore repeatable.

    temperature, top_p and seed act only with `do_sample=True`; beams and sampling exclude one another.
    """

    max_new_tokens: int = 40
    do_sample: bool = False
    temperature: float = 1.0
    top_p: float = 0.9
    num_beams: int = 1
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        whole = {"max_new_tokens": (1, 1024), "num_beams": (1, 16)}
        for name, (low, high) in whole.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise DecodingError(f"{name} is {value!r}; give a whole number from {low} to {high}.")
        real = {"temperature": (0.01, 10.0), "top_p": (0.01, 1.0), "repetition_penalty": (0.1, 10.0)}
        for name, (low, high) in real.items():
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value <= high:
                raise DecodingError(f"{name} is {value!r}; give a number from {low} to {high}.")
        if self.do_sample and self.num_beams > 1:
            raise DecodingError(
                f"do_sample=True with num_beams={self.num_beams}: choose sampling (num_beams=1) or beams "
                "(do_sample=False)."
            )
        if self.seed is not None and (not isinstance(self.seed, int) or not 0 <= self.seed < 2**63):
            raise DecodingError(f"seed is {self.seed!r}; give a whole number from 0 to 2**63 - 1, or None.")

    @property
    def repeatable(self) -> bool:
        """Whether the same question must get the same answer again."""
        return not self.do_sample or self.seed is not None


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """What one ViT and Q-Former pass leaves behind: the expensive thing, and the cache's value.

    source   the decoded upload; `seen` is what this model saw of it: f `frames`, of which `image` is the first, RGB at
             its own geometry; `moments` says when each frame of a film is, () for a still picture; `sha256` is of the
             pixels that were seen, and `notices` say what their owner should know
    queries  [1, f·q, d] query outputs projected to the language model's width, frame by frame, on the model's device
    vision   [f, p, d] ViT output after its last LayerNorm, or None
    record   what `observe` yielded around the pass (the app's attention recording), or None
    question the text the Q-Former read (InstructBLIP only), else None
    placements [f] which part of each frame the model's input shows, and so where its patches lie
    """

    source: Decoded
    seen: Decoded
    queries: Tensor
    vision: Tensor | None = None
    record: Any = None
    question: str | None = None
    owner: Any = field(default=None, repr=False)
    placements: tuple[Placement, ...] = ()

    @property
    def image(self) -> Image.Image:
        return self.seen.image

    @property
    def sha256(self) -> str:
        return self.seen.sha256

    @property
    def notices(self) -> tuple[str, ...]:
        placed = dict.fromkeys(placement.notice for placement in self.placements)
        return (*self.seen.notices, *filter(None, placed))

    @property
    def frames(self) -> tuple[Image.Image, ...]:
        return self.seen.frames

    @property
    def moments(self) -> tuple[str, ...]:
        return () if self.seen.film is None else self.seen.film.moments

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the projected queries: all the language model ever learns of the image.

        Answers and key-value caches are filed under this, not under the pixels, so that an EncodedImage
        whose queries were replaced (a knock-out) never meets the original's answers.
        """
        queries = self.queries.detach().float().cpu().contiguous()
        return hashlib.sha256(queries.numpy().tobytes()).hexdigest()


@dataclass(frozen=True)
class Answer:
    """One generated text, whole or still growing.

    text       without special tokens, stripped; "" when the model ended at once (finish "empty")
    tokens     [t] readable pieces whose concatenation, stripped, is the text; end-of-sequence left out
    logprobs   [t] natural log-probability of each token from the raw logits, before any penalty,
               temperature or nucleus. With beams: from one teacher-forced pass over the result
    finish     "eos", "length", "stopped", "empty", or None while a stream is still growing
    seconds    spent in the language model when the answer was made; a replayed answer keeps that figure
    prompt_ids token ids of `prompt`, without the image's placeholders: markup in it makes special tokens that the text
               alone does not tell from what a visitor typed
    """

    text: str
    tokens: tuple[str, ...]
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: str | None
    prompt: str
    seconds: float
    notices: tuple[str, ...] = ()
    prompt_ids: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Match:
    """How well a text fits an image, from a retrieval checkpoint.

    similarity     cosine of the best query with the text, in the contrastive space; `similarities` [q] of each
    probability    that the text is true of the image: softmax once over the matching head's two logits, averaged
                   over the queries; `probabilities` [q] are the votes of single queries, which were never trained alone
    record         what `observe` yielded around the matching pass, whose maps depend on the text, or None
    placement      which part of the image the model's input shows
    """

    text: str
    similarity: float
    similarities: tuple[float, ...]
    probability: float
    probabilities: tuple[float, ...]
    image: Image.Image
    sha256: str
    record: Any = None
    placement: Placement | None = None


def upload(image: Any) -> Any:
    """What was uploaded, where an image comes as a model has seen it."""
    return image.source if isinstance(image, EncodedImage) else image
