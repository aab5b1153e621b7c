"""What a request must be before Gradio sees it, and the headers that every reply gets."""

import errno
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

API = "/gradio_api"
UNUSED = (
    "/deep_link",
    "/dev/",
    "/monitoring",
    "/process_recording",
    "/profiling/",
    "/proxy=",
    "/pwa_icon",
    "/run-history",
    "/runs",
    "/stream/",
    "/undo-vibe-edit",
    "/vibe-",
)
"""Beginnings of Gradio's addresses that this page has no use for, some of which write files or fetch addresses."""
LOCAL = ("127.0.0.1", "localhost", "::1")
SPACES = ("https://huggingface.co", "https://*.hf.space", "https://*.huggingface.co")


@dataclass(frozen=True)
class Rules:
    """`names`: the host names that this server answers to, None for any; `framed_by`: sites that may show it in a
    frame; `request_bytes`: most of one request; `upload_bytes`, `upload_files`: most of one request that uploads."""

    names: tuple[str, ...] | None = LOCAL
    framed_by: tuple[str, ...] = ()
    request_bytes: int = 30 * 2**20
    upload_bytes: int = 200 * 2**20
    upload_files: int = 32


def rules_for(host: str, env: Mapping[str, str], share: bool = False, names: Sequence[str] = ()) -> Rules:
    """The rules of a server that listens on a host.

    A server that listens on this machine only answers to this machine's names only, so that a foreign page cannot talk
    to it under a name of its own (DNS rebinding), and to the `names` under which a proxy of its operator serves it. Who
    opens the host, or is on a Space, decides there.
    """
    opened = share or host not in LOCAL or bool(env.get("GRADIO_ROOT_PATH")) or env.get("SYSTEM") == "spaces"
    return Rules(
        names=None if opened else (*LOCAL, *names), framed_by=SPACES if env.get("SYSTEM") == "spaces" else ()
    )


class Refused(Exception):
    """A request that is not passed on: an HTTP status and a line for whoever sent it."""

    def __init__(self, status: int, message: str) -> None:
        self.status, self.message = status, message
        super().__init__(message)


class RequestGuard:
    """ASGI middleware: refuses what the rules do not allow and adds headers to every reply. `written` is called after
    every request that may have left a file."""

    def __init__(self, app: ASGIApp, rules: Rules, written: Callable[[], None] = lambda: None) -> None:
        self.app, self.rules, self.written = app, rules, written

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refused: Refused | None = None
        began = False

        async def headed(message: Message) -> None:
            nonlocal began
            if refused is not None and not began:
                return  # what the app makes of a request that broke off
            if message["type"] == "http.response.start":
                began = True
                MutableHeaders(scope=message).update(headers_for(scope["path"], self.rules))
            await send(message)

        next_part = counted(scope, receive, self.rules)

        async def taken() -> Message:
            nonlocal refused
            try:
                return await next_part()
            except Refused as error:
                refused = error
                raise

        try:
            check(scope, self.rules)
            await self.app(scope, taken, headed)
        except Refused as error:
            refused = error
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            refused = Refused(507, "The server's disk is full. Tell whoever runs it, or try again later.")
        if refused is not None and not began:
            body = json.dumps({"detail": refused.message, "error": refused.message})
            reply = PlainTextResponse(body, refused.status, media_type="application/json")
            reply.headers.update(headers_for(scope["path"], self.rules))
            await reply(scope, receive, send)
        elif scope["method"] == "POST":
            self.written()


def check(scope: Scope, rules: Rules) -> None:
    """Raises Refused for an address nobody needs, another host's name, or another site's page."""
    path, headers = scope["path"], Headers(scope=scope)
    short = path.removeprefix(API)
    if short.startswith(UNUSED):
        raise Refused(404, "There is nothing at this address.")
    if rules.names is None:
        return
    host = urlsplit(f"//{headers.get('host', '')}").hostname
    if host not in rules.names:
        raise Refused(
            421,
            f"This server listens on this machine only and answers to {', '.join(rules.names)}. To let others in, "
            "start it with --host 0.0.0.0, or behind a proxy with --names and the proxy's host name.",
        )
    origin = headers.get("origin")
    if origin and scope["method"] not in ("GET", "HEAD") and urlsplit(origin).hostname not in rules.names:
        raise Refused(403, "This server takes requests from its own page only.")


def counted(scope: Scope, receive: Receive, rules: Rules) -> Receive:
    """`receive` that raises Refused once a request is larger, or brings more files, than the rules allow."""
    uploads = scope["path"].removeprefix(API).startswith("/upload") and scope["method"] == "POST"
    most = rules.upload_bytes if uploads else rules.request_bytes
    total, files, tail = 0, 0, b""
    mark = b"filename="

    def too_large() -> Refused:
        return Refused(413, f"This request is too large; at most {most / 2**20:.0f} MiB are taken at once.")

    async def receive_counted() -> Message:
        nonlocal total, files, tail
        message = await receive()
        body = message.get("body", b"")
        total += len(body)
        if total > most:
            raise too_large()
        if uploads:
            # A mark may lie across two chunks; what is kept is too short to hold a whole one again.
            files += (tail + body).count(mark)
            tail = (tail + body)[-(len(mark) - 1) :]
            if files > rules.upload_files:
                raise Refused(413, f"At most {rules.upload_files} files are taken at once. Send fewer.")
        return message

    return receive_counted


def headers_for(path: str, rules: Rules) -> dict[str, str]:
    """Headers that every reply gets. A file of a visitor's may be shown as a picture and runs nothing."""
    ancestors = " ".join(("'self'", *rules.framed_by))
    policy = f"frame-ancestors {ancestors}; object-src 'none'; base-uri 'self'; form-action 'self'"
    if path.removeprefix(API).startswith("/file="):
        policy = f"default-src 'none'; style-src 'unsafe-inline'; sandbox; frame-ancestors {ancestors}"
    return {
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "same-origin",
        "permissions-policy": "camera=(self), geolocation=(), microphone=(), payment=(), usb=()",
    }


def addresses(value: Any) -> Iterable[str]:
    """Web addresses that Gradio would fetch for the values of a request: the paths of files that are none."""
    if isinstance(value, Mapping):
        path = value.get("path")
        if isinstance(path, str) and "://" in path[:40]:
            yield path
        for each in value.values():
            yield from addresses(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from addresses(each)


def bypass_proxy(host: str, env: dict[str, str] | None = None) -> None:
    """Let this program reach its own server without the proxy of the network (HTTP_PROXY), as Gradio does at start."""
    env = os.environ if env is None else env  # type: ignore[assignment]
    own = [*LOCAL, *([host] if host not in (*LOCAL, "0.0.0.0", "::") else [])]
    for name in ("NO_PROXY", "no_proxy"):
        known = [each.strip() for each in env.get(name, env.get("NO_PROXY", "")).split(",") if each.strip()]
        env[name] = ",".join(dict.fromkeys([*known, *own]))
