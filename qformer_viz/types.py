"""The nouns of the library and its shape glossary. Importing this loads no torch.

b image, f frame, l cross-attention layer, L every layer, h head, q query, p image token (CLS first, then the
patches row by row), N patches without CLS, gh gw rows and columns of the patch grid, t generated token or word, s token
of the text that a Q-Former reads, d width.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any, TypeAlias

from qformer_viz.errors import BadSelection, BadShape, DecodingError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from PIL import Image
    from torch import Tensor

    from qformer_viz.media.image_decoder import Decoded
    from qformer_viz.runtime.input_placement import Placement

OneSource: TypeAlias = "str | Path | bytes | bytearray | memoryview | Image.Image | np.ndarray"
"""A path, a `data:` URL, a file's bytes, a picture, or an array of [h, w] or [h, w, 1 | 3 | 4]."""

ImageSource: TypeAlias = "OneSource | Decoded | Sequence[OneSource]"
"""What `qformer_viz.decode` takes: several sources are a film, and what has been decoded is taken as it is."""

AnyImage: TypeAlias = "ImageSource | EncodedImage"
"""What a pipeline takes: a source, or an image that has been encoded, perhaps by another model."""

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
        for name, (least, most) in real.items():
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not least <= value <= most:
                raise DecodingError(f"{name} is {value!r}; give a number from {least} to {most}.")
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
             its own geometry; `timestamps` says when each frame of a film is, () for a still picture; `sha256` is of
             the pixels that were seen, and `notices` say what their owner should know
    queries  [1, f·q, d] query outputs projected to the language model's width, frame by frame, on the model's device
    vision   [f, p, d] ViT output after its last LayerNorm, or None
    capture  what `observe` recorded of the pass (`qformer_viz.capture`), or None
    question the text the Q-Former read (InstructBLIP only), else None
    placements [f] which part of each frame the model's input shows, and so where its patches lie
    """

    source: Decoded
    seen: Decoded
    queries: Tensor
    vision: Tensor | None = None
    capture: Capture | None = None
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
    def timestamps(self) -> tuple[str, ...]:
        return () if self.seen.video is None else self.seen.video.timestamps

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
    capture        what `observe` recorded of the matching pass, whose maps depend on the text, or None
    placement      which part of the image the model's input shows
    """

    text: str
    similarity: float
    similarities: tuple[float, ...]
    probability: float
    probabilities: tuple[float, ...]
    image: Image.Image
    sha256: str
    capture: Capture | None = None
    placement: Placement | None = None


def upload(image: AnyImage) -> ImageSource:
    """What was uploaded, where an image comes as a model has seen it."""
    return image.source if isinstance(image, EncodedImage) else image


