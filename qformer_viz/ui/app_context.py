"""What the interface needs from outside: a pipeline, a decoder of uploads, and the limits of this server.

The interface knows no model code; `app.py` fills these in, and tests fill in a fake.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from PIL import Image

from qformer_viz.domains.domain import Domain, Example, OODCheck, SceneMaker, WordCheck
from qformer_viz.errors import UserError
from qformer_viz.runtime.families import find_family

if TYPE_CHECKING:
    from torch import Tensor

    from qformer_viz.media.image_decoder import Decoded
    from qformer_viz.runtime.matcher import Matcher
    from qformer_viz.runtime.pipeline import Pipeline
    from qformer_viz.types import Decoding, ImageSource
    from qformer_viz.ui.conversation import Session


@dataclass(frozen=True)
class Geometry:
    """The Q-Former's layers, which of them cross-attend, heads and queries."""

    layers: int
    cross_layers: tuple[int, ...]
    heads: int
    queries: int


@dataclass(frozen=True)
class Limits:
    """Caps enforced on the server, whatever a client sends."""

    max_new_tokens: int = 100
    max_beams: int = 5
    max_question: int = 600
    max_turns: int = 40
    upload: str = "20mb"
    queue: int = 200
    cache_seconds: int = 3600
    session_bytes: int = 10**9
    disk: int = 10**9
    images: int = 24


@dataclass(frozen=True)
class ChatModel:
    """A model that chats, and what the page says about it. `domain`: what it was trained on; `ood_check` and
    `unknown_words` are that domain's checks for this checkpoint; `quick`: whether it is so small that its answers are
    taken apart unasked."""

    pipe: Pipeline
    geometry: Geometry
    domain: Domain
    ood_check: OODCheck | None = None
    unknown_words: WordCheck | None = None
    quick: bool = False

    @property
    def reads_questions(self) -> bool:
        """Whether the Q-Former reads the question, so that every question has maps of its own."""
        return find_family(self.pipe.family).reads_questions


@dataclass(frozen=True)
class AppContext:
    """`chat_model` answers until a visitor chooses another of `models` (name to what loads it, once); `decode(path or
    data URL) -> object with .image, .sha256, .notices`; `decoding(**settings)` builds the pipeline's decoding options;
    `user_errors` carry a message meant for the user; without a `matcher` there is no Match tab;
    `compares_questions`: whether any model on offer reads the question in its Q-Former; `precisions`: further ones of
    the chat model, by name, and what loads each, once; `examples` and `scene_maker` are those of the domain of
    `chat_model`."""

    chat_model: ChatModel
    decode: Callable[[ImageSource], Decoded]
    decoding: Callable[..., Decoding]
    user_errors: tuple[type[Exception], ...] = (UserError,)
    examples: tuple[Example, ...] = ()
    scene_maker: SceneMaker | None = None
    matcher: Matcher | None = None
    models: Mapping[str, Callable[[], ChatModel]] = field(default_factory=dict)
    compares_questions: bool = False
    precisions: Mapping[str, Callable[[], Pipeline]] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)

    @cached_property
    def example_titles(self) -> dict[str, str]:
        """The examples' titles by the digest of their pixels: what a link may name."""
        return {self.decode(str(path)).sha256: title for path, title in self.examples}

    def mask(self, image: Image.Image, word: str) -> Tensor | None:
        """bool [gh, gw] where a word's object is, on a scene that is known; None anywhere else."""
        drawn = self.scene_maker.recall(image) if self.scene_maker else None
        return drawn.masks.get(word) if drawn else None

    def of(self, session: Session) -> ChatModel:
        """The model that this visitor talks to."""
        return self.chat_model if session.model is None else self.models[session.model]()
