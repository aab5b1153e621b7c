"""The explorer: arguments and environment, load the model, build the page, serve it.

python app.py                                             bundled model, http://127.0.0.1:7860
python app.py --model Salesforce/blip2-opt-2.7b --quantization 8bit      a model for photographs
"""

import argparse
import json
import os
import re
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

if os.environ.get("SPACES_ZERO_GPU"):
    import spaces  # before torch, or ZeroGPU cannot hold the GPU back

    @spaces.GPU
    def declared() -> None:
        """ZeroGPU stops a Space that declares nothing for the GPU; a bundled model needs none."""


from qformer_viz.__main__ import backend
from qformer_viz.cli.arguments import PRECISIONS, model_arguments
from qformer_viz.cli.dispatch import load, precision
from qformer_viz.media import decode_pool

EXAMPLES = Path(__file__).resolve().parent / "assets" / "examples"
FILM_IS_NEW = (
    "The bundled model was trained on single scenes: what it says of several at once it has never been taught, and it "
    "may count a thing more than once."
)
FIRST_PORT, PORTS = 7860, 20  # as Gradio; GRADIO_NUM_PORTS
MATCHER = "blip2-emoji-itm"
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
        f"[QFORMER_VIZ_MATCHER, {MATCHER} beside a bundled model, else none]",
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
    """What the interface needs, from a loaded pipeline, perhaps a matcher, and the bundled world.

    `others`: further checkpoints to choose on the page, and what loads the pipeline of each; `precisions`: further ones
    of this model.
    """
    from qformer_viz.domains.reference_images import reference_images
    from qformer_viz.runtime.model_cache import ModelCache
    from qformer_viz.types import Decoding
    from qformer_viz.ui.app_context import AppContext

    shared = backend()
    bundled = is_bundled(pipe.checkpoint)
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
        examples=examples() if bundled else (),
        scene_maker=scene_maker() if bundled else None,
        matcher=matcher,
        precisions=precisions or {},
        sample_images=reference_images,
    )


def _spoken(load: Callable[[], Any]) -> Any:
    return chat_model(load())


def is_bundled(checkpoint: Any) -> bool:
    return checkpoint.world == "emoji scenes"


def chat_model(pipe: Any) -> Any:
    """A loaded pipeline as a model that chats, with what there is to say about its world."""
    from qformer_viz.runtime.zerogpu import RemotePipeline
    from qformer_viz.ui.app_context import ChatModel

    bundled = is_bundled(pipe.checkpoint)
    return ChatModel(
        pipe=pipe,
        geometry=geometry(pipe.model.config),
        world=pipe.checkpoint.world,
        familiar=unfamiliar(pipe.checkpoint.folder) if bundled else None,
        unknown=unknown_words(pipe.processor.tokenizer) if bundled else None,
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
            **vars(args) | {"device": "cpu" if all(map(is_bundled, chosen)) else "cuda"}
        )
    return args


def placed(pipe: Any) -> Any:
    """The pipeline itself, or where the GPU is lent by the call, one that makes such calls."""
    from qformer_viz.runtime.zerogpu import remote, zero_gpu

    gpu = zero_gpu()
    return pipe if gpu is None or pipe.device.type != "cuda" else remote(pipe, gpu)


