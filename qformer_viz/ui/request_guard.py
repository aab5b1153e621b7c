"""What a request must be before Gradio sees it, and the headers that every reply gets."""

import errno
import json
import logging
import os
from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qformer_viz.ui.error_reports import logged

log = logging.getLogger("qformer_viz")

API = "/gradio_api"
UNUSED = (
    "/component_server",
    "/custom_component",
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
ENDPOINTS = ("/call/", "/run/", "/api/", "/queue/join")
"""Beginnings of the addresses at which work is asked for. The work itself is done later, by the queue."""
NOT_WRITTEN = {
    errno.ENOSPC: "disk is full",
    errno.EDQUOT: "disk is full",
    errno.EACCES: "folder for files may not be written to",
    errno.EPERM: "folder for files may not be written to",
    errno.EROFS: "folder for files may not be written to",
}


@dataclass(frozen=True)
class Rules:
    """`names`: the host names that this server answers to, None for any; `framed_by`: sites that may show it in a
    frame; `request_bytes`, `request_values`: most of one request; `upload_bytes`, `upload_files`: most of one request
    that uploads."""

    names: tuple[str, ...] | None = LOCAL
    framed_by: tuple[str, ...] = ()
    request_bytes: int = 30 * 2**20
    request_values: int = 200_000
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
        names=None if opened else (*LOCAL, *map(host_name, names)),
        framed_by=SPACES if env.get("SYSTEM") == "spaces" else (),
    )


def host_name(text: str) -> str:
    """The host within a name or an address as an operator types it, in small letters."""
    return hostname(text if "//" in text else f"//{text}") or text.lower()


def hostname(address: str) -> str | None:
    """The host of an address, None for what is no address."""
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


class Refused(Exception):
    """A request that is not passed on: an HTTP status and a line for whoever sent it."""

    def __init__(self, status: int, message: str) -> None:
        self.status, self.message = status, message
        super().__init__(message)


class RequestGuard:
    """ASGI middleware: refuses what the rules do not allow and adds headers to every reply. `written` is called after
    every request that may have left a file, with the files that the page itself shows."""

    def __init__(
        self, app: ASGIApp, rules: Rules, written: Callable[[Collection[str]], None] = lambda kept: None
    ) -> None:
        self.app, self.rules, self.written = app, rules, written

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refused: Refused | None = None
        began = False
        headers = headers_for(address(scope), self.rules)

        async def headed(message: Message) -> None:
            nonlocal began
            if refused is not None and not began:
                return  # what the app makes of a request that broke off
            if message["type"] == "http.response.start":
                began = True
                MutableHeaders(scope=message).update(headers)
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
        except ClientDisconnect:
            began = True  # there is nobody to reply to
        except Exception as error:
            if began:
                raise
            refused = refused or broken(scope, error)
        if refused is not None and not began:
            body = json.dumps({"detail": refused.message, "error": refused.message})
            reply = PlainTextResponse(body, refused.status, headers, media_type="application/json")
            await reply(scope, receive, send)
        if scope["method"] == "POST":
            self.written(shown(scope))


def address(scope: Scope) -> str:
    """The path of a request as Gradio's routes see it, without the operator's root path, nor the prefix of the API."""
    path, root = scope["path"], scope.get("root_path", "")
    if root and path.startswith(f"{root}/"):
        path = path.removeprefix(root)
    return path.removeprefix(API)


def shown(scope: Scope) -> set[str]:
    """The files that the page shows everybody, such as its example pictures."""
    app = scope.get("app")
    blocks = app.get_blocks().blocks.values() if app is not None else ()
    return {path for block in blocks for path in block.keep_in_cache}


def check(scope: Scope, rules: Rules) -> None:
    """Raises Refused for an address nobody needs, another host's name, or another site's page."""
    headers = Headers(scope=scope)
    if address(scope).startswith(UNUSED):
        raise Refused(404, "There is nothing at this address.")
    if rules.names is None:
        return
    if hostname(f"//{headers.get('host', '')}") not in rules.names:
        raise Refused(
            421,
            f"This server listens on this machine only and answers to {', '.join(rules.names)}. To let others in, "
            "start it with --host 0.0.0.0, or behind a proxy with --names and the proxy's host name.",
        )
    origin = headers.get("origin")
    if origin and scope["method"] not in ("GET", "HEAD") and hostname(origin) not in rules.names:
        raise Refused(
            403,
            "This server takes requests from its own page only. Behind a proxy, start it with --names and the proxy's "
            "host name.",
        )


