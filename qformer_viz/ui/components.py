"""Gradio components with what the stock ones lack: an image upload that hands on the untouched file, a
canvas that is fed once per image, and HTML that is only ever made from escaped text."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr
from gradio.components.plot import PlotData
from gradio.data_classes import ImageData
from gradio.utils import get_upload_folder
from markupsafe import Markup

from qformer_viz.errors import UserError
from qformer_viz.view.standalone_page import (
    stage_script,
    stage_style,
    word_evidence_script,
    word_evidence_style,
)

STATIC = Path(__file__).parent / "static"
FIGURE = {"doubleClick": False, "doubleClickDelay": 0, "displayModeBar": False}


class UploadedImage(gr.Image):
    """Yields the path of the uploaded file, or a `data:` URL, and decodes nothing.

    gr.Image would decode by itself (squeezing 16-bit images, dropping alpha) and would open any path of the
    server that a client names. Here a path outside the upload folder is refused.
    """

    def preprocess(self, payload: ImageData | None) -> str | None:
        if payload is None:
            return None
        if payload.url and payload.url.startswith("data:"):
            return payload.url
        return str(uploaded(payload.path))

    def get_block_name(self) -> str:
        return "image"


class Figure(gr.Plot):
    """A plotly figure that hears every click: two quick ones on different cells are no double click. Its own tools are
    off; `static/app.js` adds the buttons that save it."""

    def postprocess(self, value: object) -> PlotData | None:
        found = super().postprocess(value)
        if found is None:
            return None
        drawn = {**json.loads(found.plot), "config": FIGURE}
        return PlotData(type=found.type, plot=json.dumps(drawn))

    def get_block_name(self) -> str:
        return "plot"


def uploaded(path: str | None) -> Path:
    folder = Path(get_upload_folder()).resolve()
    resolved = Path(path or "").resolve()
    if not path or not resolved.is_relative_to(folder) or not resolved.is_file():
        raise UserError(
            "This image was not uploaded to this server, so it is not read. Upload the file "
            "(in the Python client: handle_file(path)) or send it as a data: URL."
        )
    return resolved


def stage(**options) -> gr.HTML:
    """The stage. Its value is the payload as JSON text; the browser does every redraw."""
    return gr.HTML(
        value="",
        html_template=markup(
            "<div class='qfv-host'>{welcome}</div>", welcome=Markup(_static("welcome.html"))
        ),
        js_on_load=(STATIC / "mount.stage.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        elem_id="canvas",
        **options,
    )


def live_view(name: str, elem_id: str) -> gr.HTML:
    """A tab's view, `QFormerViz[name](host, value)`; its value is JSON text, "" for none. Drawn in the browser."""
    return gr.HTML(
        value="",
        html_template=markup("<div class='qfv-host' data-view='{name}'></div>", name=name),
        js_on_load=(STATIC / "mount.view.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        elem_id=elem_id,
    )


def compare_row(name: str, choices: Sequence[str], width: int) -> tuple[gr.Dropdown, gr.Button]:
    """What to compare with, chosen from a list, and the button that loads it and compares."""
    with gr.Row(elem_classes="qfv-controls"):
        other = gr.Dropdown(
            list(choices),
            value=next(iter(choices), None),
            label="Compare with",
            elem_id=f"{name}-other",
            min_width=width,
            scale=0,
        )
        run = gr.Button(
            "Load and compare", variant="primary", size="md", elem_id=f"{name}-run", min_width=170, scale=0
        )
    return other, run


def picture_row(name: str, verb: str, most: int) -> dict[str, gr.Button]:
    """Buttons that run on sample images, take one's own, and end the work: run, files, stop."""
    known, own = f"{verb} on sample images", f"Upload 2 to {most} images"
    look = {"size": "md", "scale": 0}
    with gr.Row(elem_classes="qfv-controls"):
        run = gr.Button(known, variant="primary", elem_id=f"{name}-run", min_width=9 * len(known), **look)
        files = gr.UploadButton(
            own,
            file_count="multiple",
            file_types=["image"],
            elem_id=f"{name}-files",
            min_width=9 * len(own),
            **look,
        )
        stop = gr.Button("Stop", elem_id=f"{name}-stop", min_width=80, **look)
    return {"run": run, "files": files, "stop": stop}


def word_row(name: str, verb: str) -> dict[str, Any]:
    """What explains the last answer, the word that is shown, and what ends the work: run, word, stop."""
    look = {"size": "md", "scale": 0}
    with gr.Row(elem_classes="qfv-controls"):
        run = gr.Button(verb, variant="primary", elem_id=f"{name}-run", min_width=180, **look)
        word = gr.Dropdown([], label="Word", elem_id=f"{name}-word", min_width=140, scale=0)
        stop = gr.Button("Stop", elem_id=f"{name}-stop", min_width=80, **look)
    return {"run": run, "word": word, "stop": stop}


def plot_and_facts(name: str, label: str) -> tuple[Figure, gr.HTML]:
    """A plot beside the list of what it says; the plot shows once there is one."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=300):
            plot = Figure(show_label=False, label=label, elem_id=f"{name}-plot", visible=False)
        with gr.Column(scale=2, min_width=260):
            message = gr.HTML(elem_id=f"{name}-told", apply_default_css=False)
    return plot, message


def markup(template: str, **values: object) -> Markup:
    """HTML from a template of the source code. Every value is escaped, but for what is HTML already.

    Args:
        template: HTML with names in braces, never an f-string.
        values: What the names stand for. A `Markup` goes in as it is, anything else as text.

    Returns:
        The HTML.

    >>> markup("<b>{word}</b> {share:.0%}", word="a < b", share=0.5)
    Markup('<b>a &lt; b</b> 50%')
    """
    return Markup(template).format(**values)


def joined(pieces: Iterable[str]) -> Markup:
    """Pieces of HTML as one; plain text among them is escaped."""
    return Markup("").join(pieces)


def note(text: str) -> gr.HTML:
    """A paragraph that explains a view."""
    return gr.HTML(markup("<p class='qfv-note'>{text}</p>", text=text), apply_default_css=False)


def facts(rows: Iterable[tuple[str, str, str]], warning: str = "", lead: str = "") -> Markup:
    """A list of (name, value, what it means) as HTML, with an optional warning or leading sentence above."""
    item = "<div><dt>{name}</dt><dd>{value}</dd><dd class='qfv-meaning'>{meaning}</dd></div>"
    return markup(
        "{warning}{lead}<dl class='qfv-facts'>{items}</dl>",
        warning=alert(warning) if warning else "",
        lead=markup("<p role='status'><b>{lead}</b></p>", lead=lead) if lead else "",
        items=joined(markup(item, name=name, value=value, meaning=meaning) for name, value, meaning in rows),
    )


def alert(message: str) -> Markup:
    """What went wrong and how to mend it, as HTML."""
    return markup("<p class='qfv-alert' role='status'>{message}</p>", message=message)


def side_by_side(lead: str, sides: Iterable[tuple[str, str, str]]) -> Markup:
    """Two answers as HTML: the name, the picture as HTML or "", and the text of each."""
    item = "<div><dt>{name}</dt>{picture}<dd>{text}</dd></div>"
    return markup(
        "<p role='status'>{lead}</p><dl class='qfv-facts qfv-sides'>{items}</dl>",
        lead=lead,
        items=joined(markup(item, name=name, picture=picture, text=text) for name, picture, text in sides),
    )


def table(headers: Iterable[str], rows: Iterable[Iterable[object]], caption: str = "") -> Markup:
    """A table as HTML; a caption makes it one of answers."""
    return markup(
        "<table class='{style}'>{caption}<thead><tr>{headers}</tr></thead><tbody>{rows}</tbody></table>",
        style="qfv-table qfv-answers" if caption else "qfv-table",
        caption=markup("<caption>{caption}</caption>", caption=caption) if caption else "",
        headers=joined(markup("<th scope='col'>{header}</th>", header=header) for header in headers),
        rows=joined(
            markup("<tr>{cells}</tr>", cells=joined(markup("<td>{cell}</td>", cell=cell) for cell in row))
            for row in rows
        ),
    )


def head() -> Markup:
    """Style sheets and scripts for the page's head, inline: nothing is fetched from elsewhere."""
    names = ("image_sets.js", "map_comparison.js", "patch_brush.js", "connection.js", "app.js")
    styles = (stage_style(), word_evidence_style(), _static("app.css"))
    scripts = (stage_script(), word_evidence_script(), *map(_static, names))
    return markup(
        '<link rel="icon" type="image/svg+xml" href="data:image/svg+xml,{icon}">{styles}{scripts}',
        icon=quote(_static("icon.svg")),
        styles=joined(markup("<style>{text}</style>", text=Markup(text)) for text in styles),
        scripts=joined(markup("<script>{text}</script>", text=Markup(text)) for text in scripts),
    )


def _static(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")
