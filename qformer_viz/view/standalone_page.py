"""One self-contained HTML page that shows the stage without a server, a network or this package.

It also holds the list of the stage's script files, for everything that embeds the stage.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path

STATIC = Path(__file__).resolve().parents[1] / "ui" / "static"
# In the order in which they must run; joined, they define window.QFormerViz.
STATIC_SCRIPTS: tuple[str, ...] = (
    "stage.maps.js",
    "stage.paint.js",
    "stage.parts.js",
    "stage.video.js",
    "stage.layout.js",
    "stage.link.js",
    "stage.panels.js",
    "stage.files.js",
    "stage.js",
)

_STYLE = """
:root { color-scheme: light dark; }
body { margin: 0 auto; padding: 20px 24px 40px; max-width: 1480px; background: light-dark(#fff, #171b20);
  color: light-dark(#1b2026, #e6e9ed);
  font: 14px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
header { display: flex; flex-wrap: wrap; align-items: baseline; gap: 2px 14px; margin-bottom: 14px; }
header > * { min-width: 0; overflow-wrap: anywhere; }
h1 { font-size: 17px; font-weight: 600; margin: 0; }
h2 { font-size: 14px; font-weight: 600; margin: 0 0 8px; }
header p, dt, figcaption { color: light-dark(#5b6570, #9aa4b0); margin: 0; }
#qfv-why { margin-top: 24px; padding-top: 20px; border-top: 1px solid light-dark(#dde1e6, #343b44); }
.below { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr));
  gap: 24px 40px;
  margin-top: 24px; padding-top: 20px; border-top: 1px solid light-dark(#dde1e6, #343b44); }
.below > * { min-width: 0; }
ol { list-style: none; margin: 0; padding: 0; }
li { margin-bottom: 10px; overflow-wrap: anywhere; white-space: pre-wrap; }
li b { display: block; font-weight: 600; }
dl { display: grid; grid-template-columns: fit-content(45%) minmax(0, 1fr); gap: 2px 14px; margin: 0; }
dt, dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
figure { margin: 0; } figure img { max-width: 100%; height: auto; }
@media (max-width: 600px) { body { padding: 14px; } }
"""


@cache
def stage_script() -> str:
    """The stage as one script that defines `window.QFormerViz`."""
    return "\n".join((STATIC / name).read_text("utf-8") for name in STATIC_SCRIPTS)


@cache
def stage_style() -> str:
    """The stage's style sheet."""
    return (STATIC / "stage.css").read_text("utf-8")


@cache
def word_evidence_script() -> str:
    """The script of the view of an answer's words. It must follow `stage_script`."""
    return (STATIC / "word_evidence.js").read_text("utf-8")


@cache
def word_evidence_style() -> str:
    """The style sheet of the views below the stage. It must follow `stage_style`."""
    return (STATIC / "word_evidence.css").read_text("utf-8")


def standalone_page(
    payload: Mapping,
    *,
    words: Mapping | None = None,
    title: str = "QFormer-Viz",
    figures: Sequence[tuple[str, str]] = (),
) -> str:
    """The page for a payload of `canvas_payload`.

    words: what `view.words.words_payload` made of an explained answer, shown right below the canvas.
    Shown below the canvas: `meta` of the payload, that is caption, conversation, notes and facts.
    figures: (caption, image as `data:` URL), placed last.
    The page may load nothing: its content security policy allows only its own script and style, by hash.
    """
    meta = payload.get("meta", {})
    style = stage_style() + word_evidence_style() + _STYLE
    script = stage_script() + word_evidence_script() + (STATIC / "mount.page.js").read_text("utf-8")
    why = (
        '<section id="qfv-why"><h2>Which queries and patches each word came from</h2></section>'
        if words
        else ""
    )
    data = {**payload, "words": words} if words else payload
    policy = (
        f"default-src 'none'; img-src data: blob:; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    model = " · ".join(escape(str(meta[key])) for key in ("model", "precision") if meta.get(key))
    below = "\n".join(filter(None, (_conversation(meta), _facts(meta), _notes(meta), _figures(figures))))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{escape(title)}</title>
<style>{style}</style>
</head>
<body>
<header><h1>{escape(title)}</h1><p>{model}</p></header>
<main>
<div id="qfv"></div>
<noscript>This page draws attention maps with JavaScript, which is switched off here.</noscript>
{why}
<div class="below">
{below}
</div>
</main>
<script type="application/json" id="qfv-data">{_embedded(data)}</script>
<script>{script}</script>
</body>
</html>
"""


def _embedded(data: Mapping) -> str:
    """JSON that cannot end its script element, open a comment, or break a line in JavaScript."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _section(heading: str, body: str) -> str:
    return f"<section><h2>{heading}</h2>{body}</section>" if body else ""


def _conversation(meta: Mapping) -> str:
    turns = [("Caption", meta["caption"])] if meta.get("caption") else []
    turns += list(meta.get("conversation", ()))
    items = "".join(f"<li><b>{escape(str(q) or 'Caption')}</b>{escape(str(a))}</li>" for q, a in turns)
    return _section("What the model said", items and f"<ol>{items}</ol>")


def _facts(meta: Mapping) -> str:
    rows = "".join(
        f"<dt>{escape(str(k))}</dt><dd>{escape(str(v))}</dd>" for k, v in meta.get("facts", {}).items()
    )
    return _section("How it was made", rows and f"<dl>{rows}</dl>")


def _notes(meta: Mapping) -> str:
    items = "".join(f"<li>{escape(str(note))}</li>" for note in meta.get("notes", ()))
    return _section("Notes", items and f"<ol>{items}</ol>")


def _figures(figures: Sequence[tuple[str, str]]) -> str:
    for _, source in figures:
        if not source.startswith("data:image/"):
            raise ValueError(
                f"Found a figure at {source[:40]!r}; expected a data:image/ URL. Fix: embed the picture."
            )
    return "".join(
        f'<figure><img src="{escape(source)}" alt="{escape(text)}">'
        f"<figcaption>{escape(text)}</figcaption></figure>"
        for text, source in figures
    )
