"""A defect in any handler stands in the log and not on the page; a user error is shown as it is."""

import inspect
import re

import gradio as gr
import pytest

from qformer_viz.errors import UserError
from qformer_viz.ui import build
from qformer_viz.ui.error_reports import ReportingBlocks, is_public
from tests.support.fakes_ui import fake_services

SECRET = "zip() argument 2 is shorter than argument 1"


class Bomb:
    """Fails with a plain ValueError whatever a handler does with it."""

    def fail(self, *args, **kwargs):
        raise ValueError(SECRET)

    __getattr__ = __getitem__ = __iter__ = __len__ = __bool__ = __str__ = __contains__ = fail
    __eq__ = __lt__ = __le__ = __gt__ = __ge__ = __add__ = __index__ = __float__ = fail
    __hash__ = None


@pytest.fixture(scope="module")
def page(loop):
    async def built():
        return build(fake_services(decode=Bomb().fail))

    return loop.run(built())


def one_handler(loop, fn, output=gr.Textbox, **options):
    """Blocks with a single handler from a text box, and that handler."""

    async def built():
        with ReportingBlocks() as blocks:
            box, shown = gr.Textbox(), output()
            box.change(fn, box, shown, **options)
        return blocks

    blocks = loop.run(built())
    return blocks, blocks.fns[0]


def handlers(page):
    """Everything on the page that runs Python on a value from outside."""
    return [
        fn
        for fn in page.fns.values()
        if fn.fn is not None and inspect.signature(fn.fn).parameters and fn.inputs
    ]


def called(loop, page, fn, values):
    return loop.run(page.call_function(fn, values, event_data=gr.EventData(None, {})))


@pytest.mark.slow
def test_a_defect_in_each_handler_is_logged_with_its_traceback_and_never_shown(loop, page, caplog):
    hit = 0
    for fn in handlers(page):
        caplog.clear()
        try:
            called(loop, page, fn, [Bomb() for _ in fn.inputs])
        except gr.Error as error:
            hit += 1
            assert SECRET not in error.message
            reference = re.search(r"logged on the server as ([0-9a-f]{8})", error.message)
            assert reference, f"{fn.name}: {error.message}"
            (entry,) = caplog.records
            assert reference[1] in entry.getMessage()
            assert "Traceback" in caplog.text and 'File "' in caplog.text
    assert hit >= 40, f"only {hit} handlers touched what they were given"


@pytest.mark.slow
def test_user_errors_are_shown_as_they_are_and_not_logged(loop, caplog):
    def refuse(value):
        raise UserError("Use <b> less than 3")

    messages = {}
    for options in ({"api_visibility": "private"}, {"api_name": "refuse"}):
        blocks, fn = one_handler(loop, refuse, **options)
        with pytest.raises(gr.Error) as caught:
            called(loop, blocks, fn, ["x"])
        assert not caught.value.print_exception
        messages[is_public(fn)] = caught.value.message
    assert messages == {False: "Use &lt;b&gt; less than 3", True: "Use <b> less than 3"}
    assert not caplog.records


def test_a_defect_in_a_generator_is_caught_wherever_it_comes(loop, caplog):
    def two(value):
        yield "one"
        raise ValueError(SECRET)

    async def run():
        first = await blocks.call_function(fn, ["x"])
        with pytest.raises(gr.Error, match="logged on the server"):
            await blocks.call_function(fn, [], iterator=first["iterator"])

    blocks, fn = one_handler(loop, two)
    loop.run(run())
    assert SECRET in caplog.text


@pytest.mark.parametrize(
    ("endpoint", "values", "needed"),
    [
        ("caption", ["assets/examples/concert.png"], ["/caption", "image", "handle_file"]),
        ("ask", [None], ["/ask", "image, question"]),
        ("ask", [{"url": "data:image/png;base64,"}], ["/ask", "image, question"]),
        ("explain", [], ["/explain", "image, question, method"]),
    ],
)
def test_a_request_that_does_not_fit_is_told_what_does(loop, page, endpoint, values, needed, caplog):
    fn = next(fn for fn in page.fns.values() if fn.api_name == endpoint)
    with pytest.raises(gr.Error) as caught:
        loop.run(page.preprocess_data(fn, values, None))
    for part in needed:
        assert part in caught.value.message
    assert "Traceback" in caplog.text


def test_what_a_component_cannot_show_is_a_defect(loop, caplog):
    blocks, fn = one_handler(loop, lambda text: object(), gr.Gallery)
    with pytest.raises(gr.Error, match="logged on the server"):
        loop.run(blocks.postprocess_data(fn, object(), None))
    assert "Traceback" in caplog.text
