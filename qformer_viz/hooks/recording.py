"""The only hooks of the project: record what a Q-Former attends to while the model runs as usual.

The hooks read the outputs of the Q-Former's `query` and `key` linear layers. These are floating point
whatever the precision of the weights and are there whatever computes the attention (eager, SDPA, ...),
so nothing about the model has to be switched. softmax(q kᵀ / sqrt(d) + mask) is evaluated once, in float32
on the CPU, when the block ends. A model in half precision evaluates its own scores in half; the recorded
maps are the float32 softmax of the same q and k. In training mode they are the maps before dropout.
"""

from __future__ import annotations

import inspect
import math
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from qformer_viz.errors import GridMismatch, ManyCaptured, NotAQFormer, NothingCaptured, StillRecording
from qformer_viz.hooks.compiled_modules import uncompiled
from qformer_viz.hooks.qformer_modules import QFormerModules, find_qformer, parts
from qformer_viz.types import Capture

if TYPE_CHECKING:
    from transformers import Blip2QFormerModel

Args = tuple[Any, ...]
"""What a module is called with."""

# Which recordings the running thread or task has entered. Hooks sit on the shared model, so each one asks
# here whether the call is its own. Keys, not recordings: a context that outlives a block keeps nothing alive.
_entered: ContextVar[frozenset[object]] = ContextVar("qformer_viz_entered", default=frozenset())


