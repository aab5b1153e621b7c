"""BLIP-2 retrieval checkpoints: a Q-Former that reads a text and judges whether it fits the image. They do not chat."""

from qformer_viz.runtime.families.family import Family

FAMILY = Family("retrieval", chats=False)
