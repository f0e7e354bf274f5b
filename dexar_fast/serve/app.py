"""The service's endpoints."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from importlib import resources
from io import BytesIO
from typing import Any, TypeVar
from urllib.parse import urlsplit

from fastapi import FastAPI, Request, Response
from fastapi.sse import EventSourceResponse, format_sse_event
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from .. import __version__
from ..demo.scenes import draw_scene
from ..errors import DexarFastError, InputError, UnsupportedModelError
from ..explainer import Explainer
from ..render.drawing import for_script
from ..result.explanation import Explanation
from ..runs.stream import StreamedToken
from .answers import answer_json, error_json, token_json
from .body import read_body
from .jobs import Jobs
from .limits import Limits
from .line import FullError
from .metrics import Counted, Metrics
from .question import Fields, Question

T = TypeVar("T")

PING_SECONDS = 15.0
"""A stream says at least this often that it is alive: proxies cut silent connections."""
GONE = 499
"""The status, for the counts alone, of a request whose client went away."""
SCENE_SCALE = 4
_LARGEST_SEED = 1 << 31
_PAGE = {
    "/": ("serve", "page.html", "text/html"),
    "/page.js": ("serve", "page.js", "text/javascript"),
    "/page.css": ("serve", "page.css", "text/css"),
    "/maps.js": ("render", "maps.js", "text/javascript"),  # maps look as in a report
}
_POLICY = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_FORMS: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": Fields.model_json_schema()}, "multipart/form-data": {}},
    }
}
_LOG = logging.getLogger("dexar_fast.serve")


class GoneError(Exception):
    """The client went away."""


def create_app(explainer: Explainer, limits: Limits | None = None, *, hosts: Sequence[str] = ("*",)) -> FastAPI:
    """The service as an ASGI application, for one model in one process.

    Args:
        explainer: with a processor.
        limits: what one client may ask.
        hosts: names under which clients may call it; others are refused, as those of pages that bend a name of theirs
            to this machine.

    Raises:
        InputError: the explainer has no processor.
    """
    if explainer.processor is None:
        raise InputError("explainer: expected one with a processor, which reads pictures and prompts")
    limits = limits or Limits()
    jobs = Jobs(limits)
    metrics = Metrics(jobs.line)
    app = FastAPI(title="dexar-fast", version=__version__, docs_url=None, redoc_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    app.add_middleware(Counted, metrics=metrics)

    async def asked(request: Request, *, stream: bool = False) -> Question:
        _refuse_other_sites(request)
        jobs.line.require_place()  # before anything is read
        return Question(await read_body(request, limits), explainer, limits, stream=stream)

    @app.post("/explain", openapi_extra=_FORMS)
    async def explain(request: Request) -> Response:
        """Which part of the image made the model write each word of its answer."""
        question = await asked(request)

        def finish(explanation: Explanation) -> bytes:
            metrics.tokens.inc(len(explanation.tokens))
            return answer_json(explanation, question.maps)

        start = time.monotonic()
        async with asyncio.timeout(limits.seconds):
            answer = await _unless_gone(request, jobs.explain(question, finish))
        metrics.seconds.labels("/explain").observe(time.monotonic() - start)
        return Response(answer, media_type="application/json")

    @app.post("/stream", openapi_extra=_FORMS)
    async def stream(request: Request) -> Response:
        """Each token with its maps while the model writes (events `token`), then the whole answer (`done`)."""
        question = await asked(request, stream=True)
        events: asyncio.Queue[tuple[str, bytes] | Exception] = asyncio.Queue()  # bounded by the answer's length

        def give(token: StreamedToken) -> None:
            events.put_nowait(("token", token_json(token, question.maps)))

        async def work() -> None:
            start = time.monotonic()
            try:
                async with asyncio.timeout(limits.seconds):
                    explanation = await jobs.stream(question, lambda: events.put_nowait(("opened", b"")), give)
                metrics.tokens.inc(len(explanation.tokens))
                metrics.seconds.labels("/stream").observe(time.monotonic() - start)
                events.put_nowait(("done", await asyncio.to_thread(answer_json, explanation, question.maps)))
            except Exception as error:
                events.put_nowait(error)

        working = asyncio.create_task(work())
        try:
            first = await _unless_gone(request, events.get())
            if isinstance(first, Exception):
                raise first  # nothing was sent yet: it has a status
        except BaseException:
            working.cancel()
            raise
        return EventSourceResponse(_sent(events, working), headers={"Cache-Control": "no-store"})

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """That the server is alive, and what it serves."""
        line = jobs.line
        return {"status": "ok", "model": explainer.model_name, "version": __version__, "waiting": line.waiting,
                "busy": line.busy, "queue": limits.queue, "max_new_tokens": limits.most_tokens}  # fmt: skip

    @app.get("/metrics")
    async def counts() -> Response:
        """Counts for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/scene.png")
    def scene(seed: int = 0) -> Response:
        """A drawn scene, such as the embedded model knows."""
        file = BytesIO()
        draw_scene(abs(seed) % _LARGEST_SEED, scale=SCENE_SCALE).image.save(file, "PNG")
        return Response(file.getvalue(), media_type="image/png")

    for path, (room, name, kind) in _PAGE.items():
        _add_file(app, path, resources.files(f"dexar_fast.{room}").joinpath("assets", name).read_bytes(), kind)
    _add_file(app, "/drawing.json", json.dumps(for_script()).encode(), "application/json")

    _answer_errors(app)
    return app


