"""What every test shares."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from hypothesis import settings

# No deadline: the machines that run this are shared, and a slow example is not a wrong one.
settings.register_profile("shared machine", deadline=None, max_examples=50)
settings.load_profile("shared machine")


@pytest.fixture(scope="module")
def loop():
    """loop.run(coroutine) -> its result. Pages are built inside, too: where no loop runs, Gradio makes one and leaves
    it open. In a thread, for Playwright keeps a loop of its own in this one."""
    with ThreadPoolExecutor(1) as pool, asyncio.Runner() as runner:
        yield SimpleNamespace(run=lambda coroutine: pool.submit(runner.run, coroutine).result())
        pool.submit(runner.close).result()
