"""The server as an ASGI application, for uvicorn, Ray Serve or others: `/`, `/stream`, `/healthz` and `/metrics`."""

import asyncio
import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from ivggt_jax.serve.service import Service
from ivggt_jax.serve.session import FAILED, CutOff, Session, serve_client

PAGE = Path(__file__).with_name("page.html")
PAGE_MAY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:"
)
"""Content security policy: the page loads nothing from elsewhere."""


def create_application(service: Service) -> Starlette:
    """The application. On startup it compiles the model; it is ready afterwards."""
    sessions: set[Session] = set()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()

        def end_all() -> None:
            for session in sessions:
                session.end(CutOff("failed", "the server has failed", FAILED))

        service.worker.on_failure = partial(loop.call_soon_threadsafe, end_all)
        await asyncio.to_thread(service.worker.start)
        try:
            yield
        finally:
            await asyncio.to_thread(service.worker.stop)
            service.threads.shutdown(wait=False, cancel_futures=True)

    async def stream(socket: WebSocket) -> None:
        await serve_client(socket, service, sessions)

    async def page(_: Request) -> Response:
        return FileResponse(PAGE, headers={"Content-Security-Policy": PAGE_MAY})

    async def healthz(_: Request) -> Response:
        failed = service.worker.failed
        return PlainTextResponse("failed\n", 503) if failed else PlainTextResponse("ok\n")

    async def metrics(request: Request) -> Response:
        wanted, given = f"Bearer {service.token}".encode(), request.headers.get("authorization", "")
        if service.token and not hmac.compare_digest(given.encode("latin-1"), wanted):  # as its bytes were decoded
            return PlainTextResponse("send the token as Authorization: Bearer\n", 401)
        return Response(service.meters.page(), media_type="text/plain; version=0.0.4")

    routes = [
        Route("/", page),
        Route("/healthz", healthz),
        Route("/metrics", metrics),
        WebSocketRoute("/stream", stream),
    ]
    return Starlette(routes=routes, lifespan=lifespan)
