"""Named endpoints for the Gradio client: caption, ask, attention, explain. Each call stands alone; nothing is kept."""

from collections.abc import Callable
from typing import Any

import gradio as gr

from qformer_viz.attribution.explanation import DEFAULT, attribute, prepare
from qformer_viz.errors import UserError
from qformer_viz.ui.app_context import AppContext
from qformer_viz.ui.components import UploadedImage
from qformer_viz.ui.conversation import Session, never_read
from qformer_viz.ui.export import about, fresh_folder
from qformer_viz.view import archive as files


def endpoints(services: AppContext) -> None:
    """Add the endpoints to the page being built; their components are never shown."""
    with gr.Column(visible=False):
        image = UploadedImage(label="image", type="filepath", sources=["upload"])
        question = gr.Textbox(label="question")
        optional = gr.Textbox(label="question", value="")
        method = gr.Textbox(label="method", value=DEFAULT)
        text, notice, file = gr.Textbox(label="text"), gr.Textbox(label="notice"), gr.File(label="NPZ")
        found = gr.JSON(label="attribution")
        # A trigger that nobody can press: without one, Gradio would run the functions at every page load.
        never = gr.Button()
    for fn, inputs, output in (
        (caption_endpoint(services), [image], [text, notice]),
        (ask_endpoint(services), [image, question], [text, notice]),
        (attention_endpoint(services), [image, optional], file),
        (explain_endpoint(services), [image, optional, method], found),
    ):
        never.click(
            fn,
            inputs,
            output,
            api_name=fn.__name__,
            concurrency_id="api",
            concurrency_limit=4,
        )


def caption_endpoint(services: AppContext) -> Callable:
    def caption(image: str) -> tuple[str, str]:
        """Describe an image: an uploaded file (`handle_file(path)`) or a `data:` URL.

        Returns the caption and a notice: what speaks against believing it, and what was seen of a film or an odd
        picture; mostly nothing.
        """
        return said(services, image)

    return caption


def ask_endpoint(services: AppContext) -> Callable:
    def ask(image: str, question: str) -> tuple[str, str]:
        """Answer one question about an image, without history.

        Returns the answer and a notice: what speaks against believing it, such as a word that the bundled model has
        never read; mostly nothing.
        """
        return said(services, image, checked(services, question))

    return ask


def attention_endpoint(services: AppContext) -> Callable:
    def attention(image: str, question: str = "") -> str:
        """Everything the Q-Former did for an image as NPZ with its manifest inside (see qformer_viz.view.archive).

        question: answered and noted in the manifest; with InstructBLIP the maps depend on it. May be empty.
        """
        return npz(services, image, question)

    return attention


def explain_endpoint(services: AppContext) -> Callable:
    def explain(image: str, question: str = "", method: str = DEFAULT) -> dict:
        """Which queries and patches every word of an answer (without a question: of the caption) came from.

        method: a name of qformer_viz.METHODS, such as knockout, gradient or rise. Returns answer, words, logprobs,
        gains (nats that the image brought), visual (whether a word has a map), queries [word][query] or null, patches
        [word][row][column], cls [query], unit and note; see qformer_viz.Attribution.
        """
        return attribution(services, image, question, method)

    return explain


def attribution(services: AppContext, image: str | None, question: str, method: str) -> dict[str, Any]:
    """The attribution of one answer as plain numbers."""
    pipe = services.chat_model.pipe
    encoded, answer = answered(services, image, question)
    return {"answer": answer.text} | files.plain(attribute(prepare(pipe, encoded, answer), method))


def said(services: AppContext, image: str | None, question: str = "") -> tuple[str, str]:
    """(caption or answer, notice)."""
    chat_model = services.chat_model
    encoded = encode(services, image)
    notices = [*encoded.notices, chat_model.ood_check(encoded) if chat_model.ood_check else None]
    if question and chat_model.unknown_words and (unread := chat_model.unknown_words(question)):
        notices.append(never_read(unread))
    answer = chat_model.pipe.ask(encoded, question) if question else chat_model.pipe.caption(encoded)
    return answer.text, " ".join(filter(None, notices))


def npz(services: AppContext, image: str, question: str) -> str:
    """The NPZ file of one image and, if there is one, its question."""
    asked = question.strip()
    encoded, answer = answered(services, image, question) if asked else (encode(services, image), None)
    session = Session(encoded=encoded)
    if answer is not None:
        session = session.add("question", asked).add("answer", answer.text, "eos")
    path = fresh_folder() / "capture.npz"
    return str(files.save_npz(encoded.capture, path, about(services, session)))


def answered(services: AppContext, image: str | None, question: str) -> tuple[Any, Any]:
    """(the image as its question has it seen, the answer); without a question the caption."""
    pipe, encoded = services.chat_model.pipe, encode(services, image)
    if not question.strip():
        return encoded, pipe.caption(encoded)
    question = checked(services, question)
    if services.chat_model.reads_questions:
        encoded = pipe.encode(encoded, question)
    return encoded, pipe.ask(encoded, question)


def encode(services: AppContext, image: str | None):
    if image is None:
        raise UserError("There is no image. Send one: handle_file(path) or a data: URL.")
    return services.chat_model.pipe.encode(services.decode(image))


def checked(services: AppContext, question: str) -> str:
    """The question without blank ends, if this server takes it."""
    text, limit = (question or "").strip(), services.limits.max_question
    if not text or len(text) > limit:
        raise UserError(f"A question of 1 to {limit} characters is needed; this one has {len(text)}.")
    return text
