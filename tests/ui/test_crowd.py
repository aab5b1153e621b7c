"""The crowd campaign in small: its own bookkeeping, and a dozen API clients at once on a served page."""

import asyncio
import time
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from tests.campaigns import crowd
from tests.support.serving import serve


@pytest.fixture(scope="module")
def url():
    with serve("tests.support.serve_fake") as address:
        yield address


@pytest.mark.slow
def test_many_clients_get_what_one_gets(url):
    expected = crowd.run(crowd.references(url))
    tally, times = crowd.api_users(url, time.time() + 3, 12, expected)
    assert tally["right"] >= 12 and set(tally) == {"right"}, tally
    assert len(times) == tally["right"]


@pytest.mark.slow
def test_a_wrong_reply_is_counted_as_wrong(url):
    expected = crowd.run(crowd.references(url))
    expected = {key: "something else" for key in expected}
    tally, _ = crowd.api_users(url, time.time() + 0.5, 3, expected)
    assert set(tally) == {"wrong"}


@pytest.mark.slow
def test_who_is_refused_tries_again_and_the_place_is_counted():
    with serve("tests.support.serve_fake", "--queue", "0") as url:

        async def one():
            tally = Counter()
            crowded = crowd.api_user(url, time.time() + 60, 0, {}, tally, [])
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(crowded, 3)
            return tally

        tally = crowd.run(one())
    assert tally["refused, place named"] >= 2 and set(tally) == {"refused, place named"}


def test_a_server_that_has_gone_loses_the_request():
    tally, _ = crowd.api_users("http://127.0.0.1:9/", time.time() + 0.2, 1, {})
    assert set(tally) == {"lost"}


def test_own_hooks_are_counted_and_those_of_transformers_are_not():
    layer = torch.nn.Linear(2, 2)
    assert crowd.hooks_left(layer) == 0
    layer.register_forward_hook(lambda *args: None)

    def theirs(*args):
        return None

    theirs.__module__ = "transformers.utils.output_capturing"
    layer.register_forward_hook(theirs)
    assert crowd.hooks_left(layer) == 1


def test_folder_bytes_and_spread(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(b"12345")
    assert crowd.folder_bytes(tmp_path) == 5
    assert crowd.spread([]) == "none"
    assert crowd.spread([3.0, 1.0, 2.0]).startswith("median 2.00 s, 95 % 3.00 s, most 3.00 s")


@pytest.mark.slow
def test_waiting_times_are_taken_by_kind():
    async def process(events, *args):
        return None

    def event(kind):
        return SimpleNamespace(fn=SimpleNamespace(concurrency_id=kind), enqueue_time=time.monotonic() - 1)

    page = SimpleNamespace(_queue=SimpleNamespace(process_events=process))
    waits = crowd.waits_by_kind(page)
    crowd.run(page._queue.process_events([event("chat"), event("140230")], False, 0.0, None))
    assert set(waits) == {"chat", "light"} and all(values[0] >= 1 for values in waits.values())
