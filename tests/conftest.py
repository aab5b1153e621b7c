"""What every test shares: the fast tier, and which tests run in one process where there are several."""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import settings

HERE = Path(__file__).parent
FAST_FOLDERS = ("unit", "ui")

# No deadline: the machines that run this are shared, and a slow example is not a wrong one.
settings.register_profile("shared machine", deadline=None, max_examples=50)
settings.load_profile("shared machine")

# A worker of pytest-xdist has one core; more threads than cores wait for one another.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_ignore_collect(collection_path, config):
    """`-m fast` does not import the modules that hold none."""
    if config.option.markexpr == "fast" and collection_path.parent == HERE and collection_path.is_dir():
        return collection_path.name not in FAST_FOLDERS or None
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Mark the fast tier: tests of unit and ui that are neither slow nor in a browser."""
    for item in items:
        slow = any(item.get_closest_marker(name) for name in ("slow", "browser"))
        if not slow and item.path.relative_to(HERE).parts[0] in FAST_FOLDERS:
            item.add_marker("fast")
        if config.pluginmanager.hasplugin("xdist"):
            item.add_marker(pytest.mark.xdist_group(group(item)))


def group(item):
    """The tests of a group run in one process, one after another: those of a module; and all that start a server, for
    these share ports, or have limits in seconds."""
    if item.get_closest_marker("browser") or {"serve", "slowness"} & vars(item.module).keys():
        return "servers"
    return item.module.__name__


@pytest.fixture(scope="module")
def loop():
    """loop.run(coroutine) -> its result. Pages are built inside, too: where no loop runs, Gradio makes one and leaves
    it open. In a thread, for Playwright keeps a loop of its own in this one."""
    with ThreadPoolExecutor(1) as pool, asyncio.Runner() as runner:
        yield SimpleNamespace(run=lambda coroutine: pool.submit(runner.run, coroutine).result())
        pool.submit(runner.close).result()
