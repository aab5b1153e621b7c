"""The inspector's tabs: the list of them, and how one is added."""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gradio as gr
import pytest

from qformer_viz import ui
from qformer_viz.ui import inspector, model_picker, stage_updates
from qformer_viz.ui.conversation import Session
from qformer_viz.ui.inspector import inspector_views
from tests.support.fakes_ui import FakeMatcher, FakePipeline, fake_choice, fake_services

NEW_VIEW = '''
"""Tab: a view that a newcomer adds."""

import gradio as gr

from qformer_viz.ui.inspector.view import InspectorView


def build(app):
    return {"text": gr.Textbox(elem_id="newcomer-text"), "more": gr.Textbox(elem_id="newcomer-more")}


def greet(context):
    return [(lambda session: "image" if session.encoded else "no image", context.session, context.parts["text"])]


def draw(context):
    return [(lambda: "maps", None, context.parts["more"])]


VIEW = InspectorView(
    id="newcomer",
    title="Newcomer",
    order=65,
    available=lambda app: app.matcher is None,
    build=build,
    on_image=greet,
    on_maps=draw,
    on_model=greet,
)
'''
TITLES = {
    "why": "Why",
    "whatif": "What if",
    "together": "Queries",
    "heads": "Heads",
    "similarity": "Similarity",
    "statistics": "Statistics",
    "across": "Images",
    "questions": "Questions",
    "versus": "Models",
    "match": "Match",
    "precision": "Precision",
    "export": "Export",
    "about": "About",
}


@pytest.fixture
def newcomer(tmp_path, monkeypatch):
    """One new file beside the inspector's own."""
    name = "newcomer_view"
    (tmp_path / f"{name}.py").write_text(NEW_VIEW)
    monkeypatch.setattr(inspector, "__path__", [*inspector.__path__, str(tmp_path)])
    yield
    sys.modules.pop(f"{inspector.__name__}.{name}", None)
    if hasattr(inspector, name):
        delattr(inspector, name)


def build(services) -> gr.Blocks:
    """The page, built inside a loop: outside one Gradio makes its own and leaves it open. In a thread, because
    Playwright keeps a loop of its own in this one."""

    async def inside():
        return ui.build(services)

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, inside()).result()


def tabs(page: gr.Blocks) -> dict[str, str]:
    """Ids and titles of the inspector's tabs, from the left, as the browser gets them."""
    config = page.get_config_file()
    props = {each["id"]: each["props"] for each in config["components"]}

    def find(node):
        if props.get(node["id"], {}).get("elem_id") == "tabs":
            return node
        return next((found for child in node.get("children") or () if (found := find(child))), None)

    children = [props[child["id"]] for child in find(config["layout"])["children"]]
    return {each["id"]: each["label"] for each in children}


def writers(page: gr.Blocks, elem_id: str) -> list:
    """The events that write to a component, and where in their outputs it stands."""
    (block,) = (each for each in page.blocks.values() if getattr(each, "elem_id", "") == elem_id)
    return [(fn, fn.outputs.index(block)) for fn in page.fns.values() if block in fn.outputs]


def name(event) -> str:
    return getattr(event.fn, "func", event.fn).__name__


def test_ids_titles_and_order_are_these():
    page = build(fake_services(matcher=FakeMatcher(), precisions={"8bit": FakePipeline}, **fake_choice()))
    assert list(tabs(page).items()) == list(TITLES.items())
    hidden = {"questions", "versus", "match", "precision"}
    assert list(tabs(build(fake_services()))) == [each for each in TITLES if each not in hidden]


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({"matcher": FakeMatcher()}, {"match"}),
        ({"precisions": {"8bit": FakePipeline}}, {"precision"}),
        ({"compares_questions": True}, {"questions"}),
        (fake_choice() | {"compares_questions": False}, {"versus"}),
    ],
)
def test_tabs_that_only_some_servers_show(options, shown):
    app = fake_services(**options)
    hidden = {"questions", "versus", "match", "precision"} - shown
    assert {view.id for view in inspector_views() if view.available(app)} == set(TITLES) - hidden


def test_a_new_file_is_a_new_tab(newcomer):
    page = build(fake_services(**fake_choice()))
    found = tabs(page)
    assert found["newcomer"] == "Newcomer"
    assert list(found).index("newcomer") == list(found).index("statistics") + 1
    assert "newcomer" not in tabs(build(fake_services(matcher=FakeMatcher())))
    # The step of a new image runs, in the event that all quick views share: after an upload or an example, after a
    # video, and after another model. The step of another model runs in the event that changes the model.
    written = writers(page, "newcomer-text")
    after_model = [(fn, at) for fn, at in written if name(fn) == "change"]
    after_image = [(fn, at) for fn, at in written if name(fn) != "change"]
    assert len(after_model) == 1 and len(after_image) >= 3
    for fn, at in after_image:
        assert fn.fn(Session())[at] == "no image"
    # The step of new maps runs after a new image, after an answer, and after the choice of another frame.
    assert {name(page.fns[fn.trigger_after]) for fn, _ in writers(page, "newcomer-more")} >= {
        "look",
        "look_at_film",
        "change",
        "answer",
        "chosen",
    }


def test_two_views_of_one_id_are_refused(newcomer, tmp_path):
    path = tmp_path / "newcomer_view.py"
    path.write_text(path.read_text().replace('id="newcomer"', 'id="why"'))
    with pytest.raises(ValueError, match="'why'"):
        inspector_views()


def test_every_file_of_the_inspector_is_a_view_or_part_of_one():
    folder = Path(inspector.__file__).parent
    files = {path.stem for path in folder.glob("*.py")} - {"__init__", "view", "model_comparison_view"}
    assert len(files) == len(TITLES) == len(inspector_views())


def test_steps_of_another_model_read_the_session_alone():
    session, choice, text = (kind(render=False) for kind in (gr.State, gr.Dropdown, gr.Textbox))
    renewal = (lambda text: text, text, text)
    with pytest.raises(ValueError, match="the session alone"):
        model_picker.wire(fake_services(), session, choice, [], renewal, None)


def test_maps_are_drawn_after_an_answer_only_where_the_question_is_read():
    reading, state = fake_services(FakePipeline(family="instructblip")), gr.State(render=False)
    step = (lambda: "drawn", None, gr.Textbox(render=False))
    fn, inputs, _ = stage_updates.if_question_is_read(reading, state, step)
    assert fn(Session()) == "drawn" and inputs == [state]
    fn, *_ = stage_updates.if_question_is_read(fake_services(), state, step)
    assert fn(Session()) != "drawn"
    two = (lambda text: [text, text], [step[2]], [step[2], state])
    fn, inputs, _ = stage_updates.if_question_is_read(fake_services(), state, two)
    assert len(fn(Session(), "drawn")) == 2 and "drawn" not in fn(Session(), "drawn") and len(inputs) == 2
    assert stage_updates.if_question_is_read(reading, state, two)[0](Session(), "x") == ["x", "x"]
