"""uvicorn, with deadlines for connections that are half open."""

import asyncio
import socket

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from ivggt_jax.serve.options import Limits

MOST_CONNECTIONS = 512
"""Open at once; further ones are closed without a word, so that files are left for the rest."""
SECONDS_OF_REQUEST = 20.0
"""From a connection's beginning until its request is answered or has become a WebSocket."""
SECONDS_TO_LEAVE = 5.0
"""From the end of a client's session until its connection is gone, whether or not it takes what was sent last."""

MOST_UNHEARD = 1 << 20
"""Bytes that are read from a client that has been sent away, until it takes notice."""


class Requests(H11Protocol):
    """Plain HTTP: what is slower than a deadline, byte by byte or by silence, is closed."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A connection, of which nothing has come yet."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
        self._deadline = self.loop.call_later(SECONDS_OF_REQUEST, transport.abort)

    def handle_websocket_upgrade(self, event: object) -> None:
        """From now on it is a client, with limits of its own."""
        self._deadline.cancel()
        super().handle_websocket_upgrade(event)  # type: ignore[arg-type]

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed."""
        self._deadline.cancel()
        super().connection_lost(exc)


class Clients(WebSocketsSansIOProtocol):
    """WebSockets: one that is over does not stay open because its client takes no more, nor because it goes on talking."""

    _unheard = 0
    """Bytes that came after the end."""

    def data_received(self, data: bytes) -> None:
        """Something has come; what comes after the end would cost time for nothing."""
        if self.close_sent:
            self._unheard += len(data)
            if self._unheard > MOST_UNHEARD:
                self.transport.abort()
                return
        super().data_received(data)

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        """The session has ended."""
        super().on_task_complete(task)
        self.loop.call_later(SECONDS_TO_LEAVE, self.transport.abort)


def create_server(application: Starlette, limits: Limits) -> uvicorn.Server:
    """A server for the application; its `run` and `serve` take the sockets to listen at."""
    return uvicorn.Server(
        uvicorn.Config(
            application,
            http=Requests,
            ws=Clients,
            ws_max_size=limits.message_bytes,
            ws_per_message_deflate=False,  # a small message could become a large one
            timeout_keep_alive=5,
            timeout_graceful_shutdown=5,
            log_level="warning",
            log_config=None,
            access_log=False,
            lifespan="on",
        )
    )


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket at an address; port 0 takes a free one. Raises OSError where it cannot be had."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise OSError(f"cannot listen at {host}:{port}: {error.strerror}; --port takes another") from None
    return listener
