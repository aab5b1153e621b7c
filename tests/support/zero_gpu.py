"""python -m tests.support.zero_gpu [--folder DIR]: the app as a ZeroGPU Space runs it, on one's own GPU.

Hugging Face's own `spaces` package (pip install spaces) with a stand-in for the service that lends the GPU: workers are
forked, CUDA is hidden from the process that serves, and everything travels as it does there. What comes back is
compared with the same model on the CPU. DIR: a checkpoint's folder, by default a copy of blip2-emoji, which the app
then takes for one that needs a GPU. Not a test of the suite: it needs a GPU, and torch built for it.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlparse

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "assets/examples/cat-and-dog.png"
QUESTION = "how many objects are there?"
PORT = 7861
ASKED: list[str] = []
"""What was asked of the lender."""


class Lender(BaseHTTPRequestHandler):
    """Answers as ZeroGPU's service does: the GPU is always free."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        path = urlparse(self.path).path
        ASKED.append(path)
        lent = {"idle": False, "nvidiaIndex": 0, "nvidiaUUID": uuid(), "allowToken": "token"}
        body = json.dumps(lent).encode() if path == "/schedule" else b""
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def uuid():
    query = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--within", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.within:
        return within(options.folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Lender)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or shutil.copytree(ROOT / "assets/blip2-emoji", Path(scratch) / "lent")
        env = os.environ | {
            "SPACES_ZERO_GPU": "1",
            "SPACES_ZERO_DEVICE_API_URL": f"http://127.0.0.1:{server.server_port}",
            "ZEROGPU_OFFLOAD_DIR": f"{scratch}/tensors",
            "SYSTEM": "spaces",
        }
        command = [sys.executable, "-m", "tests.support.zero_gpu", "--within", "--folder", str(folder)]
        inside = subprocess.run(command, env=env, cwd=ROOT).returncode
        return inside or served(folder, env)


def within(folder):
    """The library's side: every call of the page, and all explanations, against the CPU."""
    import spaces

    assert spaces.config.Config.zero_gpu

    import qformer_viz
    from qformer_viz import METHODS
    from qformer_viz.analysis.head_ablation import ablate_heads, ablate_query_messages
    from qformer_viz.attribution.explanation import attribute, prepare
    from qformer_viz.errors import QuestionError
    from qformer_viz.runtime.zerogpu import RemotePipeline, zero_gpu

    def seen_and_said(pipe):
        """What one of the two makes of the example: everything that the page may ask for."""
        start = time.perf_counter()
        encoded = pipe.encode(EXAMPLE)
        said = pipe.caption(encoded)
        print(f"{said.text!r} after {time.perf_counter() - start:.2f} s", flush=True)
        *_, streamed = pipe.stream_ask(encoded, QUESTION)
        found = {"maps": encoded.capture.cross_attention, "texts": (said.text, streamed.text)}
        case = prepare(pipe, encoded, said)
        for name in METHODS:
            start = time.perf_counter()
            found[name] = attribute(case, name, words=[1]).scores
            print(f"{name} after {time.perf_counter() - start:.2f} s", flush=True)
        found |= {"heads": ablate_heads(case).cross_layers, "talk": ablate_query_messages(case).queries}
        return encoded, found

    def compare():
        pipe = qformer_viz.load(folder, device="cuda", observe=qformer_viz.capture)
        remote = RemotePipeline(pipe, zero_gpu())
        print("weights wait on", pipe.model.language_projection.weight.device, flush=True)
        encoded, lent = seen_and_said(remote)
        stop, seen = threading.Event(), []
        for answer in remote.stream_ask(encoded, "where is the cat?", stop=stop):
            seen.append(answer)
            stop.set()
        print(f"a stopped stream ended with {seen[-1].finish!r} after {len(seen)}", flush=True)
        try:
            remote.ask(encoded, "word " * 10000)
        except QuestionError as error:
            print("an error that the user reads:", str(error)[:80], flush=True)
        else:
            raise AssertionError("an endless question was answered")
        # Last, for its gradients wake CUDA in this process.
        plain = qformer_viz.load(folder, device="cpu", dtype="float32", observe=qformer_viz.capture)
        _, own = seen_and_said(plain)
        assert lent.pop("texts") == own.pop("texts")
        for name, values in own.items():
            apart = (lent[name] - values).abs().max() / values.abs().max()
            print(f"{name}: {apart:.1e} apart", flush=True)
            assert apart < 0.05, name

    # As in a server: `spaces` imitates a GPU in the first thread alone.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(compare).result()
    return 0


def served(folder, env):
    """The page's side: start the app, and use it through its API."""
    from gradio_client import Client, handle_file

    command = [sys.executable, "app.py", "--model", str(folder), "--port", str(PORT)]
    app = subprocess.Popen([*command, "--offer", "instructblip-emoji"], env=env, cwd=ROOT)
    try:
        client = connected(lambda: Client(f"http://127.0.0.1:{PORT}", verbose=False))
        for name, *asked in (
            ("/caption",),
            ("/ask", QUESTION),
            ("/attention", ""),
            ("/explain", "", "knockout"),
        ):
            start = time.perf_counter()
            found = client.predict(handle_file(str(EXAMPLE)), *asked, api_name=name)
            print(f"{name} after {time.perf_counter() - start:.2f} s: {str(found)[:120]}", flush=True)
        print("the GPU was asked for", ASKED.count("/schedule"), "times;", end=" ")
        print("the start was reported" if "/startup-report" in ASKED else "NO START WAS REPORTED")
        return 0 if "/startup-report" in ASKED else 1
    finally:
        app.terminate()
        app.wait(20)


def connected(connect, seconds=90):
    """What connect() returns, once the app answers."""
    end = time.monotonic() + seconds
    while True:
        try:
            return connect()
        except Exception:
            if time.monotonic() > end:
                raise
            time.sleep(1)


if __name__ == "__main__":
    sys.exit(main())