async def _sent(
    events: asyncio.Queue[tuple[str, bytes] | Exception], working: asyncio.Task[None]
) -> AsyncIterator[bytes]:
    """The events as they go out; the work ends with them."""
    try:
        while True:
            try:
                event = await asyncio.wait_for(events.get(), PING_SECONDS)
            except TimeoutError:
                yield format_sse_event(comment="ping")
                continue
            if isinstance(event, Exception):
                yield format_sse_event(event="error", data_str=error_json(_told(event)).decode())
                return
            yield format_sse_event(event=event[0], data_str=event[1].decode())
            if event[0] == "done":
                return
    finally:
        working.cancel()


async def _unless_gone(request: Request, work: Awaitable[T]) -> T:
    """What the work gives; it is cancelled when the client goes away.

    Raises:
        GoneError: that happened.
    """

    async def wait_for_the_end() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working = asyncio.ensure_future(work)
    tasks = working, asyncio.create_task(wait_for_the_end())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise GoneError
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def _refuse_other_sites(request: Request) -> None:
    """A page of another site may send forms to this server, and must not keep it busy.

    Raises:
        HTTPException: 403.
    """
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise HTTPException(403, "origin: requests from pages of other sites are refused")


def _told(error: Exception) -> Exception:
    """The error as clients may read it: what nobody foresaw may hold anything, and goes to the log alone."""
    if isinstance(error, TimeoutError):
        return TimeoutError("the answer took too long; ask for fewer tokens or send a smaller picture")
    if isinstance(error, DexarFastError | FullError | HTTPException):
        return error
    _LOG.error("unexpected error", exc_info=error)
    return RuntimeError("internal error; the server's log has the details")


def _answer_errors(app: FastAPI) -> None:
    """Every error as JSON, with the status that says whose it is."""

    def answer(status: int, error: Exception, headers: dict[str, str] | None = None) -> Response:
        return Response(error_json(error), status, headers, "application/json")

    @app.exception_handler(DexarFastError)
    async def ours(request: Request, error: DexarFastError) -> Response:
        return answer(422 if isinstance(error, InputError | UnsupportedModelError) else 500, error)

    @app.exception_handler(FullError)
    async def full(request: Request, error: FullError) -> Response:
        return answer(503, error, {"Retry-After": str(error.retry_after)})

    @app.exception_handler(TimeoutError)
    async def late(request: Request, error: TimeoutError) -> Response:
        return answer(504, _told(error))

    @app.exception_handler(GoneError)
    async def gone(request: Request, error: GoneError) -> Response:
        return Response(status_code=GONE)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        return answer(error.status_code, InputError(error.detail), dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> Response:
        return answer(500, _told(error))


def _add_file(app: FastAPI, path: str, content: bytes, kind: str) -> None:
    @app.get(path, include_in_schema=False)
    async def file() -> Response:
        return Response(content, media_type=kind, headers=_POLICY)
