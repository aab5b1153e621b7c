"""`python -m tests.serve_fake`: the real page over the fake pipeline."""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from qformer_viz.ui import build, launch_options
from tests.fakes_ui import FakeMatcher, fake_choice, fake_services

parser = argparse.ArgumentParser()
parser.add_argument("--upload", default="20mb")
args = parser.parse_args()
with TemporaryDirectory() as folder:
    examples = []
    for name in ("red", "green"):
        examples.append((Path(folder) / f"{name}.png", name))
        Image.new("RGB", (60, 40), name).save(examples[-1][0])
    services = fake_services(
        examples=tuple(examples),
        matcher=FakeMatcher(),
        album=lambda world: [str(path) for path, _ in examples],
        **fake_choice(broken=True),
    )
    options = launch_options(services) | {"max_file_size": args.upload}
    build(services).launch(**options)
