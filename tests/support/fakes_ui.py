"""A fake pipeline for the interface: instant, deterministic, with the shapes of the real one.

Its answers repeat the question, so that a test sees which words reached which visitor; a sampled answer
carries a running number, so that a retry can be told from a replay.
"""

import hashlib
import itertools
import threading
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image

from qformer_viz.attribution.reference_activations import (
    ReferenceActivations,
    compute_activations,
    compute_reference,
)
from qformer_viz.attribution.scorer import Scorer
from qformer_viz.domains.domain import Domain, KnownScene, SceneMaker
from qformer_viz.media.image_decoder import decode
from qformer_viz.types import Answer, Capture, Decoding
from qformer_viz.ui.app_context import AppContext, ChatModel, Geometry, Limits

LAYERS, CROSS, HEADS, QUERIES, GRID, WIDTH = 6, (0, 2, 4), 2, 8, (4, 4), 16


GREEN = (10, 200, 10)


class FakeError(Exception):
    """An error whose message is meant for the user."""


def fake_capture(seed: int = 0, text: int = 0) -> Capture:
    """Random maps with the planted twins 0 and 1, and query 2 looking at patch 5 only; `text` tokens take half of the
    self-attention, the last of them all of that."""
    make = torch.Generator().manual_seed(seed)
    patches = GRID[0] * GRID[1]
    cross = torch.rand(len(CROSS), 1, HEADS, QUERIES, patches + 1, generator=make)
    cross[:, :, :, 1] = cross[:, :, :, 0]
    cross[:, :, :, 2] = 0.0
    cross[:, :, :, 2, 5 + 1] = 1.0
    self_attention = torch.rand(LAYERS, 1, HEADS, QUERIES, QUERIES, generator=make)
    self_attention = self_attention / self_attention.sum(-1, keepdim=True)
    read = torch.zeros(LAYERS, 1, HEADS, QUERIES, text)
    read[..., -1:] = 0.5
    states = torch.randn(LAYERS + 1, 1, QUERIES, WIDTH, generator=make)
    states[:, :, 1] = states[:, :, 0]
    return Capture(
        cross_attention=cross / cross.sum(-1, keepdim=True),
        self_attention=self_attention / 2 if text else self_attention,
        query_states=states,
        query_tokens=torch.randn(QUERIES, WIDTH, generator=make),
        cross_layers=CROSS,
        grid=GRID,
        attn_implementation="eager",
        text_attention=read if text else None,
    )


def pictured(encoded: "FakeEncoded", image: Image.Image) -> "FakeEncoded":
    """The same of another picture."""
    source = decode(image)
    return replace(encoded, source=source, frames=source.frames)


def joined(captures: list[Capture]) -> Capture:
    """Captures of single images as one of a batch."""
    batched = ["cross_attention", "self_attention", "query_states"]
    batched += ["text_attention"] if captures[0].text_attention is not None else []
    return replace(
        captures[0], **{name: torch.cat([getattr(c, name) for c in captures], 1) for name in batched}
    )


def _number(image: Image.Image) -> int:
    return int(hashlib.sha256(np.asarray(image).tobytes()).hexdigest()[:6], 16)


@dataclass(frozen=True, eq=False)
class FakeEncoded:
    source: Any
    frames: tuple
    timestamps: tuple[str, ...]
    sha256: str
    capture: Any
    question: str | None
    vision: Any
    queries: torch.Tensor
    notices: tuple[str, ...] = ()
    placements: tuple = ()

    @property
    def image(self) -> Image.Image:
        return self.source.image


