"""How slow this machine is, so that a limit in seconds means the same on every one."""

import functools
import subprocess
import sys
import time

IMPORTS = "import gradio, torch, transformers; from transformers import Blip2ForConditionalGeneration, Blip2Processor"
SECONDS = 7.0
"""What these imports take on a machine for which the tests' limits are meant as they are written."""


@functools.cache
def slowness() -> float:
    """The factor by which a limit is stretched here: the time of importing the libraries in a bare interpreter against
    `SECONDS`, the faster of two, at least 1."""

    def seconds() -> float:
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", IMPORTS], check=True)
        return time.monotonic() - began

    return max(1.0, min(seconds() for _ in range(2)) / SECONDS)
