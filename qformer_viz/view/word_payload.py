"""Everything the browser's view of an answer's words needs, in one JSON-able dictionary: whatever map is known is in
it, to be chosen from without a server. The pictures are those of the canvas's payload."""

from collections.abc import Callable, Iterable, Sequence
from string import punctuation
from typing import Any

from torch import Tensor

from qformer_viz.attribution import METHODS
from qformer_viz.errors import BadSelection, BadShape
from qformer_viz.types import VISUAL_GAIN, Attribution
from qformer_viz.view.palette import DIVERGING

# English words that name nothing in a picture: articles, pronouns, prepositions, conjunctions, auxiliaries, numbers.
FUNCTION_WORDS = frozenset((
    "a", "an", "the", "this", "that", "these", "those", "some", "any", "each", "every", "no", "not", "and",
    "or", "but", "nor", "so", "if", "then", "than", "as", "while", "because", "of", "to", "in", "on", "at",
    "by", "for", "from", "with", "without", "into", "onto", "over", "under", "above", "below", "between",
    "behind", "beside", "near", "next", "off", "out", "up", "down", "through", "across", "around", "along",
    "against", "about", "after", "before", "during", "until", "i", "you", "he", "she", "it", "we", "they", "me",
    "him", "her", "us", "them", "my", "your", "his", "its", "our", "their", "who", "whom", "whose", "which",
    "what", "where", "when", "why", "how", "there", "here", "is", "are", "was", "were", "be", "been", "being",
    "am", "do", "does", "did", "have", "has", "had", "can", "could", "will", "would", "shall", "should", "may",
    "might", "must", "very", "too", "also", "just", "only", "own", "same", "other", "one", "two", "three", "four",
    "five", "six", "seven", "eight", "nine", "ten", "many", "several", "few", "both",
))  # fmt: skip

# (method, word) -> the attribution that holds the word and its row there, or None where nothing was computed.
Known = Callable[[str, int], tuple[Attribution, int] | None]


def words_payload(first: Attribution, known: Known, methods: Iterable[str]) -> dict[str, Any]:
    """`first`: an attribution of all words, whichever method. `methods` are offered, in this order."""
    return {
        "grid": list(first.grid),
        "words": list(first.words),
        "probabilities": _rounded(first.logprobs.exp()),
        "gains": _rounded(first.image_gain),
        "visual": first.visual.tolist(),
        "first": first_word(first.words, first.image_gain),
        "colours": list(DIVERGING),
        "methods": [_method(name, known, first) for name in methods],
    }


def first_word(words: Sequence[str], image_gain: Tensor) -> int:
    """The index of the word to begin with: of those that the image brought (`VISUAL_GAIN`) and that are no function
    words, the one with the greatest visual gain; where there is none, that of all words."""
    content = [
        gain >= VISUAL_GAIN and not is_function_word(word)
        for word, gain in zip(words, image_gain, strict=True)
    ]
    return max(range(len(words)), key=lambda t: (bool(content[t]), float(image_gain[t])))


def is_function_word(word: str) -> bool:
    """Whether a word, or a piece of punctuation, names nothing that could be seen."""
    bare = word.strip(punctuation + "“”‘’…–—").casefold()
    return not bare or bare in FUNCTION_WORDS


def of_several(found: Sequence[Attribution]) -> dict[str, Any]:
    """`words_payload` of attributions of the same words, one for each method."""
    first = found[0]
    for other in found:
        if other.method not in METHODS:
            raise BadSelection(
                f"method {other.method!r}", ", ".join(METHODS), "add it to qformer_viz.METHODS"
            )
        if (other.words, other.grid, other.frames) != (first.words, first.grid, first.frames):
            raise BadShape(
                f"words {list(other.words)} on a grid of {other.grid}",
                f"{list(first.words)} on {first.grid}, as in the first attribution",
                "explain the same words of one answer by every method",
            )
    by_name = {each.method: each for each in found}
    return words_payload(first, lambda name, word: (by_name[name], word), by_name)


def _method(name: str, known: Known, first: Attribution) -> dict[str, Any]:
    """One method: lists by word, None where nothing was computed."""
    method = METHODS[name]
    rows: dict[str, list] = {"queries": [], "patches": [], "notes": [], "seconds": []}
    layer = first.layer
    for word in range(len(first.words)):
        found, row = known(name, word) or (None, 0)
        layer = found.layer if found else layer
        rows["patches"].append(found and [_rounded(frame.flatten()) for frame in found.by_frame[row]])
        rows["queries"].append(_rounded(found.queries[row]) if found and found.of_queries else None)
        rows["notes"].append(found.note if found else "")
        rows["seconds"].append(round(found.seconds, 2) if found else None)
    about = ("name", "title", "unit", "shows", "hides", "layered", "single")
    return {key: getattr(method, key) for key in about} | {"layer": layer} | rows


def _rounded(values: Any) -> list[float]:
    """Four significant digits: enough to draw, and small to send."""
    return [float(f"{v:.4g}") for v in values.tolist()]