def broken(scope: Scope, error: Exception) -> Refused:
    """What to say of a request on which the app broke off, before any work was done for it."""
    short = address(scope)
    if isinstance(error, OSError) and error.errno in NOT_WRITTEN:
        log.error("the %s", NOT_WRITTEN[error.errno], exc_info=error)
        return Refused(
            507, f"The server's {NOT_WRITTEN[error.errno]}. Tell whoever runs it, or try again later."
        )
    if short.startswith(ENDPOINTS):
        log.warning("a request did not fit %s", short, exc_info=error)
        return Refused(
            422,
            f"There is no such endpoint, or it takes other values: see {API}/info for what each one takes.",
        )
    if short.startswith("/upload"):
        log.warning("an upload could not be read", exc_info=error)
        return Refused(
            400, "The upload cannot be read. Send each file as a part named files, with a filename."
        )
    return Refused(500, logged(error, f"{scope['method']} {short}"))


def counted(scope: Scope, receive: Receive, rules: Rules) -> Receive:
    """`receive` that raises Refused once a request is larger, or brings more files or values, than the rules allow."""
    uploads = address(scope).startswith("/upload") and scope["method"] == "POST"
    most = rules.upload_bytes if uploads else rules.request_bytes
    total, parts, values, tail = 0, 0, 0, b""
    # Parts are counted by what divides them: a file's name can be written in many ways.
    _, options = parse_options_header(Headers(scope=scope).get("content-type", ""))
    mark = b"--" + options.get(b"boundary", b"")

    async def receive_counted() -> Message:
        nonlocal total, parts, values, tail
        message = await receive()
        body = message.get("body", b"")
        total += len(body)
        if total > most:
            raise Refused(
                413, f"This request is too large; at most {most / 2**20:.0f} MiB are taken at once."
            )
        if uploads:
            # A mark may lie across two chunks; what is kept is too short to hold a whole one again.
            parts += (tail + body).count(mark)
            tail = (tail + body)[-(len(mark) - 1) :]
            if parts > rules.upload_files + 1:  # the last one ends the request
                raise Refused(413, f"At most {rules.upload_files} files are taken at once. Send fewer.")
        else:
            # Gradio reads and copies the values in the one thread that serves all: millions would stop everybody.
            values += sum(map(body.count, (b",", b"[", b"{")))
            if values > rules.request_values:
                raise Refused(413, f"At most {rules.request_values} values are taken at once. Send fewer.")
        return message

    return receive_counted


def headers_for(short: str, rules: Rules) -> dict[str, str]:
    """Headers of every reply from an address. A file of a visitor's may be shown as a picture and runs nothing."""
    ancestors = " ".join(("'self'", *rules.framed_by))
    policy = f"frame-ancestors {ancestors}; object-src 'none'; base-uri 'self'; form-action 'self'"
    if short.startswith(("/file=", "/file/")):
        policy = f"default-src 'none'; style-src 'unsafe-inline'; sandbox; frame-ancestors {ancestors}"
    return {
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "same-origin",
        "permissions-policy": "camera=(self), geolocation=(), microphone=(), payment=(), usb=()",
    }


def bypass_proxy(host: str, env: MutableMapping[str, str] | None = None) -> None:
    """Let this program reach its own server without the proxy of the network (HTTP_PROXY), as Gradio does at start."""
    env = os.environ if env is None else env
    own = [*LOCAL, *([host] if host not in (*LOCAL, "0.0.0.0", "::") else [])]
    for name in ("NO_PROXY", "no_proxy"):
        known = [each.strip() for each in env.get(name, env.get("NO_PROXY", "")).split(",") if each.strip()]
        env[name] = ",".join(dict.fromkeys([*known, *own]))
