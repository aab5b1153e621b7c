"""The explorer: arguments and environment, load the model, build the page, serve it.

python app.py                                             bundled model, http://127.0.0.1:7860
python app.py --model Salesforce/blip2-opt-2.7b --quantization 8bit      a model for photographs
"""

import argparse
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

if os.environ.get("SPACES_ZERO_GPU"):
    import spaces  # before torch, or ZeroGPU cannot hold the GPU back

    @spaces.GPU
    def declared() -> None:
        """ZeroGPU stops a Space that declares nothing for the GPU; a bundled model needs none."""


from qformer_viz.__main__ import backend
from qformer_viz.cli.arguments import PRECISIONS, model_arguments
from qformer_viz.cli.dispatch import load, precision
from qformer_viz.domains.domain_registry import EMOJI_SCENES
from qformer_viz.media import decode_pool

FIRST_PORT, PORTS = 7860, 20  # as Gradio; GRADIO_NUM_PORTS
QUICK = 100e6
"""Parameters below which an answer is taken apart unasked, as on a GPU; BLIP-2 emoji has 8 million."""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        description="QFormer-Viz: upload an image, chat about it, see what each query attends to.",
        epilog="In brackets: the environment variable that sets the same, and the default.",
    )
    model_arguments(top)
    env = os.environ
    top.add_argument(
        "--host",
        default=env.get("QFORMER_VIZ_HOST") or open_host(env),
        help="address to listen on; 0.0.0.0 lets others in [QFORMER_VIZ_HOST, GRADIO_SERVER_NAME, %(default)s]",
    )
    top.add_argument(
        "--names",
        nargs="*",
        default=(env.get("QFORMER_VIZ_NAMES") or "").split(),
        metavar="NAME",
        help="host names under which a proxy serves this page; a server that listens on this machine answers to no "
        "others but its own [QFORMER_VIZ_NAMES, separated by spaces]",
    )
    top.add_argument(
        "--port",
        type=port_number,
        default=env.get("QFORMER_VIZ_PORT") or env.get("GRADIO_SERVER_PORT") or None,
        help=f"port to listen on [QFORMER_VIZ_PORT, GRADIO_SERVER_PORT, the first free one from {FIRST_PORT}]",
    )
    top.add_argument(
        "--share",
        action="store_true",
        default=(env.get("GRADIO_SHARE") or "").lower() in ("true", "1"),
        help="a public link through Gradio's servers [GRADIO_SHARE, off]",
    )
    top.add_argument(
        "--matcher",
        default=env.get("QFORMER_VIZ_MATCHER") or None,
        metavar="NAME",
        help="a retrieval checkpoint for the Match tab, such as Salesforce/blip2-itm-vit-g; a second model in memory "
        f"[QFORMER_VIZ_MATCHER, {EMOJI_SCENES.matcher} beside a bundled model, else none]",
    )
    top.add_argument(
        "--offer",
        nargs="*",
        default=(env.get("QFORMER_VIZ_OFFER") or "").split(),
        metavar="NAME",
        help="further checkpoints to choose on the page, loaded then; QFORMER_VIZ_OFFER separates them by spaces",
    )
    top.add_argument("--open", action="store_true", help="open the page in the browser")
    return top


def port_number(text: str) -> int:
    """A port from what was typed."""
    number = int(text)
    if not 1 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"port {number} does not exist; choose one from 1 to 65535")
    return number


def open_host(env: Mapping[str, str]) -> str:
    """This machine alone, unless it is a Space, whose page is reached from outside only."""
    return env.get("GRADIO_SERVER_NAME") or ("0.0.0.0" if env.get("SYSTEM") == "spaces" else "127.0.0.1")


def make_services(
    pipe: Any,
    matcher: Any = None,
    others: Mapping[Any, Callable[[], Any]] | None = None,
    precisions: Mapping[str, Callable[[], Any]] | None = None,
) -> Any:
    """What the interface needs, from a loaded pipeline, its domain, and perhaps a matcher.

    `others`: further checkpoints to choose on the page, and what loads the pipeline of each; `precisions`: further ones
    of this model.
    """
    from qformer_viz.runtime.model_cache import ModelCache
    from qformer_viz.types import Decoding
    from qformer_viz.ui.app_context import AppContext

    shared = backend()
    first, shelf = chat_model(pipe), ModelCache()
    return AppContext(
        chat_model=first,
        models={pipe.checkpoint.title: lambda: first}
        | {
            entry.title: partial(shelf.get, entry.title, partial(_spoken, load))
            for entry, load in (others or {}).items()
            if entry.title != pipe.checkpoint.title
        },
        compares_questions=first.reads_questions
        or any(entry.family == "instructblip" for entry in others or ()),
        decode=decode_pool.decode,
        decoding=Decoding,
        user_errors=shared.errors,
        examples=first.domain.examples(),
        scene_maker=first.domain.scene_maker(),
        matcher=matcher,
        precisions=precisions or {},
    )


def _spoken(load: Callable[[], Any]) -> Any:
    return chat_model(load())