@dataclass
class FakePipeline:
    """`gate`, if set, holds every stream after each word until the test opens it. A question with the word
    "slow" is held until it is stopped."""

    family: str = "blip2"
    name: str = "fake"
    quantization: str | None = None
    reason: str = "device cpu (a fake), float32 (a fake)"
    gate: threading.Event | None = None
    begun: threading.Event = field(default_factory=threading.Event)
    asked: list = field(default_factory=list)
    encoded: int = 0
    numbers: Any = field(default_factory=lambda: itertools.count(1))

    def encode_each(self, images: Any, question: str | None = None) -> Any:
        return (self.encode(image, question) for image in images)

    def encode(self, image: Any, question: str | None = None) -> Any:
        source = decode(image.source if isinstance(image, FakeEncoded) else image)
        self.encoded += 1
        reads = question if self.family == "instructblip" else None
        seen = source if self.family == "instructblip" else source.still()
        text = len(self.qformer_text_tokens(reads))
        captures = [fake_capture(_number(frame) + len(question or ""), text) for frame in seen.frames]
        return FakeEncoded(
            source=source,
            frames=seen.frames,
            timestamps=seen.video.timestamps if seen.video else (),
            sha256=source.sha256,
            capture=joined(captures),
            question=reads,
            vision=None,
            queries=torch.cat([capture.query_tokens for capture in captures])[None],
            notices=seen.notices,
        )

    def remember(self, key: Any, compute: Any) -> Any:
        return compute()

    def run(self, function: Any, *args: Any) -> Any:
        if function is compute_activations:
            return self.said(*args)
        assert function is compute_reference
        features = torch.zeros(1, GRID[0] * GRID[1] + 1, WIDTH)
        return ReferenceActivations(features, torch.zeros(1, QUERIES, WIDTH), None)

    def build(self, kind: Any, encoded: Any, answer: Answer, here: Any = None) -> Any:
        assert kind is Scorer
        return self.scorer(encoded, answer)

    def said(self, encoded: Any) -> Any:
        return encoded

    def qformer_text_tokens(self, question: str | None = None) -> tuple[str, ...]:
        return ("<i>", "it", "it") if question else ()

    def hidden(self, encoded: Any, keep: torch.Tensor, where: str = "qformer") -> Any:
        """Query k goes with patch k; from the ViT, the last one too."""
        queries = encoded.queries * keep.expand(len(encoded.frames), -1)[:, :QUERIES].reshape(1, -1, 1)
        if where == "vit":
            queries[:, -1] = 0
        return replace(encoded, queries=queries)

    def scorer(self, encoded: Any, answer: Answer) -> Any:
        """Every word hangs on the query of its own number, the first on none."""
        if answer.text == "you asked refuse":
            raise FakeError("This fake cannot be explained. Ask something else.")
        return FakeScorer(encoded.queries, tuple(answer.text.split(" ")))

    def describe(self) -> dict[str, Any]:
        return {
            "model": self.name,
            "title": "Fake <b>model</b>",
            "precision": "float32",
            "device": "cpu",
            "versions": {"torch": "fake"},
        }

    def _answer(self, text: str, finish: str | None) -> Answer:
        words = text.split(" ")
        return Answer(text, tuple(words), tuple(range(len(words))), (0.0,) * len(words), finish, "", 0.0)

    def caption(self, image: Any, decoding: Decoding | None = None) -> Answer:
        encoded = self.encode(image) if isinstance(image, Image.Image) else image
        return self._answer(f"picture {encoded.sha256[:8]}", "eos")

    def ask(self, image: Any, question: str, history=(), decoding: Decoding | None = None) -> Answer:
        self.asked.append((question, tuple(history), decoding))
        if isinstance(image, FakeEncoded) and not image.queries[0, -1].any():
            return self._answer("changed <i>answer</i>", "eos")
        if question == "break":
            raise FakeError("This fake is out of memory. Ask something shorter.")
        if question == "nothing":
            return self._answer("", "empty")
        number = f" number {next(self.numbers)}" if decoding and decoding.do_sample else ""
        return self._answer(f"you asked {question}{number}", "eos")

    def stream_caption(self, image: Any, decoding=None, stop=None):
        yield from self._stream(self.caption(image, decoding), stop)

    def stream_ask(self, image: Any, question: str, history=(), decoding=None, stop=None):
        yield from self._stream(self.ask(image, question, history, decoding), stop)

    def _stream(self, whole: Answer, stop: threading.Event | None):
        if whole.finish == "empty":
            yield whole
            return
        words = whole.text.split(" ")
        for count in range(1, len(words)):
            if stop and stop.is_set():
                yield self._answer(" ".join(words[:count]), "stopped")
                return
            yield self._answer(" ".join(words[:count]), None)
            self.begun.set()
            slow = self.gate or (threading.Event() if "slow" in words else None)
            while slow and not slow.wait(0.01):
                if stop and stop.is_set():
                    yield self._answer(" ".join(words[:count]), "stopped")
                    return
        yield whole


