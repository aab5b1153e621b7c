"""The Images tab: every query over a set of images, to see which depend on the content and which on the place."""

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import gradio as gr

from qformer_viz.analysis.image_sets import ImageSetStatistics, image_set_statistics
from qformer_viz.attribution.explanation import captured
from qformer_viz.errors import UserError
from qformer_viz.media.image_decoder import Decoded
from qformer_viz.runtime.map_placement import of
from qformer_viz.types import EncodedImage, ImageSource
from qformer_viz.ui.app_context import AppContext, ChatModel
from qformer_viz.ui.components import alert, facts, live_view, note, picture_row, plot_and_facts, uploaded
from qformer_viz.ui.conversation import Session
from qformer_viz.ui.event_groups import LONG, Step, stop_button
from qformer_viz.ui.explanation_cache import progress_callback
from qformer_viz.ui.inspector.view import InspectorView, Parts, ViewContext
from qformer_viz.ui.stage_updates import as_json
from qformer_viz.view.palette import STOPS
from qformer_viz.view.stage_payload import embed, pack

SIDE = 256
"""Pixels of the longer side of a picture in the overview."""


def build(app: AppContext) -> Parts:
    """Two ways to a set of images, a heat map beside the figures, and the pictures."""
    note(
        "One image does not show whether a query attends to a thing or to a place. Here is the query of the canvas on "
        "a whole set of images, and how much each query's map changes from image to image. That a map depends on the "
        "content does not show that the model uses it."
    )
    chosen = picture_row("across", "Run", app.limits.images)
    plot, message = plot_and_facts("across", "Content dependence of queries")
    view = live_view("imageSets", "across-view")
    return {**chosen, "message": message, "view": view, "plot": plot}


def looked(
    app: AppContext, session: Session, files: Sequence[str] | None, progress: gr.Progress
) -> tuple[str, str, Any]:
    """(figures as HTML, view as JSON, plot) over the chosen images; an error becomes a message."""
    from qformer_viz.view.figures.query_measures import measure_figure

    try:
        chat_model = app.of(session)
        on_progress = progress_callback(session, progress, "Encoding images", outdates=False)
        seen = encoded(app, session, chat_model, files, on_progress)
        found = image_set_statistics([captured(each) for each in seen])
    except app.user_errors as error:
        return alert(str(error)), "", gr.update(visible=False)
    names = [row if row == "mean" else f"layer {row}" for row in found.rows]
    plot = measure_figure(found.content_dependence, names, "content-dependent", "0 to 1")
    warning = (
        "Signs of collapse: " + "; ".join(found.collapse.reasons) + "." if found.collapse.warning else ""
    )
    title = chat_model.pipe.describe()["title"]
    return (
        facts(figures(found), warning, f"{title} over {found.images} images:"),
        as_json(sample_images(seen, found)),
        gr.update(value=plot, visible=True),
    )


def encoded(
    app: AppContext,
    session: Session,
    chat_model: ChatModel,
    files: Sequence[str] | None,
    on_progress: Callable[[int, int], None],
) -> list[EncodedImage]:
    """Every image as a model sees it, with the last question where it reads one, of films the first frame; without
    files, sample images of the domain of the model that chats. UserError says what to do instead."""
    most = app.limits.images
    if files and not 2 <= len(files) <= most:
        raise UserError(f"{len(files)} images were chosen. Choose 2 to {most}.")
    samples = [] if files else [*islice(app.of(session).domain.sample_images(), most)]
    question = session.last_question() if chat_model.reads_questions else None
    pictures: Iterable[ImageSource] = (read(app, file) for file in files) if files else samples
    seen = []
    for each in chat_model.pipe.encode_each(pictures, question or None):
        seen.append(each)
        on_progress(len(seen), len(files or samples))
    return seen


def read(app: AppContext, path: str) -> Decoded:
    """An uploaded file's picture; trouble names the file."""
    try:
        return app.decode(str(uploaded(path))).still()
    except app.user_errors as error:
        raise UserError(f"{Path(path).name}: {error}") from error


def sample_images(seen: Sequence[Any], found: ImageSetStatistics) -> dict[str, Any]:
    """What the view draws: pictures with their maps, averaged over heads, and how far each query follows them."""
    first = captured(seen[0])
    images = []
    for each in seen:
        cross = captured(each).cross_attention[:, 0].mean(1, keepdim=True).numpy()
        small = each.image.copy()
        small.thumbnail((SIDE, SIDE))
        shape = [*cross.shape[:3], cross.shape[3] - 1]
        about = {"shape": shape, "grid": list(first.grid), "cross_layers": list(first.cross_layers)}
        images.append(about | pack(cross) | {"image": embed(small, of(each))})
    dependence = [[round(value, 3) for value in row] for row in found.content_dependence.tolist()]
    return {"images": images, "content_dependence": dependence, "colours": list(STOPS["viridis"])}


def figures(found: ImageSetStatistics) -> list[tuple[str, str, str]]:
    """The rows of facts over the whole set."""
    last = found.content_dependence[-1]
    most, least = int(last.argmax()), int(last.argmin())
    kept = found.collapse.between_image_share
    return [
        (
            "Content-dependent",
            f"{last.mean():.0%}",
            "mean over queries, layers averaged (0 = always the same place, 100 % = no two images share a patch)",
        ),
        (
            "Most and least",
            f"{most:02d} · {least:02d}",
            f"queries, at {last[most]:.0%} and {last[least]:.0%}",
        ),
        (
            "Variance between images",
            f"{kept:.0%}",
            "of the variance of the last states; the rest is between queries, whatever the image",
        ),
        (
            "Similar by chance",
            f"{found.reference:.2f}",
            "99 % of pairs of queries of different images are less similar "
            "(centred cosine of the last states): a threshold for redundancy in the Similarity tab",
        ),
        ("Effective rank", f"{found.collapse.effective_rank:.1f}", "of the last states, mean over images"),
    ]


def forget() -> tuple[str, str, Any]:
    """Another model: what the last one saw is of no more use."""
    return "", "", gr.update(visible=False)


def wire(context: ViewContext) -> None:
    """Connect both ways to a set of images."""
    app, session, parts = context.app, context.session, context.parts

    # Closures, because Gradio reads no type hints off a partial.
    def look(session: Session, progress=gr.Progress()):  # noqa: B008
        return looked(app, session, None, progress)

    def look_at(session: Session, files: list[str], progress=gr.Progress()):  # noqa: B008
        return looked(app, session, files, progress)

    shown = _results(parts)
    options = {"show_progress_on": parts["view"], **LONG}
    parts["run"].click(look, session, shown, **options)
    parts["files"].upload(look_at, [session, parts["files"]], shown, **options)
    stop_button(parts["stop"], session)


def _results(parts: Parts) -> list[gr.Component]:
    return [parts["message"], parts["view"], parts["plot"]]


def on_model(context: ViewContext) -> list[Step]:
    """Remove what another model did."""
    return [(lambda session: forget(), context.session, _results(context.parts))]


VIEW = InspectorView(id="across", title="Images", order=70, build=build, wire=wire, on_model=on_model)
