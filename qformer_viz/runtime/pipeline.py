"""One image in, words out: encode once, then caption, ask and stream as often as wanted."""

from __future__ import annotations

import importlib.metadata
import platform
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch

from qformer_viz.errors import OutOfDeviceMemory
from qformer_viz.media.image_decoder import Decoded, decode
from qformer_viz.runtime.checkpoints import Checkpoint
from qformer_viz.runtime.device_queue import queue_for
from qformer_viz.runtime.generation import Generator
from qformer_viz.runtime.image_encoder import Encoder, Observe
from qformer_viz.runtime.lru_cache import LRUCache
from qformer_viz.runtime.prompts import Prompt, Prompter
from qformer_viz.runtime.self_check import Finding, findings, prompt_description
from qformer_viz.runtime.streaming import Emit, Stopped, stream
from qformer_viz.runtime.token_text import Wording, text_of
from qformer_viz.types import Answer, Decoding, EncodedImage, Turn, upload

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

    from qformer_viz.types import AnyImage

ANSWERS = 256
KEPT = 17
"""Results about the model itself that `remember` keeps: reference activations of 16 questions, and their features."""
Built = TypeVar("Built")
_CAPTION = object()  # in place of a question; None is one that was not given


class Pipeline:
    """A loaded checkpoint, made by `qformer_viz.load` and safe to share between threads.

    name, checkpoint, model (the transformers model), processor, device, dtype, quantization, family;
    reason says in one line why this device and precision; films: whether it sees several frames of a moving picture.
    device: where it runs; a model read before there is such a device waits elsewhere until `settle`.

    Nothing is computed twice: images, and answers that must come out the same (greedy, beams, or sampled with
    a seed), are kept in bounded caches; over a conversation the language model reads only what is new.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        *,
        quantization: str | None = None,
        reason: str = "",
        observe: Observe | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.checkpoint, self.model, self.processor = checkpoint, model, processor
        self.name, self.family = checkpoint.id, checkpoint.family
        self.quantization, self.reason = quantization, reason
        # model.dtype is that of the first parameter, the fp32 query tokens of an fp16 BLIP-2.
        self.dtype: torch.dtype = model.language_projection.weight.dtype
        self.device: torch.device = device or model.language_projection.weight.device
        self._prompts = Prompter(checkpoint, processor, model.config)
        # Marks what this pipeline encoded, and keeps no weights alive in an image that outlives it.
        self._mark = object()
        self.sees_video = checkpoint.model_family.sees_video
        self.reads_questions = checkpoint.model_family.reads_questions
        self.encoder = Encoder(model, processor, observe=observe, owner=self._mark, films=self.sees_video)
        self._generator = Generator(model, quantization, processor.tokenizer)
        self._answers: LRUCache[Answer] = LRUCache(ANSWERS)
        self._queue = queue_for(str(self.device))
        self._remembered: LRUCache[Any] = LRUCache(KEPT)

    def encode(self, image: AnyImage, question: str | None = None) -> EncodedImage:
        """Run ViT and Q-Former once for this image; whoever asks again, from any thread, gets the same.

        image: whatever `qformer_viz.decode` takes, or an EncodedImage, perhaps of another model. InstructBLIP's
        Q-Former
        reads the question: it runs once per question (None: the caption prompt), the ViT still once per image; and it
        sees four frames of what moves. BLIP-2 ignores `question` and sees the first frame.
        Raises ImageError, QuestionError, MemoryError_.
        """
        instruction = self._prompts.instruction(question) if self.reads_questions else None
        return self._encode(image, instruction)

    def encode_each(self, images: Iterable[AnyImage], question: str | None = None) -> Iterator[EncodedImage]:
        """`encode` of one image after the other, as it is asked for. A set of pictures is not kept: it would push what
        others are talking about out of the cache."""
        instruction = self._prompts.instruction(question) if self.reads_questions else None
        return (self._encode(image, instruction, keep=False) for image in images)

    def caption(self, image: AnyImage, decoding: Decoding | None = None) -> Answer:
        """Describe an image or an EncodedImage. Raises ImageError, MemoryError_."""
        return self._answer(image, _CAPTION, (), decoding)

    def ask(
        self,
        image: AnyImage,
        question: str,
        history: Sequence[Turn] = (),
        decoding: Decoding | None = None,
    ) -> Answer:
        """Answer a question about an image or an EncodedImage, after the earlier turns of a conversation.

        history: (question, answer) pairs, oldest first; a caption turn has the question "". Turns that no
        longer fit are left out, oldest first, and the answer's notices say so. Raises ImageError,
        QuestionError, MemoryError_.
        """
        return self._answer(image, question, history, decoding)

    def stream_caption(
        self,
        image: AnyImage,
        decoding: Decoding | None = None,
        stop: threading.Event | None = None,
    ) -> Iterator[Answer]:
        """`caption`, as growing answers; the last one has `finish` set. Beams yield the last one only."""
        return stream(lambda emit, stopped: self._answer(image, _CAPTION, (), decoding, emit, stopped), stop)

    def stream_ask(
        self,
        image: AnyImage,
        question: str,
        history: Sequence[Turn] = (),
        decoding: Decoding | None = None,
        stop: threading.Event | None = None,
    ) -> Iterator[Answer]:
        """`ask`, as growing answers. Set `stop` to end after the current token (finish "stopped")."""

        def work(emit: Emit, stopped: Stopped) -> Answer:
            return self._answer(image, question, history, decoding, emit, stopped)

        return stream(work, stop)

    def hidden(self, encoded: EncodedImage, keep: torch.Tensor, where: str = "qformer") -> EncodedImage:
        """The same image with only the patches in `keep` (bool `[N]`, row by row; `[f, N]` for single frames of a film)
        in sight; CLS stays.

        where: "qformer", which cannot attend to the others, though the ViT has already spread what they hold; or "vit",
        which never gets them. Without a record of attention. Raises ImageError, MemoryError_.
        """
        encoded, inputs = self.with_vision(encoded)
        return self.turn(lambda: self.encoder.hidden(encoded, inputs, keep, where))

    def build(
        self, kind: Callable[..., Built], *args: object, here: Mapping[str, Any] | None = None
    ) -> Built:
        """kind(self, *args), where the model is. here: attributes of it that are known without the model."""
        return kind(self, *args)

    def run(self, function: Callable[..., Built], *args: object) -> Built:
        """function(self, *args), where the model is; a function at the top of a module."""
        return function(self, *args)

    def remember(self, key: Hashable, compute: Callable[[], Built]) -> Built:
        """compute(), or what it gave for this key before; until `forget`."""
        found = self._remembered.get(key)
        if found is None:
            found = compute()
            self._remembered.put(key, found)
        return found

    def with_vision(self, image: AnyImage) -> tuple[EncodedImage, Mapping[str, torch.Tensor] | None]:
        """(the image with its ViT outputs, the tokens that an InstructBLIP's Q-Former reads, else None)."""
        instruction = image.question if isinstance(image, EncodedImage) else None
        if self.reads_questions and instruction is None:
            instruction = self._prompts.instruction(None)
        known = image if isinstance(image, EncodedImage) and image.vision is not None else None
        encoded = known or self._encode(image, instruction)
        return encoded, None if instruction is None else self._prompts.instruction_inputs(instruction)

    def instruction_inputs(self, question: str) -> Mapping[str, torch.Tensor]:
        """Token ids [1, s] and mask that an InstructBLIP's Q-Former reads for `EncodedImage.question`."""
        return self._prompts.instruction_inputs(question)

    def prompt_ids(self, answer: Answer, slots: int) -> Sequence[int]:
        """The prompt's tokens that an answer followed, with `slots` places for the image."""
        return self._prompts.again(answer, slots)

    @property
    def reuses_keys(self) -> bool:
        """Whether keys and values of the positions before a change may be taken from another pass."""
        return self._generator.reuse

    def qformer_text_tokens(self, question: str | None = None) -> tuple[str, ...]:
        """The pieces of text that an InstructBLIP's Q-Former reads beside its queries, for `EncodedImage.question`; ()
        for BLIP-2, which reads none."""
        if not self.reads_questions or question is None:
            return ()
        ids = self._prompts.instruction_inputs(question)["input_ids"][0].tolist()
        return tuple(map(partial(text_of, self._prompts.qformer_tokenizer), ids))

    def settle(self) -> None:
        """Bring the weights to `device`, where a GPU was not at hand when they were read. Raises MemoryError_."""

        def move() -> None:
            if self.model.language_projection.weight.device.type != self.device.type:
                self.model.to(self.device)

        self.turn(move)

    def forget(self) -> None:
        """Drop every cached image, answer, mean and key-value cache."""
        self._remembered.clear()
        self.encoder.forget()
        self._generator.forget()
        self._answers.clear()

    def self_check(self) -> list[Finding]:
        """What can be checked without asking the model anything: (what, whether it holds, detail)."""
        return findings(self.checkpoint, self.model, self.processor, self.dtype)

    def describe(self) -> dict[str, Any]:
        """What a manifest needs to say which computation made a picture or an answer."""
        parts = {"vision": "vision_model", "qformer": "qformer", "language": "language_model"}
        return {
            "model": self.name,
            "title": self.checkpoint.title,
            "family": self.family,
            "world": self.checkpoint.world,
            "licence": self.checkpoint.licence,
            "verified": self.checkpoint.verified,
            "revision": self.checkpoint.revision or getattr(self.model.config, "_commit_hash", None),
            "precision": str(self.dtype).removeprefix("torch."),
            "quantization": self.quantization,
            "adapter": self.checkpoint.adapter and str(self.checkpoint.adapter),
            "device": str(self.device),
            "reason": self.reason,
            "prompt": prompt_description(self.checkpoint),
            "attn_implementation": {
                part: getattr(self.model, name).config._attn_implementation for part, name in parts.items()
            },
            "versions": {"python": platform.python_version()}
            | {name: importlib.metadata.version(name) for name in ("torch", "transformers", "pillow")},
        }

    def _encode(self, image: AnyImage, instruction: str | None, keep: bool = True) -> EncodedImage:
        decoded = decode(upload(image))
        encoded = self.encoder.known(decoded, instruction)
        if encoded is not None:
            return encoded
        inputs = None if instruction is None else self._prompts.instruction_inputs(instruction)

        def work() -> EncodedImage:
            # Another thread may have encoded it while this one waited.
            known = self.encoder.known(decoded, instruction)
            return known or self.encoder.run(decoded, instruction, inputs, keep)

        return self.turn(work)

    def _answer(
        self,
        image: AnyImage,
        question: object,
        history: Sequence[Turn],
        decoding: Decoding | None,
        emit: Emit | None = None,
        stopped: Stopped = lambda: False,
    ) -> Answer:
        decoding = decoding or Decoding()
        given = self._ours(image) or decode(upload(image))
        slots = self._slots(given)
        prompt = (
            self._prompts.caption(decoding.max_new_tokens, slots)
            if question is _CAPTION
            else self._prompts.question(question, history, decoding.max_new_tokens, slots)
        )
        encoded = self._encoded(given, prompt)
        notices = tuple(dict.fromkeys((*encoded.notices, *prompt.notices)))
        key = (encoded.fingerprint, prompt.ids, decoding)
        known = self._answers.get(key) if decoding.repeatable else None
        fresh = None

        def work() -> Answer | None:
            nonlocal fresh
            known = self._answers.get(key) if decoding.repeatable else None
            if known is None and not stopped():
                fresh = self._generate(encoded, prompt, decoding, notices, emit, stopped)
                if decoding.repeatable and fresh.finish != "stopped":
                    self._answers.put(key, fresh)
            return known

        if known is None:
            known = self.turn(work, stopped)
        if fresh is not None:
            return fresh
        if known is None:
            return Answer("", (), (), (), "stopped", prompt.text, 0.0, notices, prompt.text_ids)
        if emit is not None:
            for count in range(1, len(known.tokens)):
                emit(_beginning(known, count))
        return replace(known, notices=notices)

    def _ours(self, image: AnyImage) -> EncodedImage | None:
        """The image, where this pipeline has encoded it or nobody knows who has."""
        if isinstance(image, EncodedImage) and (image.owner is None or image.owner is self._mark):
            return image
        return None

    def _slots(self, image: EncodedImage | Decoded) -> int:
        """How many vectors the language model gets of it."""
        if isinstance(image, EncodedImage):
            return image.queries.shape[1]
        return self._prompts.queries * len(self.encoder.seen(image).frames)

    def _encoded(self, image: EncodedImage | Decoded, prompt: Prompt) -> EncodedImage:
        """The image as this pipeline's Q-Former sees it for this prompt."""
        instruction = prompt.instruction if self.reads_questions else None
        if isinstance(image, EncodedImage) and image.question == instruction:
            return image
        return self._encode(image, instruction)

    def _generate(
        self,
        encoded: EncodedImage,
        prompt: Prompt,
        decoding: Decoding,
        notices: tuple[str, ...],
        emit: Emit | None,
        stopped: Stopped,
    ) -> Answer:
        start = time.perf_counter()

        wording = Wording(self.processor.tokenizer)

        def answer(ids: list[int], logprobs: list[float], finish: str | None) -> Answer:
            text = wording.grow(ids, last=finish is not None)
            if finish == "eos" and not text:
                finish = "empty"
            tokens, seconds = tuple(wording.pieces), time.perf_counter() - start
            said = (text, tokens, tuple(ids), tuple(logprobs), finish)
            return Answer(*said, prompt.text, seconds, notices, prompt.text_ids)

        def progress(ids: list[int], logprobs: list[float]) -> None:
            if emit is not None:
                emit(answer(ids, logprobs, None))

        result = self._generator.run(
            encoded.queries,
            encoded.fingerprint,
            prompt.ids,
            decoding,
            stopped,
            None if emit is None else progress,
        )
        return answer(result.ids, result.logprobs, result.finish)

    def turn(self, work: Callable[[], Built], stopped: Stopped = lambda: False) -> Built:
        """work() in the queue of the device, or None if stopped while it waited; memory that runs out becomes an error
        with the fix."""
        try:
            # None only for who gives `stopped`, whose work may give None as well.
            return cast(Built, self._queue.run(work, stopped))
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise self._out_of_memory(error) from error
        except RuntimeError as error:
            if "can't allocate memory" not in str(error):
                raise
            raise self._out_of_memory(error) from error

    def _out_of_memory(self, error: BaseException) -> OutOfDeviceMemory:
        self.forget()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return OutOfDeviceMemory(
            f"{self.name} ran out of memory on {self.device} ({str(error)[:200] or type(error).__name__}). "
            "The caches are emptied: ask again with a shorter answer or fewer beams, or load with "
            'quantization="8bit" or "4bit".'
        )


def _beginning(answer: Answer, count: int) -> Answer:
    """The first `count` tokens of a finished answer, as the stream showed them."""
    tokens = answer.tokens[:count]
    return replace(
        answer,
        text="".join(tokens).strip(),
        tokens=tokens,
        token_ids=answer.token_ids[:count],
        logprobs=answer.logprobs[:count],
        finish=None,
    )