@dataclass(frozen=True, eq=False)
class Capture:
    """What one Q-Former call saw: float32 tensors on the CPU, independent of the model.

    cross_attention: [l, b, h, q, p] probabilities, CLS first; each row sums to one.
    self_attention: [L, b, h, q, q] probabilities between queries. Where the Q-Former also reads text,
        the softmax includes the text, so a row sums to one minus what went to text tokens.
    query_states: [L + 1, b, q, d]; 0 is what enters the first layer, i + 1 the output of layer i.
    query_tokens: [q, d] the learned queries, before the embedding LayerNorm.
    cross_layers: the layer number of each entry of l, for instance (0, 2, 4).
    grid: (gh, gw).
    attn_implementation: how the Q-Former itself computed attention, for instance "sdpa".
    text_attention: [L, b, h, q, s] probabilities from queries to the text that the Q-Former reads beside them, as an
        InstructBLIP's does; None where it reads none. With self_attention a row sums to one.
    """

    cross_attention: Tensor
    self_attention: Tensor
    query_states: Tensor
    query_tokens: Tensor
    cross_layers: tuple[int, ...]
    grid: tuple[int, int]
    attn_implementation: str
    text_attention: Tensor | None = None

    def __post_init__(self) -> None:
        for name, letters in self._axes.items():
            if getattr(self, name).dim() != len(letters):
                raise BadShape(
                    f"{name} of shape {list(getattr(self, name).shape)}",
                    f"[{', '.join(letters)}]",
                    "see qformer_viz.types.Capture",
                )
        layers, images, heads, queries, tokens = self.cross_attention.shape
        every, width = self.self_attention.shape[0], self.query_states.shape[-1]
        expected = {
            "self_attention": (every, images, heads, queries, queries),
            "query_states": (every + 1, images, queries, width),
            "query_tokens": (queries, width),
        }
        if self.text_attention is not None:
            expected["text_attention"] = (every, images, heads, queries, self.text_attention.shape[-1])
        for name, shape in expected.items():
            if tuple(getattr(self, name).shape) != shape:
                raise BadShape(
                    f"{name} of shape {list(getattr(self, name).shape)}",
                    f"{list(shape)}, to agree with cross_attention {list(self.cross_attention.shape)}",
                    "take all tensors from one Q-Former call",
                )
        if len(self.cross_layers) != layers or self.grid[0] * self.grid[1] + 1 != tokens:
            raise BadShape(
                f"cross_layers {self.cross_layers} and grid {self.grid}",
                f"{layers} layers and a grid of {tokens - 1} patches",
                "take layers and grid from the call that gave the maps",
            )

    def __setstate__(self, state: dict) -> None:
        """From a pickle, a copy or torch.load: the same checks as when it was made."""
        self.__dict__.update(state)
        self.__post_init__()

    def image(self, index: int) -> Capture:
        """The same capture for one image of the batch, as copies with b = 1. Negative counts from the end."""
        images = self.cross_attention.shape[1]
        if not -images <= index < images:
            raise BadSelection(
                f"image {index}", f"an image in 0..{images - 1}", "choose an image of the captured batch"
            )
        one = slice(index % images, index % images + 1)
        return replace(
            self,
            cross_attention=self.cross_attention[:, one].clone(),
            self_attention=self.self_attention[:, one].clone(),
            query_states=self.query_states[:, one].clone(),
            text_attention=None if self.text_attention is None else self.text_attention[:, one].clone(),
        )

    @property
    def _axes(self) -> dict[str, tuple[str, ...]]:
        """Those of the tensors that are there."""
        return {name: letters for name, letters in _AXES.items() if getattr(self, name) is not None}

    def __repr__(self) -> str:
        return "Capture(" + ", ".join(f"{name} {value}" for name, value in self._rows()) + ")"

    def _repr_html_(self) -> str:
        row = "<tr><th>{}</th><td>{}</td></tr>"
        rows = "".join(row.format(escape(name), escape(value)) for name, value in self._rows())
        return f"<table><caption>Q-Former capture</caption>{rows}</table>"

    def _rows(self) -> list[tuple[str, str]]:
        shapes = {name: list(getattr(self, name).shape) for name in self._axes}
        return [
            *((name, f"[{', '.join(_AXES[name])}] = {shape}") for name, shape in shapes.items()),
            ("cross_layers", str(list(self.cross_layers))),
            ("grid", f"{self.grid[0]} × {self.grid[1]}"),
            ("attention", self.attn_implementation),
        ]


_AXES = {
    "cross_attention": ("l", "b", "h", "q", "p"),
    "self_attention": ("L", "b", "h", "q", "q"),
    "query_states": ("L + 1", "b", "q", "d"),
    "query_tokens": ("q", "d"),
    "text_attention": ("L", "b", "h", "q", "s"),
}


@dataclass(frozen=True, eq=False)
class Attribution:
    """Which queries and patches every word of an answer came from: float32 tensors on the CPU.

    words      [t]
    scores     [t, f·q, N] signed weight of query and patch for the word: of a film, the queries of its first frame,
               then of the next; f is 1 for a picture, and q where the method judges patches without going through
               single queries; N patches row by row, CLS left out
    logprobs   [t] log-probability of the word, its pieces summed, in nats
    gains      [t] visual gain: how much of that the image brought, over the mean queries of other images. Where it is
               near zero the word came from language: `visual` is False, and its map means nothing.
    cls        [q] share of each query's attention on CLS, which is in no map
    note       what the method has to say of its own result, for instance its completeness error
    """

    words: tuple[str, ...]
    scores: Tensor
    logprobs: Tensor
    image_gain: Tensor
    method: str
    layer: int | str
    cls: Tensor
    grid: tuple[int, int]
    seconds: float
    note: str = ""
    frames: int = 1

    def __post_init__(self) -> None:
        t, _, patches = self.scores.shape
        if len(self.words) != t or patches != self.grid[0] * self.grid[1]:
            raise BadShape(
                f"scores of shape {list(self.scores.shape)}",
                f"[{len(self.words)} words, q, {self.grid[0]} × {self.grid[1]} patches]",
                "return [t, q, N] from the method, CLS left out",
            )

    @property
    def queries(self) -> Tensor:
        """[t, f·q] weight of every query; see `of_queries`."""
        return self.scores.sum(-1)

    @property
    def of_queries(self) -> bool:
        """Whether the method knows single queries."""
        return self.scores.shape[1] > self.frames

    @property
    def patches(self) -> Tensor:
        """[t, gh, gw] weight of every patch; of a film, summed over its frames."""
        return self.by_frame.sum(1)

    @property
    def by_frame(self) -> Tensor:
        """[t, f, gh, gw] weight of every patch of every frame."""
        return self.scores.unflatten(1, (self.frames, -1)).sum(2).unflatten(-1, self.grid)

    @property
    def visual(self) -> Tensor:
        """[t] whether the image brought the word at least `VISUAL_GAIN` nats."""
        return self.image_gain >= VISUAL_GAIN


VISUAL_GAIN = 0.5