def bundled_beside(pipe: Any, args: argparse.Namespace) -> dict[Any, Callable[[], Any]]:
    """The other bundled checkpoints that chat, where a bundled one does, and what loads the pipeline of each."""
    from qformer_viz.runtime.checkpoints import CHECKPOINTS

    if not is_bundled(pipe.checkpoint):
        return {}
    return {
        entry: partial(load_placed, args, entry.id)
        for entry in CHECKPOINTS.values()
        if is_bundled(entry)
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
    """The bundled retrieval checkpoint, where a bundled model chats."""
    from qformer_viz.runtime.checkpoints import CHECKPOINTS

    entry = CHECKPOINTS.get(MATCHER)
    return MATCHER if entry and is_bundled(pipe.checkpoint) and is_here(entry) else None


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


def examples() -> tuple[tuple[Path, str], ...]:
    """The bundled example scenes in the gallery's order, with their titles."""
    found = tuple((EXAMPLES / name, Path(name).stem.replace("-", " ")) for name in gallery())
    if missing := [path.name for path, _ in found if not path.is_file()]:
        raise incomplete("assets/examples", f"{', '.join(missing)} missing")
    return found


def gallery() -> dict[str, Any]:
    """The scenes of the bundled examples by file name, in the gallery's order."""
    try:
        return json.loads((EXAMPLES / "scenes.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise incomplete("assets/examples", error) from error


def incomplete(folder: str, why: object) -> Exception:
    """The error for a folder of this repository that is not what it was."""
    from qformer_viz.errors import CheckpointError

    return CheckpointError(
        f"{folder} cannot be read ({why}). Get the repository complete: git checkout -- {folder}"
    )


def scene_maker() -> Any:
    """Draws scenes of the bundled world."""
    import torch

    try:
        from qformer_viz.domains.emoji import scene_registry
    except (OSError, ValueError) as error:
        raise incomplete("assets/emoji", error) from error
    from qformer_viz.domains.emoji.ground_truth import masks
    from qformer_viz.domains.emoji.scenes import (
        LAYOUTS,
        MAX_OBJECTS,
        NOUNS,
        STYLES,
        Scene,
        layout_scene,
        render,
    )
    from qformer_viz.media.video import FRAMES
    from qformer_viz.ui.app_context import Drawn, SceneMaker

    scenes = scene_registry.DrawnScenes(map(Scene.from_dict, gallery().values()))

    def draw(nouns, layout, style):
        return scenes.draw(layout_scene(nouns, layout, style))

    def film(nouns, layout, style):
        return [
            render(scene).image for scene in scene_registry.walk(layout_scene(nouns, layout, style), FRAMES)
        ]

    def recall(image):
        scene = scenes.recall(image)
        if scene is None:
            return None
        return Drawn(
            scene_registry.names(scene),
            {noun: torch.from_numpy(mask) for noun, mask in masks(scene, render(scene)).items()},
            lambda index: scenes.draw(scene_registry.without(scene, index)),
            lambda index, x, y: scenes.draw(scene_registry.moved(scene, index, x, y)),
        )

    return SceneMaker(NOUNS, LAYOUTS, STYLES, draw, MAX_OBJECTS, recall, film)


def unfamiliar(folder: Path | None) -> Any:
    """A function that says when an image is unlike the bundled world, by a probe on its ViT features."""
    try:
        from qformer_viz.domains.emoji.ood_detector import load_ood_detector

        known = load_ood_detector(folder)
    except (ImportError, OSError):
        return None
    from qformer_viz.ui.inspector.about_view import PHOTO_COMMAND

    def notice(encoded: Any) -> str | None:
        found = known(encoded.vision[:1].float().cpu())  # of a film the first frame
        if found.familiar:
            return FILM_IS_NEW if len(encoded.frames) > 1 else None
        return (
            "This image looks unlike anything the bundled model has seen (strangeness "
            f"{found.strangeness:.1f}; 99 of 100 emoji scenes stay below {found.threshold:.1f}). It only knows emoji "
            "scenes, so expect wrong words here. For photographs, start the program with: "
            f"{PHOTO_COMMAND}"
        )

    return notice


def unknown_words(tokenizer: Any) -> Any:
    """A function that lists the words of a question which the bundled model has never read.

    Its tokenizer holds every word of its world as one token; what falls into pieces was not in it.
    """

    def pieces(word: str) -> int:
        return len(tokenizer(f" {word}", add_special_tokens=False)["input_ids"])

    def unread(question: str) -> tuple[str, ...]:
        words = dict.fromkeys(re.findall(r"[^\W_]+", question.lower()))
        return tuple(word for word in words if pieces(word) > 1)

    return unread


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

    # For the page's own sums, which are small: workers of theirs would keep the model's from their work (runtime.device_queue).
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
