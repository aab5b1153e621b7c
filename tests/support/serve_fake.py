"""`python -m tests.support.serve_fake`: the real page over the fake pipeline."""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from PIL import Image

from qformer_viz import METHODS, Method
from qformer_viz.domains.domain import Example
from qformer_viz.ui import build, launch_options
from qformer_viz.ui.app_context import Limits
from tests.support.fakes_ui import FakeDomain, FakeMatcher, fake_choice, fake_services


def held(case):
    """A method that takes half a minute if nobody stops it."""
    for step in range(600):
        case.on_progress(step, 600)
        time.sleep(0.05)
    return torch.zeros(len(case.words), 1, case.capture.grid[0] * case.capture.grid[1])


METHODS["held"] = Method("held", "Held", held, "nats", "That it waits.", "Anything else.", slow=True)
parser = argparse.ArgumentParser()
parser.add_argument("--upload", default="20mb")
parser.add_argument("--port", type=int)
parser.add_argument("--queue", type=int, default=Limits.queue, help="requests that may wait")
parser.add_argument("--memory", type=int, default=Limits.session_bytes, help="bytes for all sessions")
args = parser.parse_args()


def slow():
    """Weights that take a while to read."""
    time.sleep(8)
    return choice["models"]["Fake InstructBLIP"]()


with TemporaryDirectory() as folder:
    examples = []
    for name in ("red", "green"):
        examples.append(Example(Path(folder) / f"{name}.png", name))
        Image.new("RGB", (60, 40), name).save(examples[-1].path)
    choice = fake_choice(broken=True, domain=FakeDomain(samples=tuple(str(each.path) for each in examples)))
    choice["models"]["Slow"] = slow
    services = fake_services(
        examples=tuple(examples),
        matcher=FakeMatcher(),
        limits=Limits(max_question=60, max_turns=5, queue=args.queue, session_bytes=args.memory),
        **choice,
    )
    options = launch_options(services) | {"max_file_size": args.upload, "server_port": args.port}
    build(services).launch(**options)
