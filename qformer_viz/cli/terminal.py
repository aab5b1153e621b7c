"""Text for a terminal of any code page: what the page lacks is written with letters of ASCII that look like it."""

import codecs
import sys
import unicodedata

_LOOKS = {
    **dict.fromkeys("“”„«»", '"'),
    **dict.fromkeys("‘’‚", "'"),
    **dict.fromkeys("–—−‑", "-"),
    **{
        "…": "...",
        "×": "x",
        "·": "*",
        "→": "->",
        "←": "<-",
        "≤": "<=",
        "≥": ">=",
        "✓": "ok",
        "✗": "no",
        "ß": "ss",
    },
}


def prepare() -> None:
    """Let standard output and error write any text. A stream that is none, or of another make, stays as it is."""
    codecs.register_error("look-alike", _look_alike)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="look-alike")


def whole_unicode() -> bool:
    """Whether standard output takes every letter."""
    return codecs.lookup(getattr(sys.stdout, "encoding", None) or "ascii").name.startswith("utf")


def _look_alike(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_plain, error.object[error.start : error.end])), error.end


def _plain(letter: str) -> str:
    """The letter in ASCII: é is e, and what looks like nothing there is a question mark."""
    bare = unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode()
    return _LOOKS.get(letter) or bare or "?"
