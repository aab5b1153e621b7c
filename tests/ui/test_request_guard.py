"""A server of this page refuses addresses, foreign names and floods, tells no paths, and says why."""

import asyncio
import errno
import io
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest
from PIL import Image
from starlette.requests import ClientDisconnect

from qformer_viz.ui.error_reports import addresses
from qformer_viz.ui.request_guard import (
    LOCAL,
    SPACES,
    RequestGuard,
    Rules,
    bypass_proxy,
    headers_for,
    rules_for,
)
from tests.support.serving import call, serve

ROOT = Path(__file__).parents[2]


def png(colour="red"):
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def url():
    with serve("tests.support.serve_fake") as address:
        yield address


@pytest.fixture
def elsewhere():
    """A web server that notes every request."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(png())

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.slow
def test_addresses_are_refused_before_anything_is_fetched(url, elsewhere):
    address, asked = elsewhere
    file = {"path": f"{address}/a.png", "meta": {"_type": "gradio.FileData"}}
    for value in (file, file | {"url": f"{address}/b.png"}):
        reply = call(url, "caption", [value])
        assert not reply["ok"] and "not fetched from web addresses" in reply["text"]
    body = {"data": [file], "fn_index": 0, "session_hash": "x"}
    for name in ("run/caption", "api/caption"):
        httpx.post(f"{url}gradio_api/{name}", json=body)
    httpx.get(f"{url}gradio_api/proxy={address}/c.png")
    httpx.get(f"{url}gradio_api/file={address}/d.png")
    assert asked == []


@pytest.mark.slow
def test_no_address_reaches_gradios_own_download(monkeypatch):
    from gradio import processing_utils

    from qformer_viz import ui
    from tests.support.fakes_ui import fake_services

    fetched = []
    monkeypatch.setattr(processing_utils, "async_ssrf_protected_download", lambda *a, **k: fetched.append(a))

    async def run():
        page = ui.build(fake_services())
        fn = next(fn for fn in page.fns.values() if fn.api_name == "caption")
        file = {"path": "http://example.com/a.png", "meta": {"_type": "gradio.FileData"}}
        with pytest.raises(Exception, match="not fetched"):
            await page.preprocess_data(fn, [file], None)

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    thread.join()
    assert fetched == []


@pytest.mark.parametrize(
    ("value", "count"),
    [
        ({"path": "/tmp/a.png", "url": "http://127.0.0.1:7860/gradio_api/file=/tmp/a.png"}, 0),
        ([{"deep": [{"path": "HTTPS://a/b"}]}, {"path": "ftp://a"}, {"path": "file:///etc/passwd"}], 3),
        ({"path": None, "url": "data:image/png;base64,"}, 0),
        (["http://typed.in/a/question"], 0),
        ({"path": "C:\\pictures\\a.png"}, 0),
    ],
)
def test_addresses_within_values(value, count):
    assert len(list(addresses(value))) == count


@pytest.mark.slow
def test_data_urls_and_uploads_are_taken_as_before(url):
    import base64

    data = "data:image/png;base64," + base64.b64encode(png()).decode()
    assert call(url, "caption", [{"url": data, "meta": {"_type": "gradio.FileData"}}])["ok"]
    files = {"files": ("a.png", png(), "image/png")}
    (path,) = httpx.post(f"{url}gradio_api/upload", files=files).json()
    assert call(url, "caption", [{"path": path, "meta": {"_type": "gradio.FileData"}}])["ok"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "part"),
    [
        (["assets/examples/concert.png"], "handle_file(path)"),
        ([], "which takes: image"),
        ([{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}], "handle_file(path)"),
    ],
)
def test_the_api_gives_the_message_that_the_page_would(url, data, part):
    reply = call(url, "caption", data)
    assert not reply["ok"] and part in reply["text"]
    assert "upstream" not in reply["text"] and '"error": null' not in reply["text"]


@pytest.mark.slow
def test_a_local_server_answers_to_its_own_names_only(url):
    port = httpx.URL(url).port
    for name in ("127.0.0.1", "localhost", "[::1]"):
        assert httpx.get(url, headers={"host": f"{name}:{port}"}).status_code == 200
    for name in ("attacker.example", "127.0.0.1.attacker.example", ""):
        reply = httpx.get(f"{url}config", headers={"host": name})
        assert reply.status_code == 421 and "--host 0.0.0.0" in reply.json()["detail"]
    body = {"data": [None], "fn_index": 0, "session_hash": "x"}
    foreign = httpx.post(
        f"{url}gradio_api/queue/join", json=body, headers={"origin": "https://attacker.example"}
    )
    assert foreign.status_code == 403
    own = httpx.post(f"{url}gradio_api/queue/join", json=body, headers={"origin": url.rstrip("/")})
    assert own.status_code != 403


def test_who_opens_the_host_decides_who_is_let_in():
    assert rules_for("127.0.0.1", {}).names == LOCAL and rules_for("localhost", {}).framed_by == ()
    assert rules_for("0.0.0.0", {}).names is None
    assert rules_for("127.0.0.1", {"GRADIO_ROOT_PATH": "/tools"}).names is None
    assert rules_for("127.0.0.1", {}, share=True).names is None
    assert rules_for("127.0.0.1", {}, names=["lab.example.org"]).names == (*LOCAL, "lab.example.org")
    space = rules_for("0.0.0.0", {"SYSTEM": "spaces"})
    assert space.names is None and space.framed_by == SPACES
    assert "huggingface.co" in headers_for("/", space)["content-security-policy"]


@pytest.mark.slow
def test_config_and_replies_tell_no_paths_and_no_addresses_in_memory(url):
    from gradio.utils import get_upload_folder

    folder = get_upload_folder()
    for text in (
        httpx.get(f"{url}config").text,
        httpx.get(url).text,
        httpx.get(f"{url}gradio_api/info").text,
    ):
        assert not re.search(r"0x[0-9a-f]{6,}", text)
        # What Gradio serves, it serves under the path in its own folder; nothing else of this machine is told.
        rest = text.replace(folder, "")
        assert str(ROOT) not in rest and str(Path.home()) + "/" not in rest and sys.prefix not in rest


@pytest.mark.slow
def test_every_reply_has_the_headers(url):
    files = {
        "files": (
            "a.svg",
            b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>",
            "image/svg+xml",
        )
    }
    (path,) = httpx.post(f"{url}gradio_api/upload", files=files).json()
    for address in (url, f"{url}config", f"{url}gradio_api/file={path}", f"{url}nothing"):
        headers = httpx.get(address).headers
        assert headers["x-content-type-options"] == "nosniff" and "permissions-policy" in headers
        assert "frame-ancestors 'self'" in headers["content-security-policy"]
    served = httpx.get(f"{url}gradio_api/file={path}").headers
    assert (
        "sandbox" in served["content-security-policy"]
        and "default-src 'none'" in served["content-security-policy"]
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", ["proxy=http://a", "vibe-code", "process_recording", "runs", "deep_link?session_hash=x"]
)
def test_what_the_page_does_not_need_is_not_there(url, path):
    assert httpx.get(f"{url}gradio_api/{path}").status_code == 404


@pytest.mark.slow
def test_one_request_brings_few_files_and_few_bytes(url):
    many = [("files", (f"{n}.png", png(), "image/png")) for n in range(900)]
    reply = httpx.post(f"{url}gradio_api/upload", files=many)
    assert reply.status_code == 413 and "At most 32 files" in reply.json()["detail"]
    few = [("files", (f"{n}.png", png(), "image/png")) for n in range(24)]
    assert len(httpx.post(f"{url}gradio_api/upload", files=few).json()) == 24
    body = json.dumps({"data": ["x" * 31 * 2**20], "fn_index": 0, "session_hash": "x"})
    reply = httpx.post(
        f"{url}gradio_api/queue/join", content=body, headers={"content-type": "application/json"}
    )
    assert reply.status_code == 413 and "30 MiB" in reply.json()["detail"]

    def chunks():
        for _ in range(31):
            yield b" " * 2**20

    reply = httpx.post(f"{url}gradio_api/queue/join", content=chunks())
    assert reply.status_code == 413


def asgi(app, path="/gradio_api/upload", method="POST", chunks=(b"",)):
    """(status, body) of one request to an ASGI app behind the guard."""
    sent, waiting = [], list(chunks)

    async def receive():
        return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting)}

    async def send(message):
        sent.append(message)

    headers = [(b"host", b"localhost:1"), (b"content-type", b"multipart/form-data; boundary=edge")]
    scope = {"type": "http", "path": path, "method": method, "headers": headers}
    thread = threading.Thread(target=asyncio.run, args=(RequestGuard(app, Rules())(scope, receive, send),))
    thread.start()
    thread.join()
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


def test_a_full_disk_is_told():
    async def full(scope, receive, send):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    status, body = asgi(full)
    assert status == 507 and b"disk is full" in body


def test_a_mark_across_two_chunks_counts_once():
    counted = []

    async def read(scope, receive, send):
        more = True
        while more:
            more = (await receive())["more_body"]
        counted.append(True)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    one, end = b'--edge\r\nname="files"; filename="a"\r\n\r\nx\r\n', b"--edge--"
    body = one * 32
    for size in (1, 5, 6, 9, 1000):
        chunks = [body[at : at + size] for at in range(0, len(body), size)]
        assert asgi(read, chunks=[*chunks, end])[0] == 200
        assert asgi(read, chunks=[*chunks, one, end])[0] == 413
    assert len(counted) == 5


def test_the_proxy_of_a_network_is_not_asked_for_the_own_server():
    env = {"HTTP_PROXY": "http://proxy:1", "NO_PROXY": "intranet, 10.0.0.1"}
    bypass_proxy("192.168.1.5", env)
    names = env["NO_PROXY"].split(",")
    assert names[:2] == ["intranet", "10.0.0.1"] and {"127.0.0.1", "localhost", "192.168.1.5"} <= set(names)
    assert env["no_proxy"].split(",")[0] == "intranet"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env", "args", "status", "part"),
    [
        ({}, ["--port", "80000"], 2, "port 80000 does not exist"),
        ({"QFORMER_VIZ_PORT": "abc"}, [], 2, "--port"),
        ({"GRADIO_SERVER_PORT": "70000"}, [], 2, "port 70000 does not exist"),
    ],
)
def test_ports_that_are_none_are_told_in_one_line(env, args, status, part):
    found = subprocess.run(
        [sys.executable, "app.py", *args], cwd=ROOT, env=os.environ | env, capture_output=True, text=True
    )
    assert found.returncode == status and part in found.stderr and "Traceback" not in found.stderr


@pytest.mark.parametrize(
    "name", ["[::1", "attacker.example:7860", "localhost.", "[fe80::1]", "127.0.0.1.nip.io"]
)
def test_odd_host_names_are_refused_and_break_nothing(name):
    async def never(scope, receive, send):
        raise AssertionError("it was let in")

    headers = [(b"host", name.encode())]
    assert request(never, headers=headers)[0] == 421
    headers = [(b"host", b"localhost"), (b"origin", f"http://{name}".encode())]
    status, body, _ = request(never, method="POST", headers=headers)
    assert status == 403 and b"--names" in body


def test_names_are_taken_as_an_operator_types_them():
    names = ["Lab.Example.org", "https://lab2.example.org/", "lab3.example.org:8443"]
    rules = rules_for("127.0.0.1", {}, names=names)
    assert rules.names == (*LOCAL, "lab.example.org", "lab2.example.org", "lab3.example.org")


def request(app, path="/", method="GET", headers=((b"host", b"localhost"),), chunks=(b"",), **scope):
    """(status, body, headers) of one request to an ASGI app behind the guard."""
    sent, waiting = [], list(chunks)

    async def receive():
        return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting)}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": path, "method": method, "headers": list(headers)} | scope
    thread = threading.Thread(target=asyncio.run, args=(RequestGuard(app, Rules())(scope, receive, send),))
    thread.start()
    thread.join()
    body = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], body, dict(sent[0]["headers"])


async def reads(scope, receive, send):
    """An app that reads a request to its end."""
    while (await receive())["more_body"]:
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize(
    "path", ["deep_link", "monitoring", "component_server", "custom_component/x/client/a/b"]
)
def test_a_root_path_opens_no_back_door(path):
    for before in ("/tools", "/tools/gradio_api", "", "/gradio_api"):
        assert request(reads, f"{before}/{path}", root_path="/tools")[0] == 404
    file = request(reads, "/tools/gradio_api/file=/a.svg", root_path="/tools")[2]
    assert b"sandbox" in file[b"content-security-policy"]
    many = [b"--edge\r\n"] * 40
    headers = [(b"host", b"localhost"), (b"content-type", b"multipart/form-data; boundary=edge")]
    path = "/tools/gradio_api/upload"
    assert request(reads, path, "POST", headers, many, root_path="/tools")[0] == 413


@pytest.mark.slow
def test_the_old_address_of_a_file_runs_nothing_either(url):
    svg = b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>"
    (path,) = httpx.post(f"{url}gradio_api/upload", files={"files": ("a.svg", svg, "image/svg+xml")}).json()
    served = httpx.get(f"{url}gradio_api/file/{path}")
    assert "sandbox" in served.headers["content-security-policy"]


@pytest.mark.slow
@pytest.mark.parametrize("named", [b'filename ="a"', b'FILENAME="a"', b"filename*=utf-8''a", b"x=y"])
def test_files_are_counted_however_they_are_named(url, named):
    part = b'--edge\r\nContent-Disposition: form-data; name="files"; ' + named + b"\r\n\r\nx\r\n"
    reply = httpx.post(
        f"{url}gradio_api/upload",
        content=part * 40 + b"--edge--\r\n",
        headers={"content-type": "multipart/form-data; boundary=edge"},
    )
    assert reply.status_code == 413 and "At most 32 files" in reply.json()["detail"]


@pytest.mark.slow
def test_an_upload_that_cannot_be_read_is_told_so(url):
    part = b'--edge\r\nContent-Disposition: form-data; name="files"\r\n\r\nx\r\n--edge--\r\n'
    headers = {"content-type": "multipart/form-data; boundary=edge"}
    reply = httpx.post(f"{url}gradio_api/upload", content=part, headers=headers)
    assert reply.status_code == 400 and "named files" in reply.json()["detail"]


@pytest.mark.slow
@pytest.mark.parametrize("unit", [b"[],", b"1,", b'{"path":"a"},', b"[" * 100 + b"]" * 100 + b","])
def test_a_request_of_millions_of_values_is_refused_before_it_is_read(url, unit):
    body = b'{"data":[' + unit * (3_000_000 // len(unit)) + b"1]}"
    reply = httpx.post(
        f"{url}gradio_api/call/caption", content=body, headers={"content-type": "application/json"}
    )
    assert reply.status_code == 413 and "values are taken at once" in reply.json()["detail"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("call/nothing", {"data": []}),
        ("call/v2/nothing", {}),
        ("call/v2/caption", {"picture": 1}),
        ("run/nothing", {"data": []}),
        ("queue/join", {"data": [], "fn_index": 10**9, "session_hash": "x"}),
    ],
)
def test_a_request_for_nothing_is_told_what_there_is(url, name, body):
    reply = httpx.post(f"{url}gradio_api/{name}", json=body)
    assert reply.status_code == 422 and "/gradio_api/info" in reply.json()["detail"]
    assert reply.headers["x-content-type-options"] == "nosniff"


def test_a_defect_of_the_server_is_logged_and_told_by_its_reference(caplog):
    async def defect(scope, receive, send):
        raise ZeroDivisionError("planted")

    status, body, headers = request(defect, "/config")
    reference = re.search(rb"logged on the server as (\w+)", body)[1].decode()
    assert status == 500 and b"planted" not in body and b"content-security-policy" in headers
    assert reference in caplog.text and "ZeroDivisionError: planted" in caplog.text


@pytest.mark.parametrize(
    ("code", "part"), [(errno.EROFS, b"may not be written"), (errno.EDQUOT, b"disk is full")]
)
def test_a_folder_that_cannot_be_written_is_told(code, part):
    async def fails(scope, receive, send):
        raise OSError(code, os.strerror(code))

    status, body, _ = request(fails, "/gradio_api/upload", "POST")
    assert status == 507 and part in body


def test_the_folder_is_looked_at_after_a_refused_or_broken_upload_too():
    called = []

    async def fails(scope, receive, send):
        raise ClientDisconnect

    async def receive():
        return {"type": "http.request", "body": b"x" * 99, "more_body": False}

    async def send(message):
        pass

    scope = {
        "type": "http",
        "path": "/gradio_api/upload",
        "method": "POST",
        "headers": [(b"host", b"localhost")],
    }
    for app, rules in ((fails, Rules()), (reads, Rules(upload_bytes=9))):
        guard = RequestGuard(app, rules, called.append)
        thread = threading.Thread(target=asyncio.run, args=(guard(scope, receive, send),))
        thread.start()
        thread.join()
    assert called == [set(), set()]


@pytest.mark.slow
def test_addresses_are_found_however_deep():
    value = {"path": "http://a/b"}
    for _ in range(100_000):
        value = [value]
    assert list(addresses(value)) == ["http://a/b"]


@pytest.mark.slow
def test_an_address_of_ipv6_is_listened_on():
    from qformer_viz import ui
    from tests.support.fakes_ui import fake_services

    assert ui.launch_options(fake_services(), "::1")["server_name"] == "[::1]"
    assert ui.launch_options(fake_services(), "127.0.0.1")["server_name"] == "127.0.0.1"
    assert rules_for("::1", {}).names == LOCAL
