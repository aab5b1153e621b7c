"""The address that the page is served at."""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Mapping

FIRST_PORT, PORTS = 7860, 20  # as Gradio; GRADIO_NUM_PORTS


def port_number(text: str) -> int:
    """A port from what was typed."""
    number = int(text)
    if not 1 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"port {number} does not exist; choose one from 1 to 65535")
    return number


def open_host(env: Mapping[str, str]) -> str:
    """This machine alone, unless it is a Space, whose page is reached from outside only."""
    return env.get("GRADIO_SERVER_NAME") or ("0.0.0.0" if env.get("SYSTEM") == "spaces" else "127.0.0.1")


def free_port(host: str) -> int:
    """The first port from 7860 that nothing listens on."""
    given = os.environ.get("GRADIO_NUM_PORTS", "")
    last = min(FIRST_PORT + (int(given) if given.isdigit() and int(given) else PORTS) - 1, 65535)
    for port in range(FIRST_PORT, last + 1):
        if is_free(host, port):
            return port
    raise SystemExit(f"error: ports {FIRST_PORT} to {last} are in use. Choose one with --port.")


def is_free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