@dataclass
class FakeScorer:
    """Word k loses one nat with query k, and with patch k; the first word nothing."""

    queries: torch.Tensor
    words: tuple[str, ...]

    @property
    def frames(self) -> int:
        return self.queries.shape[1] // QUERIES

    def values(self, index: int) -> torch.Tensor:
        return torch.ones(self.frames, HEADS, GRID[0] * GRID[1] + 1, 2)

    def attention_gradients(self, word: int) -> Any:
        """The word rises with its own query, which read patch k in every layer."""
        own = torch.zeros(LAYERS, self.frames, HEADS, QUERIES, QUERIES)
        cross = torch.zeros(len(CROSS), self.frames, HEADS, QUERIES, GRID[0] * GRID[1] + 1)
        cross[..., word, word + 1] = 1
        slope = torch.zeros_like(self.queries[0])
        slope[word] = self.queries[0, word] / self.queries[0, word].square().sum()
        return SimpleNamespace(queries=slope, attention=(own, own, cross, cross))

    def score(self, queries: torch.Tensor, on_progress: Any = None) -> torch.Tensor:
        there = (queries[:, : len(self.words)] - self.queries[:, : len(self.words)]).abs().sum(-1) < 1e-6
        return -(~there).float() * (torch.arange(len(self.words)) > 0)

    def repeats(self, queries: torch.Tensor) -> torch.Tensor:
        return self.score(queries).sum(-1) == 0

    def likeliest_tokens(self, states: torch.Tensor, count: int) -> list:
        return [[(f"<i>{query}</i>", 1.0)] * count for query in range(states.shape[1])]

    def shown(self, keep: torch.Tensor, on_progress: Any = None) -> torch.Tensor:
        if on_progress is not None:
            for done in range(len(keep) // 8, len(keep) + 1, len(keep) // 8):
                on_progress(done, len(keep))
        return self.score(self.queries * keep[:, :, 1 : QUERIES + 1, None].flatten(1, 2))

    def ablate_heads(
        self, own: torch.Tensor, cross: torch.Tensor, reference: Any, on_progress: Any = None
    ) -> torch.Tensor:
        """All words but the first lose 2 nats with head 1 of the last cross-attention, and 1 with any of layer 3."""
        if on_progress is not None:
            on_progress(len(own), len(own))
        lost = 2.0 * cross[:, -1, 1] + 1.0 * own[:, 3].any(-1)
        return -lost[:, None] * (torch.arange(len(self.words)) > 0)

    def ablate_query_messages(
        self, chosen: torch.Tensor, reference: Any, on_progress: Any = None
    ) -> torch.Tensor:
        """Word k loses half a nat when the others do not hear query k, the first word nothing."""
        if on_progress is not None:
            on_progress(len(chosen), len(chosen))
        return -0.5 * chosen[:, : len(self.words)].float() * (torch.arange(len(self.words)) > 0)

    def isolate_queries(self, reference: Any) -> torch.Tensor:
        return -1.5 * (torch.arange(len(self.words)) > 0)[None]

    def mask_text(self, read: torch.Tensor, on_progress: Any = None) -> torch.Tensor:
        """Every word loses 3 nats with the last piece of the text."""
        return -3.0 * (~read[:, -1:]).expand(-1, len(self.words))

    def attention(self, queries: torch.Tensor | None = None) -> torch.Tensor:
        return torch.eye(len(self.words), self.queries.shape[1]) + 0.01


class FakeMatcher:
    """The longer the text the better it fits; "break" is refused."""

    def rank(self, image: Any, texts) -> list[Any]:
        if "break" in texts:
            raise FakeError("The text has 999 tokens. Shorten it.")
        return [self._match(image, text) for text in sorted(texts, key=len, reverse=True)]

    def _match(self, image: Any, text: str) -> Any:
        fit = len(text) / (1 + len(text))
        votes = tuple(fit * (q + 1) / QUERIES for q in range(QUERIES))
        return SimpleNamespace(
            text=text,
            similarity=max(votes),
            similarities=votes,
            probability=fit,
            probabilities=votes,
            image=image,
            sha256=hashlib.sha256(text.encode()).hexdigest(),
            capture=fake_capture(1000 + len(text)),
            placement=None,
        )

    def describe(self) -> dict[str, Any]:
        return {"title": "Fake <i>matcher</i>", "precision": "float32"}


@dataclass(frozen=True)
class FakeDomain(Domain):
    """`samples` are what a view shows that needs several images."""

    name: str = "fakes"
    samples: tuple[Any, ...] = ()

    def reference_images(self):
        return iter(self.samples)


def fake_services(pipe: FakePipeline | None = None, **changes: Any) -> AppContext:
    """An app context around a fake pipeline, with the real decoder; fields of `ChatModel` go to its model."""
    from qformer_viz.errors import UserError

    def draw(nouns, layout, style):
        if not nouns:
            raise FakeError("choose one to 4 nouns, not 0")
        return Image.new("RGB", (64, 48), (200, 10 * len(nouns), 30))

    def film(nouns, layout, style):
        return [draw(nouns, layout, style).rotate(90 * step) for step in range(4)]

    def recall(image):
        """Green images are a cat on the first patch and a dog on the last."""
        if image.getpixel((0, 0)) != GREEN:
            return None
        masks = {noun: torch.zeros(GRID, dtype=torch.bool) for noun in ("cat", "dog")}
        masks["cat"][0, 0] = masks["dog"][-1, -1] = True
        return KnownScene(
            ("cat", "dog"),
            masks,
            lambda index: Image.new("RGB", image.size, (1, 1, index)),
            lambda index, x, y: Image.new("RGB", image.size, (2, int(100 * x), int(100 * y))),
        )

    about = {
        name: changes.pop(name)
        for name in ("domain", "ood_check", "unknown_words", "quick")
        if name in changes
    }
    options = {
        "chat_model": fake_speaker(pipe, **about),
        "decode": decode,
        "decoding": Decoding,
        "user_errors": (UserError, UserError, FakeError),
        "scene_maker": SceneMaker(("cat", "dog"), ("row",), ("noto",), draw, recall=recall, video=film),
        "limits": Limits(max_question=60, max_turns=5),
    }
    return AppContext(**options | changes)


def fake_speaker(pipe: FakePipeline | None = None, **changes: Any) -> ChatModel:
    """A fake pipeline as a model that chats."""
    return ChatModel(
        pipe or FakePipeline(), Geometry(LAYERS, CROSS, HEADS, QUERIES), **{"domain": FakeDomain()} | changes
    )


def fake_choice(broken: bool = False, domain: Domain | None = None) -> dict[str, Any]:
    """For `fake_services(**fake_choice())`: two models on offer, the second reads questions; perhaps one that fails."""

    def fail():
        raise FakeError("This fake is not complete. Get it again.")

    about = {"domain": domain or FakeDomain()}
    first = fake_speaker(**about)
    second = fake_speaker(FakePipeline(family="instructblip", name="reader"), **about)
    models = {"Fake BLIP-2": lambda: first, "Fake InstructBLIP": lambda: second}
    if broken:
        models["Broken"] = fail
    return {"chat_model": first, "models": models, "compares_questions": True}
