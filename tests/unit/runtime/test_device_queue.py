"""The lane: one thread for each device, callers in line."""

import contextlib
import contextvars
import gc
import os
import threading
import time
import weakref

import pytest
import torch

from qformer_viz.runtime.device_queue import DeviceQueue, apart, queue_for
from tests.support import fake_checkpoints as fakes
from tests.support.occupied import occupied


def here(call):
    return call()


def elsewhere(call):
    """What call() returns or raises in a thread of its own."""
    found = []

    def inside():
        try:
            found.append((call(), None))
        except BaseException as error:
            found.append((None, error))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    result, error = found.pop()
    if error is not None:
        raise error
    return result


@pytest.fixture(params=[here, elsewhere])
def asked(request):
    """From the main thread, and from another one."""
    return request.param


def test_what_other_threads_ask_for_runs_in_one_that_is_none_of_them():
    names, callers = [], []

    def call():
        callers.append(threading.get_ident())
        names.append(queue_for("cpu").run(threading.get_ident))

    for _ in range(3):
        elsewhere(call)
    assert len(set(names)) == 1 and not set(names) & {*callers, threading.get_ident()}
    assert queue_for("cpu") is queue_for("cpu") is not queue_for("cuda:0")


def test_a_script_is_served_in_its_own_thread():
    assert queue_for("cpu").run(threading.get_ident) == threading.get_ident()


def test_the_main_thread_and_the_others_never_run_at_once():
    one, running, most = DeviceQueue("test"), [], []

    def work():
        running.append(1)
        time.sleep(0.002)
        most.append(len(running))
        running.pop()

    threads = [threading.Thread(target=lambda: [one.run(work) for _ in range(10)]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        one.run(work)
    for thread in threads:
        thread.join()
    assert len(most) == 50 and max(most) == 1


def test_callers_get_their_turn_in_the_order_in_which_they_came():
    one, order = DeviceQueue("test"), []
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


def test_work_sees_the_callers_context_and_whether_it_computes_gradients(asked):
    one, name = DeviceQueue("test"), contextvars.ContextVar("name", default="nobody")

    def call():
        name.set("somebody")
        with torch.no_grad():
            without = one.run(torch.is_grad_enabled)
        return one.run(name.get), without, one.run(torch.is_grad_enabled)

    assert asked(call) == ("somebody", False, True)


def test_work_may_ask_for_work(asked):
    one = DeviceQueue("test")
    assert asked(lambda: one.run(lambda: one.run(lambda: 3))) == 3


def test_an_error_reaches_its_caller_and_the_lane_goes_on(asked):
    one = DeviceQueue("test")
    with pytest.raises(TimeoutError, match="mine"):
        asked(lambda: one.run(lambda: (_ for _ in ()).throw(TimeoutError("mine"))))
    assert asked(lambda: one.run(lambda: 4)) == elsewhere(lambda: one.run(lambda: 4)) == 4


def test_who_stops_while_waiting_never_runs(asked):
    one, stop, ran = DeviceQueue("test"), threading.Event(), []
    with occupied(one):
        stop.set()
        assert asked(lambda: one.run(lambda: ran.append(1), stop.is_set)) is None
    assert asked(lambda: one.run(lambda: "next")) == "next" and not ran


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_of_the_last_work_is_kept_while_the_next_is_waited_for(asked, fails):
    one = DeviceQueue("test")

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
        assert asked(go)() is None
    finally:
        gc.enable()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forking beside threads, from Python 3.12 on
def test_a_forked_process_has_a_lane_of_its_own():
    """On ZeroGPU a call runs in a fork, which inherits no thread."""
    one = DeviceQueue("test")
    elsewhere(lambda: one.run(lambda: None))
    back, forth = os.pipe()
    with occupied(one):
        child = os.fork()
        if not child:
            os.write(forth, str(one.run(lambda: 7) + elsewhere(lambda: one.run(lambda: 8))).encode())
            os._exit(0)
        os.waitpid(child, 0)
    assert os.read(back, 10) == b"15"


def test_work_apart_leaves_no_thread_and_waits_for_no_lane():
    before, name = threading.active_count(), contextvars.ContextVar("name", default="nobody")
    name.set("somebody")
    with occupied(queue_for("cpu")):
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
    assert first._queue is second._queue
