"""The command line over a fake pipeline."""

from qformer_viz.cli import dispatch as cli
from qformer_viz.cli.command import Backend
from qformer_viz.errors import CheckpointError, UserError
from qformer_viz.media.image_decoder import decode
from tests.support.fakes_ui import FakeError, FakePipeline


def run(*argv, family="blip2"):
    """(exit code, what the loader was asked for)."""
    asked = {}

    def load(name, **options):
        asked.update(options, name=name)
        if name == "unlisted":
            raise CheckpointError("'unlisted' is not listed. Choose one of: blip2-emoji.")
        print("the loader talks")
        return FakePipeline(family=family)

    return cli.main(argv, Backend(load, decode, (UserError, FakeError))), asked
