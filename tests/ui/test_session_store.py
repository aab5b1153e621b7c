"""What the server keeps of its visitors: bounded by memory, nothing of API clients."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
import torch
from gradio.state_holder import SessionState
from PIL import Image

from qformer_viz import ui
from qformer_viz.ui.conversation import Session
from qformer_viz.ui.session_store import (
    MOST_EMPTY,
    MessageQueues,
    SessionStore,
    VisitorBlocks,
    VisitorState,
    held_bytes,
)
from tests.support.fakes_ui import fake_services


def blocks(loop, most_bytes=1000):
    """A page whose one handler keeps a tensor of so many bytes for its visitor, beside an endpoint."""

    async def built():
        with VisitorBlocks() as page:
            page.most_bytes = most_bytes
            state, size, shown = gr.State(()), gr.Number(), gr.Textbox()
            size.change(
                lambda n: torch.zeros(int(n), dtype=torch.uint8), size, state, api_visibility="private"
            )
            size.submit(lambda n: str(n), size, shown, api_name="say")
        return page

    return loop.run(built())


def visit(loop, page, session, size, fn=0):
    call = page.process_api(
        page.fns[fn], [size], state=page.state_holder[session], session_hash=session, root_path=None
    )
    return loop.run(call)


def test_the_oldest_go_when_memory_is_full_and_the_newest_stays(loop):
    page = blocks(loop)
    store = page.state_holder
    assert isinstance(store, SessionStore)
    for session in ("a", "b", "c"):
        visit(loop, page, session, 400)
    assert list(store.session_data) == ["b", "c"] and store.held == 800
    visit(loop, page, "b", 300)
    visit(loop, page, "d", 400)
    assert list(store.session_data) == ["b", "d"], "the one served longest ago goes first"
    visit(loop, page, "e", 5000)
    assert list(store.session_data) == ["e"], "one visitor alone may take more"


@pytest.mark.slow
def test_api_clients_hold_nothing_and_push_nobody_out(loop):
    page = blocks(loop)
    visit(loop, page, "visitor", 400)
    for number in range(500):
        visit(loop, page, f"client {number}", 1, fn=1)
    assert list(page.state_holder.session_data) == ["visitor"]
    assert page.state_holder.held == 400


def test_who_closed_the_page_is_forgotten_when_the_state_expires(loop):
    page = blocks(loop)
    visit(loop, page, "gone", 400)
    visit(loop, page, "here", 400)
    for session in ("gone", "here"):
        state = page.state_holder.session_data[session]
        state._state_ttl = {key: (0, made) for key, (_, made) in state._state_ttl.items()}
    gone = page.state_holder.session_data["gone"]
    gone.is_closed, gone.STATE_TTL_WHEN_CLOSED = True, 0
    page.state_holder.delete_all_expired_state()
    assert list(page.state_holder.session_data) == ["here"]


def test_a_visitors_state_has_what_gradios_has(loop):
    """A newer Gradio may add something; then this class must too."""
    page = blocks(loop)
    assert vars(SessionState(page)).keys() == vars(VisitorState(page)).keys()
    assert VisitorState(page).blocks_config.blocks.keys() == page.default_config.blocks.keys()


@dataclass
class Seen:
    image: object
    capture: object


def test_what_is_weighed():
    tensor = torch.zeros(10, dtype=torch.float32)
    assert held_bytes([tensor, {"again": tensor, "view": tensor[2:]}]) == 40 + len("again") + len("view")
    assert held_bytes([np.zeros(3, dtype=np.uint8), [Image.new("RGB", (4, 5)), b"abc"]]) == 3 + 60 + 3
    seen = Seen(Image.new("L", (2, 2)), (torch.zeros(7, dtype=torch.uint8),))
    assert held_bytes([seen]) == 4 + 7
    assert held_bytes([torch.nn.Linear(100, 100), object(), 5, None]) == 0


def test_a_session_with_an_image_is_weighed_with_its_maps():
    services = fake_services()
    session = ui.conversation.look(services, Session(), Image.new("RGB", (40, 30)), None)
    maps = session.encoded.capture.cross_attention
    assert held_bytes([session]) >= maps.untyped_storage().nbytes() + 40 * 30 * 3


@pytest.mark.slow
def test_the_page_keeps_its_visitors_in_such_a_store(loop):
    async def built():
        return ui.build(fake_services())

    page = loop.run(built())
    assert isinstance(page.state_holder, SessionStore)
    assert page.state_holder.most_bytes == fake_services().limits.session_bytes


def test_sessions_that_are_never_served_are_bounded(loop):
    page = blocks(loop)
    visit(loop, page, "visitor", 400)
    for number in range(3 * MOST_EMPTY):
        page.state_holder[f"never served {number}"]
    assert len(page.state_holder.session_data) <= MOST_EMPTY + 1
    assert "visitor" in page.state_holder.session_data


def test_a_session_is_not_forgotten_while_work_for_it_goes_on(loop):
    page = blocks(loop)
    store = page.state_holder
    state = store["visitor"]
    store.begin("visitor")  # a long one, which has kept nothing yet
    visit(loop, page, "visitor", 1, fn=1)
    for number in range(2 * MOST_EMPTY):
        store[f"never served {number}"]
    assert store.session_data["visitor"] is state
    state.state_data[0] = torch.zeros(900, dtype=torch.uint8)
    for number in range(3):
        visit(loop, page, f"other {number}", 400)
    assert store.session_data["visitor"] is state
    store.served("visitor")
    visit(loop, page, "last", 400)
    assert "visitor" not in store.session_data and not store._busy


@pytest.mark.slow
def test_the_store_holds_under_threads(loop):
    page = blocks(loop, most_bytes=2000)
    store = page.state_holder

    def work(number):
        for turn in range(200):
            session = f"{number % 5}-{turn % 7}"
            state = store[session]
            store.begin(session)
            if turn % 2:
                state.state_data[0] = torch.zeros(100, dtype=torch.uint8)
            store.served(session)
            store.delete_all_expired_state()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(16)))
    assert store.held <= 2000 and not store._busy
    assert set(store._bytes) <= set(store.session_data)


def messages(most):
    """Queues of messages beside what Gradio notes of events: `waiting`, those that are not finished; `told`, those
    whose results were not fetched, by session."""
    events = SimpleNamespace(pending_event_ids_session={}, event_ids_to_events={})
    return MessageQueues(events, most), events.event_ids_to_events, events.pending_event_ids_session


def test_a_page_that_waits_for_an_answer_keeps_its_messages_whoever_comes():
    queues, waiting, told = messages(most=10)
    queues["page"], told["page"], waiting["asked"] = "messages", {"asked"}, object()
    for number in range(1000):
        queues[f"client {number}"] = "messages"
        told[f"client {number}"] = set()  # it has fetched its result
    assert queues["page"] == "messages" and "page" in told
    assert f"client {number}" in queues, "the newest is not dropped before its event is noted"
    assert len(queues) <= 12 and len(told) <= 12


def test_clients_that_never_fetch_their_results_are_bounded():
    queues, waiting, told = messages(most=10)
    for number in range(1000):
        name = f"client {number}"
        queues[name] = "messages"
        told[name] = {name}
    assert len(queues) == 20 and "client 999" in queues and "client 0" not in queues
    waiting.update({name: object() for name in queues})
    for number in range(1000, 1100):
        name = f"client {number}"
        queues[name], told[name], waiting[name] = "messages", {name}, object()
    assert len(queues) == 120, "nobody whose event is not finished is dropped"


@pytest.mark.slow
def test_the_page_has_such_queues(loop):
    async def built():
        return ui.build(fake_services())

    assert isinstance(loop.run(built())._queue.pending_messages_per_session, MessageQueues)
