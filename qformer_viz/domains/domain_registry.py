"""Every domain by its name, which is what explorer.json and `Checkpoint.world` hold."""

from qformer_viz.domains.domain import Domain
from qformer_viz.domains.emoji.emoji_domain import EmojiScenes
from qformer_viz.domains.photographs import Photographs

EMOJI_SCENES = EmojiScenes()
DOMAINS: dict[str, Domain] = {domain.name: domain for domain in (EMOJI_SCENES, Photographs())}


def find_domain(name: str) -> Domain:
    """The domain of that name; for a name that is not listed, photographs under that name."""
    return DOMAINS.get(name) or Photographs(name)