class Recording:
    """What `capture` yields. After the block it offers every attribute of the single Capture it holds.

    captures: one Capture per Q-Former call, in order. result: the Capture, if there is exactly one.
    Reading anything inside the block raises StillRecording; `result` and the attributes raise
    NothingCaptured or ManyCaptured if there is not exactly one call.
    """

    def __init__(self) -> None:
        self._captures: tuple[Capture, ...] | None = None
        self._others: tuple[str, ...] = ()

    @property
    def captures(self) -> tuple[Capture, ...]:
        if self._captures is None:
            raise StillRecording(
                "a recording whose block has not ended",
                "to be read after the `with qformer_viz.capture(model)` block",
                "move the reading line out of the block",
            )
        return self._captures

    @property
    def result(self) -> Capture:
        if not self.captures:
            raise _nothing(self._others)
        if len(self.captures) > 1:
            raise ManyCaptured(
                f"{len(self.captures)} Q-Former calls in the block",
                "exactly one",
                "choose one with recording.captures[i], or open one block per call",
            )
        return self.captures[0]

    def __getattr__(self, name: str) -> Any:
        if name in _DELEGATED:
            return getattr(self.result, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __repr__(self) -> str:
        if self._captures is None:
            return "Recording(still recording)"
        return f"Recording({len(self._captures)} Q-Former calls)"

    def _repr_html_(self) -> str:
        if not self._captures:
            return f"<p>{'Nothing captured' if self._captures == () else 'Still recording'}</p>"
        return "".join(one._repr_html_() for one in self._captures)


_DELEGATED = frozenset({"image", *(field.name for field in fields(Capture))})
_ELSEWHERE, _TEXT = "calls in another thread or task", "calls without queries"


def _nothing(others: tuple[str, ...]) -> NothingCaptured:
    """What to tell of a block without a call of its own, from the calls that were passed over."""
    if _ELSEWHERE in others:
        return NothingCaptured(
            "Q-Former calls in the block, all in another thread or task",
            "exactly one, made in the thread or task that entered it",
            "enter the block in the thread that runs the model",
        )
    if _TEXT in others:
        return NothingCaptured(
            "Q-Former calls in the block, all on text alone, without queries",
            "exactly one with query_embeds",
            "run a call that sees an image, such as get_image_features()",
        )
    return NothingCaptured(
        "no Q-Former call in the block",
        "exactly one",
        "run generate(), get_image_features() or the Q-Former inside the block, on the model that was given to "
        "capture; a traced, exported or graph-captured copy of it calls no hooks",
    )


@contextmanager
def capture(model: nn.Module) -> Iterator[Recording]:
    """Record every image call of the model's Q-Former inside the block.

    model: any transformers model with a BLIP-2 or InstructBLIP Q-Former, in any precision, or a module of your own
    around one, whose image tokens are CLS and the patches of a square. Outputs stay bit-identical; what torch.compile
    has compiled runs uncompiled meanwhile, in the whole process. Of a PEFT model with the Q-Former among its
    `modules_to_save`, the copy that runs is recorded. Blocks nest, and calls of other threads and tasks on the same
    model are not seen. Hooks are gone when the block ends, with or without an exception; calls completed until then are
    kept. Q-Former calls on text alone (the text side of contrastive retrieval) have no maps and are passed over.
    Raises NotAQFormer on entry; GridMismatch on exit if the image tokens do not fit the patch grid, NotAQFormer if the
    call had no learned queries or attention of another make.
    """
    site = find_qformer(model)
    tape = _Tape(site)
    recording = Recording()
    handles: list[RemovableHandle] = []
    _entered.set(_entered.get() | {tape.key})
    try:
        with uncompiled():
            tape.attach(handles)
            yield recording
    finally:
        for handle in handles:
            handle.remove()
        # Not reset(token): a generator may be finished in another context than it was started in.
        _entered.set(_entered.get() - {tape.key})
        recording._captures, recording._others = (), tuple(tape.others)
        recording._captures = tuple(_seal(call, site) for call in tape.calls)


@dataclass(eq=False)
class _Call:
    """One running Q-Former call: raw tensors where the model left them, detached."""

    qformer: Blip2QFormerModel
    embeds: Tensor | None
    queries: int
    self_mask: Tensor | None
    cross_mask: Tensor | None
    grid: tuple[int, int] | None
    states: list[Tensor] = field(default_factory=list)
    projections: dict[tuple[str, int, str], Tensor] = field(default_factory=dict)


_LAYER = re.compile(r"encoder\.layer\.(?P<index>\d+)")
_LINEAR = re.compile(_LAYER.pattern + r"\.(?P<kind>attention|crossattention)\.attention\.(?P<part>query|key)")


class _Tape:
    """The hooks of one recording. A call is open between the Q-Former's pre-hook and its hook."""

    def __init__(self, site: QFormerModules) -> None:
        self.site, self.key = site, object()
        self.calls: list[_Call] = []
        self.others: set[str] = set()
        # Per thread, so that two threads sharing one context do not write into one call.
        self._local = threading.local()

    def attach(self, handles: list[RemovableHandle]) -> None:
        for conv in self.site.convs:
            handles.append(conv.register_forward_hook(self._patched))
        for qformer in self.site.qformers:
            handles.append(qformer.register_forward_pre_hook(self._open, with_kwargs=True))
            for name, part in parts(qformer):
                layer, linear = _LAYER.fullmatch(name), _LINEAR.fullmatch(name)
                if layer:
                    if layer["index"] == "0":
                        handles.append(part.register_forward_pre_hook(self._embedded))
                    handles.append(part.register_forward_hook(self._state))
                if linear:
                    kind = "self" if linear["kind"] == "attention" else "cross"
                    hook = self._projection(kind, int(linear["index"]), linear["part"])
                    handles.append(part.register_forward_hook(hook))
            handles.append(qformer.register_forward_hook(self._close))

    def _mine(self) -> bool:
        return self.key in _entered.get()

    def _current(self) -> _Call | None:
        return getattr(self._local, "call", None) if self._mine() else None

    def _patched(self, module: nn.Module, args: Args, output: Tensor) -> None:
        if self._mine():
            self._local.grid = tuple(output.shape[-2:])

    # kwargs is optional because torch registers a hook before it notes that the hook takes keywords: another
    # thread that runs the model in between calls it without.
    def _open(self, module: nn.Module, args: Args, kwargs: Mapping[str, Any] | None = None) -> None:
        if not self._mine():
            self.others.add(_ELSEWHERE)
            return
        given = inspect.signature(module.forward).bind(*args, **(kwargs or {})).arguments
        embeds, queries = given.get("query_embeds"), given.get("query_length")
        if queries is None:
            queries = 0 if embeds is None else embeds.shape[1]
        self._local.call = None
        if not queries:
            self.others.add(_TEXT)
        else:
            self._local.call = _Call(
                module,
                None if embeds is None else embeds.detach()[:, :queries],
                queries,
                given.get("attention_mask"),
                given.get("encoder_attention_mask"),
                getattr(self._local, "grid", None),
            )

    def _embedded(self, module: nn.Module, args: Args) -> None:
        self._add_state(args[0])

    def _state(self, module: nn.Module, args: Args, output: Tensor) -> None:
        self._add_state(output)

    def _add_state(self, hidden: Tensor) -> None:
        call = self._current()
        if call is not None:
            # A copy: the last state is what the caller gets, and may be written to.
            call.states.append(hidden.detach()[:, : call.queries].clone())

    def _projection(self, kind: str, index: int, part: str) -> Callable[[nn.Module, Args, Tensor], None]:
        def hook(module: nn.Module, args: Args, output: Tensor) -> None:
            call = self._current()
            if call is not None:
                call.projections[kind, index, part] = output.detach()

        return hook

    def _close(self, module: nn.Module, args: Args, output: object) -> None:
        call = self._current()
        if call is not None:
            self._local.call = None
            self.calls.append(call)


def _seal(call: _Call, site: QFormerModules) -> Capture:
    """Turn a finished call into a Capture, whatever autograd or autocast mode surrounds the block."""
    with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
        layers = call.qformer.encoder.layer
        cross_layers = tuple(i for i, layer in enumerate(layers) if hasattr(layer, "crossattention"))
        by_cross = [_probabilities(call, "cross", i, call.cross_mask) for i in cross_layers]
        by_layer = [_probabilities(call, "self", i, call.self_mask) for i in range(len(layers))]
        images = max(maps.shape[0] for maps in by_cross)
        cross = torch.stack([maps.expand(images, -1, -1, -1) for maps in by_cross])
        own = torch.stack([maps.expand(images, -1, -1, -1) for maps in by_layer])
        text = None
        if own.shape[-1] > call.queries:
            own, text = (part.clone() for part in own.tensor_split([call.queries], -1))
        states = torch.stack([_cpu(state).expand(images, -1, -1) for state in call.states])
        return Capture(
            cross_attention=cross,
            self_attention=own,
            query_states=states,
            query_tokens=_learned(call, site),
            cross_layers=cross_layers,
            grid=_grid(call, site, cross.shape[-1]),
            attn_implementation=call.qformer.config._attn_implementation,
            text_attention=text,
        )


def _learned(call: _Call, site: QFormerModules) -> Tensor:
    """[q, d] queries as learned: those of the owner, or else those that the call was given for every image."""
    if site.owner is not None:
        tokens = site.owner.query_tokens
        assert isinstance(tokens, Tensor), "that is what makes it the owner"
        return _cpu(tokens)[0].clone()
    assert call.embeds is not None, "queries were counted"
    given = _cpu(call.embeds)
    if not torch.equal(given, given[:1].expand_as(given)):
        raise NotAQFormer(
            "queries that differ from one image or window to the next, and no query_tokens above the Q-Former",
            "learned queries, the same for every image",
            "record a model whose Q-Former starts from learned queries; queries made of the image are not supported",
        )
    return given[0].clone()


def _probabilities(call: _Call, kind: str, index: int, mask: Tensor | None) -> Tensor:
    """softmax(q kᵀ / sqrt(d) + mask) of one layer for the query positions: [b, h, q, keys]."""
    layer = call.qformer.encoder.layer[index]
    attention = (layer.attention if kind == "self" else layer.crossattention).attention
    try:
        q, k = (_cpu(call.projections[kind, index, part]) for part in ("query", "key"))
    except KeyError:
        raise NotAQFormer(
            f"{kind}-attention of layer {index} that ran without its query or key layer",
            "both to be called once per Q-Former call",
            "load the model without replaced or fused attention modules",
        ) from None
    heads = attention.num_attention_heads
    q = q[:, : call.queries].unflatten(-1, (heads, -1)).transpose(1, 2)
    k = k.unflatten(-1, (heads, -1)).transpose(1, 2)
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    if mask is not None:
        scores = scores + _additive(mask, call.queries)
    return scores.softmax(-1)


def _additive(mask: Tensor, queries: int) -> Tensor:
    """What a transformers mask, [b, keys] or [b, 1 or h, rows, keys], adds to the scores."""
    mask = mask.detach().cpu()
    if mask.dim() == 2:
        mask = mask[:, None, None, :].bool()
    if mask.shape[-2] > 1:
        mask = mask[..., :queries, :]
    if mask.dtype == torch.bool:
        # Finite, so that a row without any key comes out even instead of NaN.
        return torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    return mask.float()


def _grid(call: _Call, site: QFormerModules, tokens: int) -> tuple[int, int]:
    """The grid the ViT used in this block (another one where position embeddings were interpolated), the configured
    one if the image features came from elsewhere, or a square where the model tells none."""
    side = math.isqrt(tokens - 1)
    square = None if site.grid or side < 2 else (side, side)
    for grid in (call.grid, site.grid, square):
        if grid is not None and grid[0] * grid[1] + 1 == tokens:
            return grid
    if site.grid is None:
        raise GridMismatch(
            f"{tokens} keys in cross-attention, of a model without config.vision_config",
            "CLS and the patches of a square, such as 1 + 16 × 16 = 257",
            "record a Q-Former that is given CLS, then all patches of the image; sound, windows of an image and "
            "patches without CLS are not supported",
        )
    raise GridMismatch(
        f"{tokens} image tokens in cross-attention",
        f"{site.grid[0]} × {site.grid[1]} patches and CLS = {site.grid[0] * site.grid[1] + 1}",
        "give the Q-Former the complete output of the model's own vision tower, CLS first",
    )


def _cpu(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32)
