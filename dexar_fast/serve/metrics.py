"""Counts for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .line import Line

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """Of one server."""

    def __init__(self, line: Line) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "dexar_requests", "Requests by path and status; 499: the client went away", ["path", "status"],
            registry=self._registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "dexar_request_seconds", "From a complete request to its answer", ["path"], buckets=SECONDS,
            registry=self._registry,
        )  # fmt: skip
        self.tokens = Counter("dexar_tokens", "Explained tokens", registry=self._registry)
        waiting = Gauge("dexar_waiting", "Requests that wait for the model", registry=self._registry)
        waiting.set_function(lambda: line.waiting)
        busy = Gauge("dexar_busy", "Whether the model works", registry=self._registry)
        busy.set_function(lambda: float(line.busy))

    def text(self) -> bytes:
        """In Prometheus' format."""
        return generate_latest(self._registry)


class Counted:
    """Middleware that counts every response."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                path = getattr(scope.get("route"), "path", "other")  # never what a client made up
                self.metrics.requests.labels(path, str(message["status"])).inc()
            await send(message)

        await self.app(scope, receive, counting)
