"""What the server keeps of its visitors between two requests: bounded by memory, and nothing of API clients."""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import fields, is_dataclass
from datetime import datetime
from itertools import islice
from typing import Any

import gradio as gr
import numpy as np
import torch
from gradio.blocks import Blocks
from gradio.data_classes import BlocksConfigDict
from gradio.queueing import Queue
from gradio.routes import App
from gradio.state_holder import SessionState, StateHolder
from PIL import Image

from qformer_viz.ui.error_reports import ReportingBlocks


class VisitorState(SessionState):
    """Gradio's state of one visitor, without the copy of every component's configuration that its deep links need.

    Gradio makes that copy for each new client, in the one thread that serves all.
    """

    def __init__(self, blocks: Blocks) -> None:
        self.blocks_config = copy(blocks.default_config)
        self.config_values: dict[int, Any] = {}
        self.state_data: dict[int, Any] = {}
        self._state_ttl: dict[int, tuple[float, datetime]] = {}
        self.is_closed = False
        self.STATE_TTL_WHEN_CLOSED = 3600

    def __setitem__(self, key: int, value: Any) -> None:
        block = self.blocks_config.blocks.get(key)
        if isinstance(block, gr.State):
            self._state_ttl[key] = (block.time_to_live, datetime.now())
            self.state_data[key] = value
        else:
            self.blocks_config.blocks[key] = value

    def _update_config(self, key: int) -> None:
        pass

    def _update_value_in_config(self, key: int, value: Any) -> None:
        pass


MOST_EMPTY = 1000
"""Sessions without a state that are held: they have asked for something, and it was not done yet."""


class SessionStore(StateHolder):
    """The visitors' states, oldest first. Above `most_bytes` the oldest go; the newest always stays, and so do those
    for whom work is going on.

    A client that leaves no state, as every client of the API, is forgotten as soon as it has been served. A session
    that never is (the request was refused, or given up while it waited) goes once there are many.
    """

    def __init__(self, most_bytes: int) -> None:
        super().__init__()
        self.most_bytes = most_bytes
        self._bytes: dict[str, int] = {}
        self._empty: dict[str, None] = {}
        self._busy: Counter[str] = Counter()

    def __getitem__(self, session_id: str) -> SessionState:
        with self.lock:
            state = self.session_data.get(session_id)
            if state is None:
                state = self.session_data[session_id] = VisitorState(self.blocks)
                idle = (each for each in self._empty if each not in self._busy)
                if len(self._empty) >= MOST_EMPTY and (oldest := next(idle, None)) is not None:
                    self._forget(oldest)
                self._empty[session_id] = None
            self.session_data.move_to_end(session_id)
            return state

    def begin(self, session_id: str) -> None:
        """Work for this session begins; `served` ends it."""
        with self.lock:
            self._busy[session_id] += 1

    @property
    def held(self) -> int:
        """Bytes of all states, as they were when each was served last."""
        return sum(self._bytes.values())

    def served(self, session_id: str) -> None:
        """A request of this session has ended: weigh what it left, and keep within the memory."""
        state = self.session_data.get(session_id)
        size = held_bytes(list(state.state_data.values())) if state is not None else 0
        with self.lock:
            self._busy[session_id] -= 1
            if self._busy[session_id] <= 0:
                del self._busy[session_id]
            if state is None or session_id not in self.session_data:
                return
            if state.state_data:
                self._bytes[session_id] = size
                self._empty.pop(session_id, None)
            elif session_id not in self._busy:
                self._forget(session_id)
            idle = [each for each in self.session_data if each in self._bytes and each not in self._busy]
            while self.held > self.most_bytes and idle and len(self._bytes) > 1:
                self._forget(idle.pop(0))

    def delete_all_expired_state(self) -> None:
        """Drop what is past its time, and with it those who closed the page and left nothing."""
        super().delete_all_expired_state()
        with self.lock:
            gone = [
                session_id
                for session_id, state in self.session_data.items()
                if state.is_closed and not state.state_data
            ]
            for session_id in gone:
                self._forget(session_id)

    def _forget(self, session_id: str) -> None:
        for held in (self.session_data, self._bytes, self._empty):
            held.pop(session_id, None)


