"""Serve until stopped."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Sequence

import uvicorn

from ..errors import InputError
from ..explainer import Explainer
from .app import create_app
from .limits import Limits

CONNECTIONS = 256
"""More at once are refused."""
LOOPBACK = "127.0.0.1", "localhost", "[::1]"
_GRACE_SECONDS = 10


def run(
    explainer: Explainer,
    host: str = "127.0.0.1",
    port: int = 8000,
    limits: Limits | None = None,
    *,
    hosts: Sequence[str] = (),
    ready: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve a model until SIGINT or SIGTERM.

    Args:
        explainer: the model.
        host: address to listen at; the default is reached from this machine alone.
        port: 0 takes a free one.
        limits: what one client may ask.
        hosts: names under which clients may call; by default those of this machine on loopback, and any elsewhere.
        ready: called with the server's address when it listens.

    Raises:
        InputError: the explainer has no processor, or nothing can listen at this address.
    """
    limits = limits or Limits()
    names = hosts or (LOOPBACK if _is_loopback(host) else ("*",))
    app = create_app(explainer, limits, hosts=names)
    with _listening(host, port, limits.transfer_seconds) as sock:
        ready(f"http://{f'[{host}]' if ':' in host else host}:{sock.getsockname()[1]}")
        config = uvicorn.Config(
            app,
            log_level="warning",
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=_GRACE_SECONDS,
            server_header=False,
        )
        uvicorn.Server(config).run(sockets=[sock])


def _listening(host: str, port: int, seconds: float) -> socket.socket:
    """A socket whose connections end when the other side takes nothing for so long.

    Raises:
        InputError: it cannot be had.
    """
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; elsewhere a client that reads nothing keeps its connection
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))
        sock.bind((host, port))
        sock.listen(CONNECTIONS)
    except (OSError, OverflowError) as error:
        sock.close()
        raise InputError(f"host, port: cannot listen at {host}:{port} ({error})") from error
    return sock


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
