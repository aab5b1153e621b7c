"""Start a server of this repository in a process of its own, wait until it answers, and call it by hand."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 180  # a shared machine under load


@contextmanager
def serve(*command: str) -> Iterator[str]:
    """Yield the address that `python -m command...` prints; end the process afterwards."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said: list[str] = []
    found = threading.Event()

    def listen() -> None:
        for line in process.stdout:
            said.append(line)
            if "http://" in line:
                found.set()
        found.set()

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        assert found.wait(SECONDS), f"no address within {SECONDS} s:\n{''.join(said)}"
        address = re.search(r"http://[\w.:]+", "".join(said))
        assert address, f"the server ended:\n{''.join(said)}"
        yield address.group() + "/"
    finally:
        process.terminate()
        process.wait(30)
        listener.join(10)
        process.stdout.close()


def call(url: str, name: str, data: list) -> dict:
    """One queued call as a hand-written client would send it; ok says whether it completed."""
    begin = httpx.post(f"{url}gradio_api/call/{name}", json={"data": data}, timeout=60)
    if begin.status_code != 200:
        return {"ok": False, "text": begin.text}
    text = httpx.get(f"{url}gradio_api/call/{name}/{begin.json()['event_id']}", timeout=60).text
    assert "event:" in text, text
    return {"ok": "event: complete" in text, "text": text}
