"""The About tab: what this page shows and what it does not; and the header that names the model."""

import gradio as gr
from markupsafe import Markup

from qformer_viz.domains.photographs import PHOTO_COMMAND
from qformer_viz.ui.app_context import AppContext, ChatModel
from qformer_viz.ui.components import joined, markup
from qformer_viz.ui.event_groups import Step
from qformer_viz.ui.inspector.view import InspectorView, Parts, ViewContext


def header(chat_model: ChatModel, offers: bool = False) -> Markup:
    """Which model chats, on which device and in which precision.

    Args:
        chat_model: The model.
        offers: The page has a picker of models, so that no command is needed to change.

    Returns:
        HTML for the top of the page.
    """
    pipe = chat_model.pipe
    about = pipe.describe()
    precision = pipe.quantization or str(about.get("precision", ""))
    chips = (
        (str(about.get("title") or pipe.name), f"Knows {chat_model.domain.name}"),
        (str(about.get("device", "")), pipe.reason),
        (precision, pipe.reason),
    )
    return markup(
        "<div class='qfv-header'><h1>QFormer-Viz</h1><div class='qfv-chips'>{chips}</div>"
        "<details><summary>{summary}</summary><p>To look into a model that is not on this page, stop the program and "
        "start it with its name, for example for photographs:<code>{command}</code>A folder works as well. "
        "<code>python app.py --help</code> lists what is supported.</p></details></div>",
        chips=joined(
            markup("<span title='{tip}'>{text}</span>", tip=tip, text=text) for text, tip in chips if text
        ),
        summary="other models" if offers else "change",
        command=PHOTO_COMMAND,
    )


TEXT = """
<div class='qfv-about'>
<p><b>What is drawn.</b> BLIP-2's Q-Former turns an image into a few dozen vectors, the queries. The language model
gets these vectors and nothing else of the image. In every second layer each query attends to the image: a share for
each patch and one for the CLS token, which sum to one. The canvas shows these shares over the true patch grid. CLS is
left out of the picture, never out of the numbers: its share is always printed.</p>
<p><b>What it does not show.</b> {scope} A bright patch was attended to. Whether it mattered for a word is another
question. A query's number has no meaning of its own. Queries exchange information in the layers between, so the last
map alone does not show what a query knows.</p>
<p><b>Scale.</b> Raw shows shares as they are. Shared uses one range for all maps. Per map stretches each map to its
own range, so magnitudes can no longer be compared. The legend says which, in real numbers.</p>
<p><b>Similarity.</b> Cosine is centred by default, because a common offset makes raw cosines high even where the
queries differ. Redundancy counts pairs above your threshold. The Images tab gives the similarity that two queries
reach by chance.</p>
<p><b>Heads.</b> A head is replaced by its average over other images. A query is hidden from the other queries by giving
them its average over other images, while the language model still gets the query as it is. Losses are in nats of the
word's log-probability: one nat makes the word 2.7 times less likely. A word that the model is sure of loses little
until much is removed.</p>
<p><b>Many images.</b> Content dependence is the Kullback–Leibler divergence of a query's maps from their mean over the
set, as a share of the largest value it can have, the logarithm of the number of images. It is 0 for the same patches
every time and 100 % where no two images share a patch. Compare figures over equally many images only.</p>
<p><b>Videos.</b> Models of the InstructBLIP family see four frames of a video, each through the Q-Former alone. The
strip above the canvas chooses the frame for the canvas and the tabs. The movement of a map is half the summed
difference to the frame before. The published weights were trained on single images.</p>
<p><b>Privacy.</b> Images and conversation stay in this server's memory for this browser tab, files for
at most an hour. Nothing is sent elsewhere, nothing is kept in the browser.</p>
</div>
"""
PER_IMAGE = (
    "This model's Q-Former never sees the question: the maps belong to the image and stay as they are."
)
PER_QUESTION = "This model's Q-Former reads the question: the maps belong to image and question together."


def build(app: AppContext) -> Parts:
    """The text."""
    return {"text": gr.HTML(text(app.chat_model))}


def text(chat_model: ChatModel) -> Markup:
    """What the maps of this model show and what they do not."""
    return markup(TEXT, scope=PER_QUESTION if chat_model.reads_questions else PER_IMAGE)


def on_model(context: ViewContext) -> list[Step]:
    """The text speaks of the model that chats."""
    return [(lambda session: text(context.app.of(session)), context.session, context.parts["text"])]


VIEW = InspectorView(id="about", title="About", order=130, build=build, on_model=on_model)
