"""The Export tab. Files are made when asked for, in Gradio's cache, which is emptied by itself."""

from functools import partial

import gradio as gr

from qformer_viz.errors import UserError
from qformer_viz.ui.app_context import AppContext
from qformer_viz.ui.components import markup, note
from qformer_viz.ui.conversation import Session
from qformer_viz.ui.export import all_exports, fresh_folder
from qformer_viz.ui.inspector.view import InspectorView, Parts, ViewContext

# The browser fetches the file the moment it is ready: one press, one download.
DOWNLOAD = "(file) => window.qfvDownload(file)"


def make(app: AppContext, name: str, session: Session) -> str:
    """One file for this visitor, in a folder of Gradio's cache that nobody can guess and that is emptied."""
    if session.encoded is None:
        raise UserError(session.no_image)
    return str(all_exports()[name].write(app, session, fresh_folder()))


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
    for name, export in all_exports().items():
        with gr.Row(elem_classes="qfv-exports"):
            buttons[name] = gr.Button(
                export.title, size="sm", min_width=180, scale=0, elem_id=f"export-{name}"
            )
            gr.HTML(markup("<span class='qfv-note'>{meaning}</span>", meaning=export.help))
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
