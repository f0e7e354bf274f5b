"""A real server in a thread, and small clients for it."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import uvicorn
from PIL import Image

from dexar_fast import Explainer
from dexar_fast.serve import Limits, create_app
from dexar_fast.serve.run import _listening

PATIENCE = 60  # seconds, for what comes at once if it comes at all


@dataclass
class Reply:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        return str(self.json["error"]["message"])


@dataclass
class Served:
    """Where a server listens, and what tests ask of it."""

    port: int

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Reply:
        connection = self.connect()
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            response = connection.getresponse()
            return Reply(response.status, response.headers, response.read())
        finally:
            connection.close()

    def get(self, path: str) -> Reply:
        return self.ask("GET", path)

    def post(self, path: str, **fields: Any) -> Reply:
        return self.ask("POST", path, json.dumps(fields).encode(), content_type="application/json")

    def count(self, path: str, status: int) -> float:
        """What the metrics say."""
        name = f'dexar_requests_total{{path="{path}",status="{status}"}} '
        lines = self.get("/metrics").body.decode().splitlines()
        return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))

    def until(self, **expected: Any) -> None:
        """Wait until /health says so."""
        last = time.monotonic() + PATIENCE
        while not expected.items() <= self.get("/health").json.items():
            assert time.monotonic() < last, f"never {expected}"
            time.sleep(0.01)


@contextmanager
def serving(explainer: Explainer, limits: Limits) -> Iterator[Served]:
    """The server while the block runs; at its end no thread of it may be left."""
    with _listening("127.0.0.1", 0, limits.transfer_seconds) as sock:
        app = create_app(explainer, limits, hosts=["127.0.0.1"])
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=5))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
        thread.start()
        yield Served(sock.getsockname()[1])
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive()


def png(image: Image.Image) -> bytes:
    """The picture as the bytes of a file."""
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def form(*parts: tuple[str, bytes]) -> tuple[bytes, str]:
    """The body and the content type of a form; ``image`` is sent as a file."""
    body = b"".join(
        b'--cut\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n'
        % (name.encode(), b'; filename="../x"' if name == "image" else b"", value)
        for name, value in parts
    )
    return body + b"--cut--\r\n", "multipart/form-data; boundary=cut"


def events(body: bytes) -> list[tuple[str, Any]]:
    """Names and data of server-sent events."""
    found = []
    for block in body.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "event" in fields:
            found.append((fields["event"], json.loads(fields["data"])))
    return found
