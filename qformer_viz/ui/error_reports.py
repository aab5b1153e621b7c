"""What becomes of an error in a handler: a user error is shown, a defect is logged and shown by its reference."""

import logging
import uuid
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

import gradio as gr
from gradio.block_function import BlockFunction

from qformer_viz.errors import UserError

log = logging.getLogger("qformer_viz")
FETCHES_NOTHING = (
    "Images are not fetched from web addresses. Download the picture and upload the file itself "
    "(in the Python client: handle_file(path))."
)


class ReportingBlocks(gr.Blocks):
    """Blocks whose handlers may raise: `user_errors` reach the visitor as they are, page and API alike.

    Whatever else is raised is a defect. It goes to the log with its traceback, and the visitor gets one line with the
    reference under which it stands there. A handler catches only what it can do something about.
    """

    user_errors: tuple[type[Exception], ...] = (UserError,)

    async def preprocess_data(
        self, block_fn: BlockFunction, inputs: list[Any], *args: object, **options: object
    ) -> list[Any]:
        """As Gradio; values that do not fit the handler's inputs are the client's to mend. Gradio would fetch the web
        addresses among them here, before any component sees them: they are refused."""
        if any(addresses(inputs)):
            raise client_error(block_fn, FETCHES_NOTHING)
        try:
            return await super().preprocess_data(block_fn, inputs, *args, **options)
        except gr.Error:
            raise
        except self.user_errors as error:
            raise client_error(block_fn, str(error)) from None
        except Exception as error:
            log.warning("a request did not fit %s", named(block_fn), exc_info=error)
            raise client_error(block_fn, unfit(block_fn)) from None

    async def call_function(
        self, block_fn: BlockFunction, *args: object, **options: object
    ) -> dict[str, Any]:
        """As Gradio, with the errors of the handler reported."""
        try:
            return await super().call_function(block_fn, *args, **options)
        except gr.Error:
            raise
        except self.user_errors as error:
            raise client_error(block_fn, str(error)) from None
        except Exception as error:
            raise client_error(block_fn, logged(error, named(block_fn))) from None

    async def postprocess_data(self, block_fn: BlockFunction, *args: object, **options: object) -> list[Any]:
        """As Gradio; what a handler returned and a component cannot show is a defect."""
        try:
            return await super().postprocess_data(block_fn, *args, **options)
        except gr.Error:
            raise
        except Exception as error:
            raise client_error(block_fn, logged(error, named(block_fn))) from None


def addresses(values: object) -> Iterator[str]:
    """Web addresses that Gradio would fetch for the values of a request: the paths of files that are none."""
    waiting = [values]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            path = value.get("path")
            if isinstance(path, str) and "://" in path[:40]:
                yield path
            waiting += value.values()
        elif isinstance(value, list | tuple):
            waiting += value


def logged(error: BaseException, where: str) -> str:
    """Log a defect with its traceback; returns the line for the visitor, which names the entry in the log."""
    reference = uuid.uuid4().hex[:8]
    log.error("%s: defect in %s", reference, where, exc_info=error)
    return (
        f"Something went wrong here, and it is not your doing. It is logged on the server as {reference}; give this "
        "reference to whoever runs the program. What you had before still stands."
    )


def unfit(block_fn: BlockFunction) -> str:
    """What a handler takes, for a client that sent something else."""
    inputs = ", ".join(getattr(block, "label", None) or block.get_block_name() for block in block_fn.inputs)
    return (
        f"The request does not fit {named(block_fn)}, which takes: {inputs or 'nothing'}. Send as many values in this "
        'order; an image as handle_file(path) in the Python client, or as {"url": "data:image/png;base64,…"}.'
    )


def named(block_fn: BlockFunction) -> str:
    """A handler's name: of an endpoint its address."""
    return f"/{block_fn.api_name}" if is_public(block_fn) else str(block_fn.name)


def is_public(block_fn: BlockFunction) -> bool:
    """Whether this is one of the named endpoints, whose client is a program."""
    return block_fn.api_visibility == "public"


def client_error(block_fn: BlockFunction, message: str) -> gr.Error:
    """The message for the client. The page renders it as HTML; a program gets it as it is."""
    return gr.Error(message if is_public(block_fn) else escape(message), print_exception=False)
