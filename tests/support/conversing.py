"""A visitor's steps through a conversation, without a page."""

from PIL import Image

from qformer_viz.types import Decoding
from qformer_viz.ui import conversation as talk

CELLS = r"<tr><td>(.*?)</td><td>.*?</td><td>.*?</td><td>(.*?)</td>"
"""What a row of the What if tab's table begins and ends with."""


def looked(services, session, tmp_path, colour="red"):
    path = tmp_path / f"{colour}.png"
    Image.new("RGB", (40, 30), colour).save(path)
    return talk.look(services, session, str(path), str(path))


def say(services, session, decoding=None):
    steps = list(talk.answer(services, session, decoding or Decoding()))
    return steps[-1] if steps else session


def ask(services, session, question, decoding=None):
    return say(services, talk.pose(session, question, services.limits), decoding)


def still(*_, **__):
    """A progress bar that nobody looks at."""


def pictures(folder, *colours):
    """Files in the upload folder."""
    paths = []
    for colour in colours:
        paths.append(str(folder / f"{colour}.png"))
        Image.new("RGB", (60, 40), colour).save(paths[-1])
    return paths