def chat_model(pipe: Any) -> Any:
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


def other_precisions(pipe: Any, args: argparse.Namespace) -> dict[str, Callable[[], Any]]:
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

    shelf, options = ModelCache(most=1), {"device": args.device, "allow": tuple(args.allow)}
    return {
        name: partial(shelf.get, name, partial(shared.load, args.model, **options, **precision(name)))
        for name in fitting
    }


def load_placed(args: argparse.Namespace, name: str) -> Any:
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


def placed(pipe: Any) -> Any:
    """The pipeline itself, or where the GPU is lent by the call, one that makes such calls."""
    from qformer_viz.runtime.zerogpu import remote, zero_gpu

    gpu = zero_gpu()
    return pipe if gpu is None or pipe.device.type != "cuda" else remote(pipe, gpu)


def bundled_beside(pipe: Any, args: argparse.Namespace) -> dict[Any, Callable[[], Any]]:
    """The other bundled checkpoints of its domain that chat, and what loads the pipeline of each."""
    from qformer_viz.runtime.checkpoints import CHECKPOINTS

    domain = pipe.checkpoint.domain
    return {
        entry: partial(load_placed, args, entry.id)
        for entry in CHECKPOINTS.values()
        if domain.is_bundled
        and entry.domain == domain
        and entry.family != "retrieval"
        and entry.id != pipe.checkpoint.id
        and is_here(entry)
    }


def offered(args: argparse.Namespace) -> dict[Any, Callable[[], Any]]:
    """The checkpoints that the operator puts on the page, and what loads the pipeline of each. Nothing is read yet but
    a folder's config.json, which says whether its Q-Former reads the question."""
    from qformer_viz.runtime.checkpoints import resolve

    return {resolve(name, tuple(args.allow)): partial(load_placed, args, name) for name in args.offer}


def is_here(checkpoint: Any) -> bool:
    return checkpoint.folder is not None and (checkpoint.folder / "config.json").is_file()


def default_matcher(pipe: Any) -> str | None:
    """The bundled retrieval checkpoint of the domain of the model that chats, where there is one."""
    from qformer_viz.runtime.checkpoints import CHECKPOINTS

    entry = CHECKPOINTS.get(pipe.checkpoint.domain.matcher or "")
    return entry.id if entry and is_here(entry) else None


def load_matcher(name: str, args: argparse.Namespace) -> Any:
    """A retrieval model, with the attention of every comparison recorded."""
    import qformer_viz
    from qformer_viz.hooks.recording import capture

    # Where the GPU is lent by the call, it is lent to the model that chats.
    device = "cpu" if os.environ.get("SPACES_ZERO_GPU") else args.device
    return qformer_viz.load_matcher(name, device=device, allow=tuple(args.allow), observe=capture)


def geometry(config: Any) -> Any:
    """The Q-Former's layers, cross-attention layers, heads and queries from a model's configuration."""
    from qformer_viz.ui.app_context import Geometry

    qformer = config.qformer_config
    layers = qformer.num_hidden_layers
    crossing = tuple(range(0, layers, qformer.cross_attention_frequency))
    return Geometry(layers, crossing, qformer.num_attention_heads, config.num_query_tokens)


def free_port(host: str) -> int:
    """The first port from 7860 that nothing listens on."""
    given = os.environ.get("GRADIO_NUM_PORTS", "")
    last = min(FIRST_PORT + (int(given) if given.isdigit() and int(given) else PORTS) - 1, 65535)
    for port in range(FIRST_PORT, last + 1):
        if is_free(host, port):
            return port
    raise SystemExit(f"error: ports {FIRST_PORT} to {last} are in use. Choose one with --port.")


def is_free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until interrupted. 2: the options are at fault, said on stderr."""
    args = parser().parse_args(argv)
    args.host = args.host.strip("[]")
    if args.port and not is_free(args.host, args.port):
        print(
            f"error: port {args.port} on {args.host} is in use or not allowed. Stop what listens there, "
            "choose another with --port, or leave --port out to take the next free one.",
            file=sys.stderr,
        )
        return 2
    port = args.port or free_port(args.host)
    shared = backend()
    decode_pool.warm()
    from qformer_viz.ui.upload_folder import own_folder

    try:
        own_folder(port, os.environ)
        args = hosted(args)
        further = offered(args)
        pipe = load_placed(args, args.model)
        name = args.matcher or default_matcher(pipe)
        matcher = load_matcher(name, args) if name else None
    except shared.errors as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    import torch

    from qformer_viz.ui import build, launch_options
    from qformer_viz.ui.request_guard import bypass_proxy

    # For the page's own sums, which are small: workers of theirs would keep the model's from their work
    # (runtime.device_queue).
    torch.set_num_threads(1)
    others = bundled_beside(pipe, args) | further
    try:
        services = make_services(pipe, matcher, others, other_precisions(pipe, args))
    except shared.errors as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    bypass_proxy(args.host)
    build(services).launch(
        server_port=port, inbrowser=args.open, **launch_options(services, args.host, args.share, args.names)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
