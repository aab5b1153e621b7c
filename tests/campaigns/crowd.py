"""`python -m tests.campaigns.crowd`: many API users and a few browsers at once on the bundled model.

Every caption, answer and map is compared with what a single user gets. Printed: requests lost, refused and wrong,
waiting times by kind of event, memory and disk at their peak, hooks left on the model. Exit code 1 if anything was
lost or wrong.
"""

import argparse
import asyncio
import base64
import contextlib
import json
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Coroutine
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil

ROOT = Path(__file__).resolve().parents[2]
QUESTION = "how many objects are there?"
CALLS = {
    "caption": lambda image: [image],
    "ask": lambda image: [image, QUESTION],
    "explain": lambda image: [image, "", "raw"],
}
PAUSE = 1.0
"""Seconds that a user of the API thinks before the next call, on average."""


Result = TypeVar("Result")


def run(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """The result of a coroutine, run in a thread of its own: a loop may already run in the caller's, as Playwright's
    does in the tests."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


def pictures() -> dict[str, dict[str, Any]]:
    """The example scenes as API clients send them."""
    folder = ROOT / "assets" / "examples"
    names = json.loads((folder / "scenes.json").read_text(encoding="utf-8"))
    return {
        Path(name).stem: {
            "url": "data:image/png;base64," + base64.b64encode((folder / name).read_bytes()).decode(),
            "meta": {"_type": "gradio.FileData"},
        }
        for name in names
    }


async def call(client: httpx.AsyncClient, url: str, name: str, data: list) -> tuple[str, Any]:
    """("complete" or "error", what came) of one queued call; ("refused", the reason) where the queue is full."""
    begun = await client.post(f"{url}gradio_api/call/{name}", json={"data": data})
    if begun.status_code == 503:
        return "refused", begun.json().get("detail", "")
    begun.raise_for_status()
    kind, found = "lost", None
    async with client.stream("GET", f"{url}gradio_api/call/{name}/{begun.json()['event_id']}") as reply:
        async for line in reply.aiter_lines():
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            elif line.startswith("data: ") and kind in ("complete", "error"):
                found = json.loads(line.removeprefix("data: "))
    return kind, found


def comparable(name: str, found: list) -> Any:
    """What must be equal of an endpoint's reply: all but the time it took."""
    if name == "explain":
        return {key: value for key, value in found[0].items() if key != "seconds"}
    return found


async def references(url: str) -> dict[tuple[str, str], Any]:
    """What a single user gets, by endpoint and picture."""
    found = {}
    async with httpx.AsyncClient(timeout=120) as client:
        for title, image in pictures().items():
            for name, make in CALLS.items():
                kind, reply = await call(client, url, name, make(image))
                assert kind == "complete", (kind, reply)
                found[name, title] = comparable(name, reply)
    return found


async def api_user(url: str, until: float, seed: int, expected: dict, tally: Counter, times: list) -> None:
    """One client that calls again and again, with the pictures and endpoints in an order of its own."""
    order, images = random.Random(seed), pictures()
    # A connection for each request, as the Gradio client makes them: a kept one may end while a request is on its way.
    kept = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(timeout=300, limits=kept) as client:
        while time.time() < until:
            title, name = order.choice(list(images)), order.choice(list(CALLS))
            began, kind, found = time.time(), "refused", None
            while kind == "refused":
                try:
                    kind, found = await call(client, url, name, CALLS[name](images[title]))
                except httpx.HTTPError as error:
                    kind, found = "lost", repr(error)
                if kind == "refused":
                    tally[
                        "refused, place named" if "size is" in str(found) else "refused without a place"
                    ] += 1
                    await asyncio.sleep(PAUSE)
            times.append(time.time() - began)
            if kind in ("lost", "error"):
                print(f"{kind}: {name} of {title}: {found}"[:300], flush=True)
            right = kind == "complete" and comparable(name, found) == expected[name, title]
            tally["right" if right else "wrong" if kind == "complete" else kind] += 1
            await asyncio.sleep(order.expovariate(1 / PAUSE))


def api_users(url: str, until: float, users: int, expected: dict) -> tuple[Counter, list[float]]:
    """All clients of the API, in this process."""
    tally: Counter = Counter()
    times: list[float] = []

    async def all_of_them() -> None:
        await asyncio.gather(*(api_user(url, until, seed, expected, tally, times) for seed in range(users)))

    run(all_of_them())
    return tally, times


SETTLED = """([count, image]) => {
  const host = document.querySelector('#canvas .qfv-host');
  return host?.dataset.image && host.dataset.image !== image && !document.body.classList.contains('qfv-busy')
    && document.querySelectorAll('#chat .message').length >= count;
}"""


async def visit(page: Any, number: int) -> tuple[str, str, str]:
    """(caption, answer, which image's maps are on the canvas) for an example, as a visitor brings them about."""
    before = await page.evaluate("document.querySelector('#canvas .qfv-host')?.dataset.image ?? ''")
    await page.locator("#examples button.thumbnail-item").nth(number).click()
    await page.wait_for_function(SETTLED, arg=[1, before])
    await page.locator("#question textarea").fill(QUESTION)
    await page.locator("#send").click()
    await page.wait_for_function(SETTLED, arg=[3, ""])
    lines = [line.strip() for line in await page.locator("#chat .message").all_inner_texts()]
    shown = await page.evaluate("document.querySelector('#canvas .qfv-host').dataset.image")
    return lines[0], lines[2], shown


async def browse(url: str, until: float, browsers: int, expected: dict[int, tuple]) -> dict[str, Any]:
    """Visitors in browsers, each with a page of its own; without `until`, one of them once through all examples."""
    from playwright.async_api import async_playwright

    visits, wrong, trouble, opening = 0, [], [], []
    seen: dict[int, tuple] = {}
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(
            executable_path=shutil.which("chromium") or "/usr/bin/chromium",
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )

        async def visitor(seed: int) -> None:
            nonlocal visits
            order = random.Random(1000 + seed)
            page = await chromium.new_page()
            page.set_default_timeout(240_000)
            page.on("pageerror", lambda error: trouble.append(str(error)))
            last = -1
            began = time.time()
            await page.goto(url)
            await page.locator("#examples button.thumbnail-item").first.wait_for()
            opening.append(time.time() - began)
            numbers = range(len(pictures()))
            while time.time() < until or (not until and len(seen) < len(numbers)):
                number = order.choice([n for n in numbers if n != last]) if until else len(seen)
                try:
                    found = await visit(page, number)
                except Exception as error:
                    trouble.append(f"visit of example {number}: {error}"[:300])
                    break
                visits, last, seen[number] = visits + 1, number, found
                if until and found != expected[number]:
                    wrong.append((number, found, expected[number]))
            errors = await page.locator(".toast-body.error").all_inner_texts()
            trouble.extend(errors)
            await page.close()

        await asyncio.gather(*map(visitor, range(browsers)))
        await chromium.close()
    return {"visits": visits, "wrong": wrong, "trouble": trouble, "opening": opening, "seen": seen}


def browsers_of(url: str, until: float, browsers: int, expected: dict[int, tuple]) -> dict[str, Any]:
    return run(browse(url, until, browsers, expected))


def folder_bytes(folder: Path) -> int:
    """Bytes of all files in a folder."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # it was deleted meanwhile
            total += path.stat().st_size if path.is_file() else 0
    return total


class Watch(threading.Thread):
    """Memory of this process and its children, and disk of a folder, once a second."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.folder, self.ended = folder, threading.Event()
        self.memory: list[int] = []
        self.disk: list[int] = []

    def run(self) -> None:
        while not self.ended.wait(1):
            self.memory.append(memory_of(psutil.Process()))
            self.disk.append(folder_bytes(self.folder))


def memory_of(process: psutil.Process) -> int:
    """Bytes of a process and all it has started, but for the workers that play the crowd."""
    total = 0
    with contextlib.suppress(psutil.Error):  # it has ended meanwhile
        if "multiprocessing" not in " ".join(process.cmdline()):
            total = process.memory_info().rss + sum(map(memory_of, process.children()))
    return total


def hooks_left(*models: Any) -> int:
    """Hooks on the modules of loaded models, but for those that transformers puts there for good to hand out attention
    and states."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    hooks = [
        hook
        for model in models
        for part in model.modules()
        for kind in kinds
        for hook in getattr(part, kind).values()
    ]
    return sum(not str(getattr(hook, "__module__", "")).startswith("transformers.") for hook in hooks)


def waits_by_kind(page: Any) -> dict[str, list[float]]:
    """Seconds that events of a page wait in the queue from now on, by kind; filled while the page serves."""
    waits: dict[str, list[float]] = defaultdict(list)
    queue = page._queue
    process = queue.process_events

    async def timed(events: list, *args: Any, **options: Any) -> None:
        for event in events:
            kind = event.fn.concurrency_id
            named = kind if kind in ("chat", "long", "load", "api", "export") else "light"
            waits[named].append(time.monotonic() - event.enqueue_time)
        await process(events, *args, **options)

    queue.process_events = timed
    return waits


def spread(values: list[float]) -> str:
    """Median, 95th percentile and largest of some seconds."""
    if not values:
        return "none"
    ordered = sorted(values)
    at = [ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.95)]
    return f"median {at[0]:.2f} s, 95 % {at[1]:.2f} s, most {ordered[-1]:.2f} s, of {len(ordered)}"


def main() -> int:
    top = argparse.ArgumentParser(description=__doc__)
    top.add_argument("--users", type=int, default=50, help="clients of the API")
    top.add_argument("--browsers", type=int, default=3)
    top.add_argument("--minutes", type=float, default=5)
    args = top.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["GRADIO_TEMP_DIR"] = temporary
        return campaign(args.users, args.browsers, 60 * args.minutes, Path(temporary))


def campaign(users: int, browsers: int, seconds: float, folder: Path) -> int:
    """Serve, find out what a single user gets, let the crowd in, and print what came of it."""
    from qformer_viz.cli import app_address, app_setup
    from qformer_viz.cli.commands import app_command
    from qformer_viz.ui import build, launch_options

    args = app_command.app_parser().parse_args([])
    pipe = app_setup.load_placed(args, args.model)
    matcher = app_setup.load_matcher(app_setup.default_matcher(pipe), args)
    services = app_setup.make_context(pipe, matcher, app_setup.bundled_beside(pipe, args))
    page = build(services)
    port = app_address.free_port("127.0.0.1")
    _, url, _ = page.launch(
        **launch_options(services),
        server_port=port,
        quiet=True,
        prevent_thread_lock=True,
    )
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        expected = run(references(url))
        alone = pool.submit(browsers_of, url, 0.0, 1, {}).result()
        print(
            f"alone: {len(expected)} calls, {alone['visits']} visits, trouble: {alone['trouble'] or 'none'}"
        )
        waits, watch = waits_by_kind(page), Watch(folder)
        watch.start()
        until = time.time() + seconds
        calls = pool.submit(api_users, url, until, users, expected)
        visits = pool.submit(browsers_of, url, until, browsers, alone["seen"])
        (tally, times), seen = calls.result(), visits.result()
        watch.ended.set()
    store = page.state_holder
    print(f"crowd: {users} API users and {browsers} browsers for {seconds:.0f} s on {os.cpu_count()} cores")
    print(f"API calls: {dict(sorted(tally.items()))}")
    print(f"a call took: {spread(times)}")
    print(
        f"browsers: {seen['visits']} visits, {len(seen['wrong'])} wrong, trouble: {seen['trouble'] or 'none'}"
    )
    print(f"opening the page took: {spread(seen['opening'])}")
    for kind, values in sorted(waits.items()):
        print(f"waiting in the queue, {kind}: {spread(values)}")
    print(
        f"memory of the server: {watch.memory[0] / 1e6:.0f} MB at first, {max(watch.memory) / 1e6:.0f} MB at most"
    )
    print(f"disk for uploads and results: {max(watch.disk) / 1e6:.1f} MB at most")
    print(f"sessions held: {len(store.session_data)}, {store.held / 1e6:.1f} MB")
    left = hooks_left(pipe.model, matcher.model)
    print(f"hooks left on the models: {left}")
    for each in seen["wrong"][:5]:
        print("wrong:", *each, sep="\n  ")
    page.close()
    failed = [kind for kind in tally if kind not in ("right", "refused, place named")]
    return int(
        bool(failed or seen["wrong"] or seen["trouble"] or left or not tally["right"] or not seen["visits"])
    )


if __name__ == "__main__":
    sys.exit(main())
