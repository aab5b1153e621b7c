"""`qformer-viz app`, which is also `python app.py`: load the model, build the page, serve it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from qformer_viz.cli.app_address import FIRST_PORT, free_port, is_free, open_host, port_number
from qformer_viz.cli.app_setup import (
    bundled_beside,
    default_matcher,
    hosted,
    load_matcher,
    load_placed,
    make_context,
    offered,
    other_precisions,
)
from qformer_viz.cli.arguments import model_arguments
from qformer_viz.cli.backend import backend
from qformer_viz.cli.command import Backend, Command
from qformer_viz.domains.domain_registry import EMOJI_SCENES
from qformer_viz.media import decode_pool


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the app; environment variables give the defaults."""
    model_arguments(parser)
    env = os.environ
    parser.add_argument(
        "--host",
        default=env.get("QFORMER_VIZ_HOST") or open_host(env),
        help="address to listen on; 0.0.0.0 lets others in [QFORMER_VIZ_HOST, GRADIO_SERVER_NAME, %(default)s]",
    )
    parser.add_argument(
        "--names",
        nargs="*",
        default=(env.get("QFORMER_VIZ_NAMES") or "").split(),
        metavar="NAME",
        help="host names under which a proxy serves this page; a server that listens on this machine answers to no "
        "others but its own [QFORMER_VIZ_NAMES, separated by spaces]",
    )
    parser.add_argument(
        "--port",
        type=port_number,
        default=env.get("QFORMER_VIZ_PORT") or env.get("GRADIO_SERVER_PORT") or None,
        help=f"port to listen on [QFORMER_VIZ_PORT, GRADIO_SERVER_PORT, the first free one from {FIRST_PORT}]",
    )
    parser.add_argument(
        "--share",
        action="store_true",
        default=(env.get("GRADIO_SHARE") or "").lower() in ("true", "1"),
        help="a public link through Gradio's servers [GRADIO_SHARE, off]",
    )
    parser.add_argument(
        "--matcher",
        default=env.get("QFORMER_VIZ_MATCHER") or None,
        metavar="NAME",
        help="a retrieval checkpoint for the Match tab, such as Salesforce/blip2-itm-vit-g; a second model in memory "
        f"[QFORMER_VIZ_MATCHER, {EMOJI_SCENES.matcher} beside a bundled model, else none]",
    )
    parser.add_argument(
        "--offer",
        nargs="*",
        default=(env.get("QFORMER_VIZ_OFFER") or "").split(),
        metavar="NAME",
        help="further checkpoints to choose on the page, loaded then; QFORMER_VIZ_OFFER separates them by spaces",
    )
    parser.add_argument("--open", action="store_true", help="open the page in the browser")


def app_parser() -> argparse.ArgumentParser:
    """The options of `python app.py`."""
    parser = argparse.ArgumentParser(
        description="QFormer-Viz: upload an image, chat about it, see what each query attends to.",
        epilog="In brackets: the environment variable that sets the same, and the default.",
    )
    arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """`python app.py`: serve until interrupted. Returns 2 where the options are at fault, said on stderr."""
    return serve(app_parser().parse_args(argv))


def run(backend: Backend, args: argparse.Namespace) -> dict[str, Any]:
    """Serve until interrupted, as a command among the others."""
    return {"failed": serve(args) != 0}


def serve(args: argparse.Namespace) -> int:
    """Serve until interrupted. Returns 2 where the options are at fault, said on stderr."""
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
        context = make_context(pipe, matcher, others, other_precisions(pipe, args))
    except shared.errors as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    bypass_proxy(args.host)
    build(context).launch(
        server_port=port, inbrowser=args.open, **launch_options(context, args.host, args.share, args.names)
    )
    return 0


COMMAND = Command("app", "open the page in a browser, as python app.py does", arguments, run, order=0)
