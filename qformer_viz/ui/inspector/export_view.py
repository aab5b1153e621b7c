"""The Export tab. Files are made when asked for, in Gradio's cache, which is emptied by itself."""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import gradio as gr
from gradio.utils import get_upload_folder

from qformer_viz.analysis.head_ablation import ablate_heads, ablate_query_messages
from qformer_viz.atomic_files import atomic_write, cannot_write, make_folder, write_json, write_text
from qformer_viz.attribution.explanation import DEFAULT
from qformer_viz.errors import UserError
from qformer_viz.ui.app_context import AppContext
from qformer_viz.ui.components import markup, note
from qformer_viz.ui.conversation import Session
from qformer_viz.ui.explanation_cache import get_current
from qformer_viz.ui.inspector import statistics_view
from qformer_viz.ui.inspector.view import InspectorView, Parts, ViewContext
from qformer_viz.ui.stage_updates import payload
from qformer_viz.view import archive as files
from qformer_viz.view import map_images, standalone_page
from qformer_viz.view.word_payload import words_payload

# The browser fetches the file the moment it is ready: one press, one download.
DOWNLOAD = "(file) => window.qfvDownload(file)"


def about(app: AppContext, session: Session) -> dict:
    """The manifest of what is on the page."""
    question, answer = session.turns()[-1] if session.turns() else (None, None)
    return files.manifest(
        session.encoded.capture,
        app.of(session).pipe.describe(),
        image_sha256=session.encoded.sha256,
        question=question or None,
        answer=answer,
        placements=session.encoded.placements,
    )


def write_npz(app: AppContext, session: Session, folder: Path) -> Path:
    return files.save_npz(session.encoded.capture, folder / "capture.npz", about(app, session))


def write_manifest(app: AppContext, session: Session, folder: Path) -> Path:
    return write_json(folder / "manifest.json", about(app, session), indent=2)


def write_sheet(app: AppContext, session: Session, folder: Path) -> Path:
    path = folder / "contact_sheet.png"
    with atomic_write(path) as temporary:
        map_images.contact_sheet(session.capture, session.picture, placement=session.placement).save(
            temporary
        )
    return path


def write_page(app: AppContext, session: Session, folder: Path) -> Path:
    kept = get_current(session)
    words = None
    if kept is not None and kept.found:
        words = words_payload(kept.map(DEFAULT, 0), kept.known, kept.methods)
    return write_text(
        folder / "page.html", standalone_page.standalone_page(payload(app, session), words=words)
    )


def write_csv(app: AppContext, session: Session, folder: Path) -> Path:
    """One row for every layer and query, of a film for every frame as well."""
    whole, frames = session.encoded.capture, len(session.encoded.frames)
    rows = [
        [frame + 1, layer, *row]
        for frame in range(frames)
        for layer in (*map(str, whole.cross_layers), statistics_view.MEAN)
        for row in statistics_view.rows(whole.image(frame), layer)
    ]
    headers = ["frame", "layer", *statistics_view.HEADERS]
    if frames == 1:
        headers, rows = headers[1:], [row[1:] for row in rows]
    return files.save_csv(headers, rows, folder / "statistics.csv")


def write_why(app: AppContext, session: Session, folder: Path) -> Path:
    kept = get_current(session)
    if kept is None or not kept.found:
        raise UserError("No answer has been explained yet. Open the Why tab and explain the last one.")
    path = folder / "attributions.json"
    return files.save_attributions([*kept.found.values()], path, about(app, session))


def write_heads(app: AppContext, session: Session, folder: Path) -> Path:
    kept = get_current(session)
    if kept is None or not kept.context.known("heads", "talk"):
        raise UserError(
            "No heads have been tested yet. Open the Heads tab and test them for the last answer."
        )
    found = {"heads": vars(ablate_heads(kept.context)), "talk": vars(ablate_query_messages(kept.context))}
    whole = {"manifest": about(app, session), "words": list(kept.context.scorer.words), "unit": "nats"}
    whole["read"] = list(app.of(session).pipe.qformer_text_tokens(session.encoded.question))
    whole |= {name: {key: value.tolist() for key, value in each.items()} for name, each in found.items()}
    return write_json(folder / "heads.json", whole)


WRITERS: dict[str, tuple[str, str, Callable]] = {
    "page": (
        "Page (HTML)",
        "The canvas and the explained words in one file that opens without a server",
        write_page,
    ),
    "sheet": ("Contact sheet (PNG)", "All queries side by side, mean over layers and heads", write_sheet),
    "npz": ("Everything (NPZ)", "Attention maps and query states as float32 arrays", write_npz),
    "why": (
        "Explanations (JSON)",
        "Queries and patches of every word, by each method that has run",
        write_why,
    ),
    "heads": (
        "Heads (JSON)",
        "How much less likely every word becomes without each head, layer, query and piece of the text",
        write_heads,
    ),
    "manifest": ("Manifest (JSON)", "Model, precision, versions, image hash, shapes", write_manifest),
    "csv": ("Statistics (CSV)", "Entropy, patches, CLS share, centre; per layer and query", write_csv),
}


def make(app: AppContext, name: str, session: Session) -> str:
    """One file for this visitor, in a folder of Gradio's cache that nobody can guess and that is emptied."""
    if session.encoded is None:
        raise UserError(session.no_image)
    return str(WRITERS[name][2](app, session, fresh_folder()))


def fresh_folder() -> Path:
    """A folder of its own in Gradio's cache. Raises CannotWrite."""
    cache = make_folder(get_upload_folder())
    try:
        return Path(tempfile.mkdtemp(dir=cache))
    except OSError as error:
        raise cannot_write(cache, error) from error


def build(app: AppContext) -> Parts:
    """One button and one line of explanation per file; the view itself is drawn by the browser."""
    note(
        "PNG and SVG of the current view are drawn in your browser, as you see it. "
        "The files below are made on the server from the numbers, for this image."
    )
    with gr.Row(elem_classes="qfv-exports"):
        png = gr.Button("This view (PNG)", size="sm", elem_id="export-png")
        svg = gr.Button("This view (SVG)", size="sm", elem_id="export-svg")
    buttons = {}
    for name, (title, meaning, _) in WRITERS.items():
        with gr.Row(elem_classes="qfv-exports"):
            buttons[name] = gr.Button(title, size="sm", min_width=180, scale=0, elem_id=f"export-{name}")
            gr.HTML(markup("<span class='qfv-note'>{meaning}</span>", meaning=meaning))
    return {
        "png": png,
        "svg": svg,
        "buttons": buttons,
        "file": gr.File(visible="hidden", elem_id="export-file"),
    }


def wire(context: ViewContext) -> None:
    """A file is made on the server and fetched by the browser at once."""
    app, session, parts = context.app, context.session, context.parts
    quiet = {"api_visibility": "private", "concurrency_limit": 4, "concurrency_id": "export"}
    for name, button in parts["buttons"].items():
        made = button.click(
            partial(make, app, name), session, parts["file"], show_progress="minimal", **quiet
        )
        made.success(None, parts["file"], None, js=DOWNLOAD)
    for kind in ("png", "svg"):
        parts[kind].click(None, None, None, js=f"() => window.qfvSaveView('{kind}')")


VIEW = InspectorView(id="export", title="Export", order=120, build=build, wire=wire)
