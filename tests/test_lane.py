"""The lane: one thread for each device, callers in line."""

import contextlib
import contextvars
import gc
import os
import threading
import weakref

import pytest
import torch

from model.lane import Lane, apart, lane
from tests import fake_checkpoints as fakes
from tests.occupied import occupied


def test_all_work_of_a_device_runs_in_one_thread_that_is_no_caller():
    names, callers = [], []

    def call():
        callers.append(threading.get_ident())
        names.append(lane("cpu").run(threading.get_ident))

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(names)) == 1 and not set(names) & set(callers)
    assert lane("cpu") is lane("cpu") is not lane("cuda:0")


def test_callers_get_their_turn_in_the_order_in_which_they_came():
    one, order = Lane("test"), []
    with occupied(one):
        threads = []
        for number in range(5):
            threads.append(
                threading.Thread(target=one.run, args=(lambda number=number: order.append(number),))
            )
            threads[-1].start()
            while one._waiting.qsize() < number + 1:
                pass
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, 3, 4]


def test_work_sees_the_callers_context_and_whether_it_computes_gradients():
    one, name = Lane("test"), contextvars.ContextVar("name", default="nobody")
    name.set("somebody")
    assert one.run(name.get) == "somebody"
    with torch.no_grad():
        assert one.run(torch.is_grad_enabled) is False
    assert one.run(torch.is_grad_enabled) is True


def test_work_may_ask_for_work():
    one = Lane("test")
    assert one.run(lambda: one.run(lambda: 3)) == 3


def test_an_error_reaches_its_caller_and_the_lane_goes_on():
    one = Lane("test")
    with pytest.raises(TimeoutError, match="mine"):
        one.run(lambda: (_ for _ in ()).throw(TimeoutError("mine")))
    assert one.run(lambda: 4) == 4


def test_who_stops_while_waiting_never_runs():
    one, stop, ran = Lane("test"), threading.Event(), []
    with occupied(one):
        stop.set()
        assert one.run(lambda: ran.append(1), stop.is_set) is None
    assert one.run(lambda: "next") == "next" and not ran


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_of_the_last_work_is_kept_while_the_next_is_waited_for(fails):
    one = Lane("test")

    def go():
        big = torch.zeros(3)

        def work():
            if fails:
                raise ValueError(f"{len(big)}")
            return len(big)

        with contextlib.suppress(ValueError):
            one.run(work)
        return weakref.ref(big)

    gc.disable()
    try:
        assert go()() is None
    finally:
        gc.enable()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forking beside threads, from Python 3.12 on
def test_a_forked_process_has_a_lane_of_its_own():
    """On ZeroGPU a call runs in a fork, which inherits no thread."""
    one = Lane("test")
    one.run(lambda: None)
    here, there = os.pipe()
    child = os.fork()
    if not child:
        os.write(there, str(one.run(lambda: 7)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(here, 10) == b"7"


def test_work_apart_leaves_no_thread_and_waits_for_no_lane():
    before, name = threading.active_count(), contextvars.ContextVar("name", default="nobody")
    name.set("somebody")
    with occupied(lane("cpu")):
        during = threading.active_count()
        assert apart(lambda: (threading.current_thread() is threading.main_thread(), name.get())) == (
            False,
            "somebody",
        )
        assert threading.active_count() == during
    with pytest.raises(KeyError, match="mine"):
        apart(lambda: {}["mine"])
    assert threading.active_count() <= max(before, during)


def test_models_on_one_device_never_run_at_once():
    first, second = fakes.pipeline(), fakes.pipeline(seed=1)
    assert first._lane is second._lane
