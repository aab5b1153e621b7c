"""The page: header, picture and conversation on the left, canvas and tabs on the right."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_space
from starlette.middleware import Middleware

from qformer_viz.ui import api_endpoints, chat, frame_choice, model_picker, stage_updates
from qformer_viz.ui.app_context import AppContext
from qformer_viz.ui.components import head, stage
from qformer_viz.ui.conversation import Session
from qformer_viz.ui.event_groups import LIGHT, Step, at_once
from qformer_viz.ui.inspector import about_view, inspector_views
from qformer_viz.ui.inspector.view import InspectorView, ViewContext
from qformer_viz.ui.request_guard import RequestGuard, rules_for
from qformer_viz.ui.session_store import VisitorBlocks
from qformer_viz.ui.upload_folder import Cap

STATIC = Path(__file__).parent / "static"


def build(app: AppContext) -> gr.Blocks:
    """The page of a server.

    Args:
        app: The models, the limits and the helpers of this server.

    Returns:
        The Blocks. Launch them with `launch_options(app)`.
    """
    limits = app.limits
    page = VisitorBlocks(
        title="QFormer-Viz",
        analytics_enabled=False,
        delete_cache=(600, limits.cache_seconds),
        fill_width=True,
    )
    page.user_errors, page.most_bytes = app.user_errors, limits.session_bytes
    with page:
        session = gr.State(Session(), time_to_live=limits.cache_seconds)
        with gr.Row(elem_id="top", equal_height=True):
            header = gr.HTML(
                about_view.header(app.chat_model, offers=len(app.models) > 1),
                elem_id="header",
                apply_default_css=False,
            )
            choice = model_picker.picker(app)
            if get_space():
                gr.DuplicateButton("Duplicate", size="sm", elem_id="duplicate")
        with gr.Row(elem_id="columns", equal_height=False):
            with gr.Column(scale=4, min_width=300, elem_id="left"):
                with gr.Column(elem_id="picture"):
                    parts = chat.picture(app)
                with gr.Column(elem_id="talk"):
                    parts |= chat.talk(app)
            with gr.Column(scale=9, min_width=320, elem_id="right"):
                canvas = stage()
                with gr.Tabs(elem_id="tabs"):
                    views = [
                        (view, _tab(view, app, session, canvas))
                        for view in inspector_views()
                        if view.available(app)
                    ]
        for view, context in views:
            view.wire(context)
        maps = at_once(_steps(views, "on_maps"))
        after_look = [(partial(stage_updates.as_text, app), session, canvas), maps]
        after_answer: list[Step] = [(partial(stage_updates.answered, app), session, canvas)]
        if app.compares_questions:
            after_answer.append(stage_updates.if_question_is_read(app, session, maps))
        after_look += _events(views, "on_image")
        after_answer += _events(views, "on_answer")
        switched = []
        if choice is not None:
            renewal = at_once(_steps(views, "on_model"))
            shown = [parts["log"], header]
            switched = [model_picker.wire(app, session, choice, shown, renewal, chat.halt)]
        chat.wire(app, session, parts, choice, after_look, after_answer, switched)
        page.load(lambda session: session.opened.set(), session, None, **LIGHT)
        frame_choice.wire(session, canvas, maps)
        api_endpoints.endpoints(app)
    page.queue(max_size=limits.queue, api_open=False, default_concurrency_limit=4)
    return page


Views = Sequence[tuple[InspectorView, ViewContext]]


def _tab(view: InspectorView, app: AppContext, session: gr.State, canvas: gr.HTML) -> ViewContext:
    with gr.Tab(view.title, id=view.id):
        return ViewContext(app, session, canvas, view.build(app))


def _steps(views: Views, moment: str) -> list[Step]:
    """The steps of all views at one moment: `on_image`, `on_maps`, `on_answer` or `on_model`."""
    return [step for view, context in views for step in getattr(view, moment)(context)]


def _events(views: Views, moment: str) -> list[Step]:
    """Those steps in few events: every slow view has its own, all others share the last."""
    slow = [each for each in views if each[0].slow]
    quick = [each for each in views if not each[0].slow]
    return [*_steps(slow, moment), at_once(_steps(quick, moment))]


def launch_options(
    app: AppContext, host: str = "127.0.0.1", share: bool = False, names: Sequence[str] = ()
) -> dict[str, Any]:
    """What belongs to `launch()`: looks, privacy, limits, and what requests must be on such a host; `names`: those of a
    proxy before it."""
    rules = rules_for(host, os.environ, share, names)
    return {
        "server_name": f"[{host}]" if ":" in host else host,
        "app_kwargs": {"middleware": [Middleware(RequestGuard, rules=rules, written=Cap(app.limits.disk))]},
        "theme": theme(),
        "head": head(),
        "share": share,
        "show_error": False,
        "enable_monitoring": False,
        "run_history": False,
        "footer_links": ["api", "settings"],
        "max_file_size": app.limits.upload,
        "ssr_mode": False,
        "pwa": False,
    }


def theme() -> gr.themes.Base:
    """System fonts only, so that nothing is fetched; quiet surfaces, one accent. Base's quiet text and primary button
    have less contrast than the 4.5 to 1 that WCAG asks for: they are a step darker here."""
    sans = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
    mono = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")
    return gr.themes.Base(
        primary_hue="indigo",
        neutral_hue="slate",
        font=sans,
        font_mono=mono,
        radius_size="md",
        spacing_size="sm",
        text_size="sm",
    ).set(
        color_accent="*primary_600",
        body_text_color_subdued="*neutral_600",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_border_color="*primary_600",
    )
