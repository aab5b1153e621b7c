"""What the page is built from: models, matcher and checks, loaded as the options ask for."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from qformer_viz.cli.arguments import PRECISIONS, precision
from qformer_viz.cli.backend import backend
from qformer_viz.cli.command import load
from qformer_viz.media import decode_pool

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from qformer_viz.runtime.checkpoints import Checkpoint
    from qformer_viz.runtime.matcher import Matcher
    from qformer_viz.runtime.pipeline import Pipeline
    from qformer_viz.ui.app_context import AppContext, ChatModel, Geometry

QUICK = 100e6
"""Parameters below which an answer is explained without being asked, as on a GPU; BLIP-2 emoji has 8 million."""


def make_context(
    pipe: Pipeline,
    matcher: Matcher | None = None,
    others: Mapping[Checkpoint, Callable[[], Pipeline]] | None = None,
    precisions: Mapping[str, Callable[[], Pipeline]] | None = None,
) -> AppContext:
    """What the interface needs, from a loaded pipeline, its domain, and perhaps a matcher.

    `others`: further checkpoints to choose on the page, and what loads the pipeline of each; `precisions`: further ones
    of this model.
    """
    from qformer_viz.runtime.model_cache import ModelCache
    from qformer_viz.types import Decoding
    from qformer_viz.ui.app_context import AppContext

    shared = backend()
    first = chat_model(pipe)
    cache: ModelCache[ChatModel] = ModelCache()
    return AppContext(
        chat_model=first,
        models={pipe.checkpoint.title: lambda: first}
        | {
            entry.title: partial(cache.get, entry.title, partial(_loaded_model, load))
            for entry, load in (others or {}).items()
            if entry.title != pipe.checkpoint.title
        },
        compares_questions=first.reads_questions
        or any(entry.model_family.reads_questions for entry in others or ()),
        decode=decode_pool.decode,
        decoding=Decoding,
        user_errors=shared.errors,
        examples=first.domain.examples(),
        scene_maker=first.domain.scene_maker(),
        matcher=matcher,
        precisions=precisions or {},
    )


def _loaded_model(load: Callable[[], Pipeline]) -> ChatModel:
    return chat_model(load())


def chat_model(pipe: Pipeline) -> ChatModel:
    """A loaded pipeline as a model that chats, with the checks of its domain."""
    from qformer_viz.runtime.zerogpu import RemotePipeline
    from qformer_viz.ui.app_context import ChatModel

    domain = pipe.checkpoint.domain
    return ChatModel(
        pipe=pipe,
        geometry=geometry(pipe.model.config),
        domain=domain,
        ood_check=domain.ood_check(pipe.checkpoint.folder),
        unknown_words=domain.unknown_words(pipe.processor.tokenizer),
        quick=not isinstance(pipe, RemotePipeline)
        and (pipe.device.type == "cuda" or pipe.model.num_parameters() < QUICK),
    )


def other_precisions(pipe: Pipeline, args: argparse.Namespace) -> dict[str, Callable[[], Pipeline]]:
    """The precisions in which the model that chats could be loaded beside itself, and what loads each; the last one
    stays."""
    from qformer_viz.runtime.model_cache import ModelCache

    if os.environ.get("SPACES_ZERO_GPU"):
        return {}  # there is one model, read before the page opens
    shared = backend()
    mine = pipe.quantization or str(pipe.dtype).removeprefix("torch.")
    safe = pipe.checkpoint.precisions
    fitting = [
        name
        for name in PRECISIONS
        if name in safe and name != mine and not (name == "float16" and pipe.device.type == "cpu")
    ]

    cache: ModelCache[Pipeline] = ModelCache(most=1)
    options = {"device": args.device, "allow": tuple(args.allow)}
    return {
        name: partial(cache.get, name, partial(shared.load, args.model, **options, **precision(name)))
        for name in fitting
    }


def load_placed(args: argparse.Namespace, name: str) -> Pipeline:
    """The pipeline of a checkpoint, as the options ask for it, or where the GPU is lent by the call, one that makes
    such calls."""
    return placed(load(backend(), argparse.Namespace(**vars(args) | {"model": name})))


def hosted(args: argparse.Namespace) -> argparse.Namespace:
    """The options as a ZeroGPU Space wants them: bundled models need no share of the GPU. Beside others they take one,
    for a gradient computed in the process that serves would keep its forks from the GPU."""
    from qformer_viz.runtime.checkpoints import resolve

    if os.environ.get("SPACES_ZERO_GPU") and args.device is None:
        chosen = [resolve(name, tuple(args.allow)) for name in (args.model, *args.offer)]
        return argparse.Namespace(
            **vars(args) | {"device": "cpu" if all(entry.domain.is_bundled for entry in chosen) else "cuda"}
        )
    return args


def placed(pipe: Pipeline) -> Pipeline:
    """The pipeline itself, or where the GPU is lent by the call, one that makes such calls."""
    from qformer_viz.runtime.zerogpu import remote, zero_gpu

    gpu = zero_gpu()
    return pipe if gpu is None or pipe.device.type != "cuda" else remote(pipe, gpu)


def bundled_beside(pipe: Pipeline, args: argparse.Namespace) -> dict[Checkpoint, Callable[[], Pipeline]]:
    """The other bundled checkpoints of its domain that chat, and what loads the pipeline of each."""
    from qformer_viz.runtime.checkpoints import CHECKPOINTS

    domain = pipe.checkpoint.domain
    return {
        entry: partial(load_placed, args, entry.id)
        for entry in CHECKPOINTS.values()
        if domain.is_bundled
        and entry.domain == domain
        and entry.model_family.chats
        and entry.id != pipe.checkpoint.id
        and is_here(entry)
    }


def offered(args: argparse.Namespace) -> dict[Checkpoint, Callable[[], Pipeline]]:
    """The checkpoints that the operator puts on the page, and what loads the pipeline of each. Nothing is read yet but
    a folder's config.json, which says whether its Q-Former reads the question."""
    from qformer_viz.runtime.checkpoints import resolve

    return {resolve(name, tuple(args.allow)): partial(load_placed, args, name) for name in args.offer}


def is_here(checkpoint: Checkpoint) -> bool:
    return checkpoint.folder is not None and (checkpoint.folder / "config.json").is_file()


def default_matcher(pipe: Pipeline) -> str | None:
    """The bundled retrieval checkpoint of the domain of the model that chats, where there is one."""
    from qformer_viz.runtime.checkpoints import CHECKPOINTS

    entry = CHECKPOINTS.get(pipe.checkpoint.domain.matcher or "")
    return entry.id if entry and is_here(entry) else None


def load_matcher(name: str, args: argparse.Namespace) -> Matcher:
    """A retrieval model, with the attention of every comparison recorded."""
    import qformer_viz
    from qformer_viz.hooks.recording import capture

    # Where the GPU is lent by the call, it is lent to the model that chats.
    device = "cpu" if os.environ.get("SPACES_ZERO_GPU") else args.device
    return qformer_viz.load_matcher(name, device=device, allow=tuple(args.allow), observe=capture)


def geometry(config: PreTrainedConfig) -> Geometry:
    """The Q-Former's layers, cross-attention layers, heads and queries from a model's configuration."""
    from qformer_viz.ui.app_context import Geometry

    qformer = config.qformer_config
    layers = qformer.num_hidden_layers
    crossing = tuple(range(0, layers, qformer.cross_attention_frequency))
    return Geometry(layers, crossing, qformer.num_attention_heads, config.num_query_tokens)
