"""`python -m qformer_viz`, and what an installed `qformer-viz` runs."""

import sys

from qformer_viz.cli import terminal
from qformer_viz.cli.backend import backend
from qformer_viz.cli.dispatch import main, stopped


def command() -> int:
    """Run the command of this process. Returns its exit code."""
    terminal.prepare()
    try:
        return main(None, backend())
    except KeyboardInterrupt:  # while the libraries were imported
        return stopped()


if __name__ == "__main__":
    sys.exit(command())
