"""uvicorn, with deadlines for connections that stall."""

import asyncio
import os
import signal
import socket
from types import FrameType

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from ivggt_jax.runs.address import check_port
from ivggt_jax.serve.options import Limits

MOST_CONNECTIONS = 512
"""Most open connections. More are closed without an answer, so that file descriptors remain for the rest."""
SECONDS_OF_REQUEST = 20.0
"""Time from the start of a connection until its request is answered or upgraded to a WebSocket."""
SECONDS_TO_LEAVE = 5.0
"""Time from the end of a session until its connection is closed, even if the client does not read the last messages."""

MOST_UNHEARD = 1 << 20
"""Most bytes read from a client after its session has ended."""


class Requests(H11Protocol):
    """Plain HTTP: requests that exceed the deadline, whether they trickle in or stall, are closed."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A new connection, before any data."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
        self._deadline = self.loop.call_later(SECONDS_OF_REQUEST, transport.abort)

    def handle_websocket_upgrade(self, event: object) -> None:
        """The connection becomes a client's, with limits of its own."""
        self._deadline.cancel()
        super().handle_websocket_upgrade(event)  # type: ignore[arg-type]

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed."""
        self._deadline.cancel()
        super().connection_lost(exc)


class Clients(WebSocketsSansIOProtocol):
    """WebSockets: a connection whose session has ended is closed, even if the client stops reading or keeps sending."""

    _unheard = 0
    """Bytes received after the session's end."""

    def data_received(self, data: bytes) -> None:
        """Receive data; after the session's end it is not processed any more."""
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


class _Server(uvicorn.Server):
    """Ends at once on a second Ctrl-C: it writes no files, and uvicorn's way ends in a traceback."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit and sig == signal.SIGINT:
            os._exit(128 + sig)
        super().handle_exit(sig, frame)


def create_server(application: Starlette, limits: Limits) -> uvicorn.Server:
    """A server for the application; pass the sockets to listen on to its `run` or `serve`."""
    return _Server(
        uvicorn.Config(
            application,
            http=Requests,
            ws=Clients,
            ws_max_size=limits.message_bytes,
            ws_per_message_deflate=False,  # a small message could expand to a large one
            timeout_keep_alive=5,
            timeout_graceful_shutdown=5,
            log_level="warning",
            log_config=None,
            access_log=False,
            lifespan="on",
        )
    )


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket listening on an address; port 0 takes a free one. Raises OSError if it cannot be opened, ValueError for no port."""
    check_port(port)
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise OSError(f"cannot listen at {host}:{port}: {error.strerror}; --port takes another") from None
    return listener
