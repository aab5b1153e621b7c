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
from qformer_viz.ui.event_groups import LIGHT, at_once
from qformer_viz.ui.inspector import (
    about_view,
    export_view,
    head_ablation_view,
    image_sets_view,
    match_view,
    precision_view,
    query_sets_view,
    questions_view,
    similarity_view,
    statistics_view,
    two_models_view,
    what_if_view,
    word_evidence_view,
)
from qformer_viz.ui.request_guard import RequestGuard, rules_for
from qformer_viz.ui.session_store import VisitorBlocks
from qformer_viz.ui.upload_folder import Cap

STATIC = Path(__file__).parent / "static"


def build(services: AppContext) -> gr.Blocks:
    """The Blocks for these services. Launch it with `launch_options(services)`."""
    limits = services.limits
    page = VisitorBlocks(
        title="QFormer-Viz",
        analytics_enabled=False,
        delete_cache=(600, limits.cache_seconds),
        fill_width=True,
    )
    page.user_errors, page.most_bytes = services.user_errors, limits.session_bytes
    with page:
        session = gr.State(Session(), time_to_live=limits.cache_seconds)
        with gr.Row(elem_id="top", equal_height=True):
            header = gr.HTML(
                about_view.header(services.chat_model, offers=len(services.models) > 1),
                elem_id="header",
                apply_default_css=False,
            )
            choice = model_picker.picker(services)
            if get_space():
                gr.DuplicateButton("Duplicate", size="sm", elem_id="duplicate")
        with gr.Row(elem_id="columns", equal_height=False):
            with gr.Column(scale=4, min_width=300, elem_id="left"):
                with gr.Column(elem_id="picture"):
                    parts = chat.picture(services)
                with gr.Column(elem_id="talk"):
                    parts |= chat.talk(services)
            with gr.Column(scale=9, min_width=320, elem_id="right"):
                view = stage()
                with gr.Tabs(elem_id="tabs"):
                    with gr.Tab("Why", id="why"):
                        reasons = word_evidence_view.tab()
                    with gr.Tab("What if", id="whatif"):
                        changes = what_if_view.tab(services)
                    with gr.Tab("Queries", id="together"):
                        weights = query_sets_view.tab()
                    with gr.Tab("Heads", id="heads"):
                        inside = head_ablation_view.tab(services)
                    with gr.Tab("Similarity", id="similarity"):
                        alike = similarity_view.tab(services)
                    with gr.Tab("Statistics", id="statistics"):
                        numbers = statistics_view.tab(services)
                    with gr.Tab("Images", id="across"):
                        many = image_sets_view.tab(services)
                    if services.compares_questions:
                        with gr.Tab("Questions", id="questions"):
                            pair = questions_view.tab()
                    if choice is not None:
                        with gr.Tab("Models", id="versus"):
                            two = two_models_view.tab(services)
                    if services.matcher is not None:
                        with gr.Tab("Match", id="match"):
                            fits = match_view.tab(services)
                    if services.precisions:
                        with gr.Tab("Precision", id="precision"):
                            copies = precision_view.tab(services)
                    with gr.Tab("Export", id="export"):
                        files = export_view.tab()
                    with gr.Tab("About", id="about"):
                        said = about_view.tab(services)
        # What a new picture, and what every answer, brings: the canvas first, then all else in few events.
        fed = (partial(stage_updates.as_text, services), session, view)
        attended, unheard = head_ablation_view.wire(services, session, inside)
        tabs = at_once(
            [*similarity_view.wire(session, alike), *statistics_view.wire(session, numbers), attended]
        )
        pictured, undone = what_if_view.wire(services, session, changes)
        explained = word_evidence_view.wire(services, session, reasons)
        stale = [undone, query_sets_view.wire(services, session, weights), unheard]
        if services.precisions:
            stale.append(precision_view.wire(services, session, copies))
        if choice is not None:
            stale.append(two_models_view.wire(services, session, two))
        unmatched = match_view.wire(services, session, fits, view) if services.matcher is not None else []
        asked = []
        after = (partial(stage_updates.answered, services), session, view)
        looked, answered, switched = [fed, tabs, explained], [after, explained], []
        if services.compares_questions:
            # InstructBLIP's maps follow the question, so there every answer brings new ones.
            answered = [after, questions_view.only_if_read(services, *tabs), explained]
            after_look, asked = questions_view.wire(services, session, pair)
            unmatched = [*unmatched, *after_look]
        looked.append(at_once([pictured, *stale, *unmatched]))
        answered.append(at_once([*stale, *asked]))
        if choice is not None:
            controls = [*alike["controls"], numbers["layer"], *inside["controls"], two["other"]]
            switched = [
                model_picker.wire(
                    services, session, choice, [parts["log"], header, said, *controls], chat.halt
                )
            ]
        unseen = image_sets_view.wire(services, session, many)
        for event in switched:
            event.success(*unseen, **LIGHT)
        chat.wire(services, session, parts, choice, looked, answered, switched)
        page.load(lambda session: session.opened.set(), session, None, **LIGHT)
        frame_choice.wire(session, view, tabs)
        export_view.wire(services, session, files)
        api_endpoints.endpoints(services)
    page.queue(max_size=limits.queue, api_open=False, default_concurrency_limit=4)
    return page


def launch_options(
    services: AppContext, host: str = "127.0.0.1", share: bool = False, names: Sequence[str] = ()
) -> dict[str, Any]:
    """What belongs to `launch()`: looks, privacy, limits, and what requests must be on such a host; `names`: those of a
    proxy before it."""
    rules = rules_for(host, os.environ, share, names)
    return {
        "server_name": f"[{host}]" if ":" in host else host,
        "app_kwargs": {
            "middleware": [Middleware(RequestGuard, rules=rules, written=Cap(services.limits.disk))]
        },
        "theme": theme(),
        "head": head(),
        "share": share,
        "show_error": False,
        "enable_monitoring": False,
        "run_history": False,
        "footer_links": ["api", "settings"],
        "max_file_size": services.limits.upload,
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