def held_bytes(values: Iterable[Any]) -> int:
    """Bytes of tensors, arrays, pictures and texts within values: dataclasses, mappings and sequences are followed, and
    so is the capture in the `record` of an image. What is met twice counts once; models and other objects do not."""
    waiting, seen, total = list(values), set(), 0
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            storage = value.untyped_storage()
            total += 0 if storage.data_ptr() in seen else storage.nbytes()
            seen.add(storage.data_ptr())
        elif isinstance(value, np.ndarray):
            total += value.nbytes
        elif isinstance(value, Image.Image):
            total += value.width * value.height * len(value.getbands())
        elif isinstance(value, (str, bytes)):
            total += len(value)
        elif isinstance(value, Mapping):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, (list, tuple, set, frozenset)):
            waiting += value
        elif is_dataclass(value) and not isinstance(value, type):
            waiting += [getattr(value, each.name) for each in fields(value)]
            record = getattr(value, "record", None)
            waiting += [record.result] if record is not None else []
    return total


class MessageQueues(OrderedDict[str, Any]):
    """What Gradio has to tell each session. Gradio keeps the newest 2000 sessions, so that a page which waits for an
    answer loses it when 2000 API calls have begun since it was opened. Here those go that wait for nothing, and of
    clients that never fetch their results the oldest, once there are many."""

    def __init__(self, queue: Queue, most: int = 2000) -> None:
        super().__init__()
        self.events, self.most = queue, most

    def __setitem__(self, session_id: str, messages: Any) -> None:
        super().__setitem__(session_id, messages)
        if len(self) <= self.most:
            return
        unfetched = self.events.pending_event_ids_session
        self._drop(each for each in self if each != session_id and not unfetched.get(each))
        finished = (
            each
            for each in self
            if each != session_id
            and not any(event in self.events.event_ids_to_events for event in unfetched.get(each, ()))
        )
        self._drop(islice(finished, max(0, len(self) - 2 * self.most)))

    def __delitem__(self, session_id: str) -> None:
        if session_id in self:  # Gradio deletes a session whose page has gone, which may have been dropped
            super().__delitem__(session_id)

    def _drop(self, sessions: Iterable[str]) -> None:
        for each in list(sessions):
            del self[each]
            self.events.pending_event_ids_session.pop(each, None)


class VisitorBlocks(ReportingBlocks):
    """Blocks that keep their visitors in a SessionStore of `most_bytes`."""

    most_bytes = 10**9

    @property
    def app(self) -> App:
        return self._app

    @app.setter
    def app(self, app: App) -> None:
        # Gradio makes an app at every launch, with a store of its own, and offers no way to hand it another.
        app.state_holder = SessionStore(self.most_bytes)
        app.state_holder.set_blocks(self)
        self._app = app

    def queue(self, *args: object, **options: object) -> "VisitorBlocks":
        """As Gradio, with messages for as many sessions as wait for one."""
        super().queue(*args, **options)
        self._queue.pending_messages_per_session = MessageQueues(self._queue)
        return self

    def get_config_file(self) -> BlocksConfigDict:
        """As Gradio, without the address in memory of each state's callback."""
        config = super().get_config_file()
        for component in config["components"]:
            component["props"].pop("delete_callback", None)
        return config

    async def process_api(
        self, *args: object, session_hash: str | None = None, **options: object
    ) -> dict[str, Any]:
        """As Gradio; afterwards the visitor's state is weighed."""
        if session_hash is not None:
            self.state_holder.begin(session_hash)
        try:
            return await super().process_api(*args, session_hash=session_hash, **options)
        finally:
            if session_hash is not None:
                self.state_holder.served(session_hash)
