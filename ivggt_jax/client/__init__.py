"""A small client for `ivggt serve`: frames in, cameras out. It needs neither JAX nor a model."""

import time
from collections.abc import Collection
from typing import Any

import msgpack
import numpy as np
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.sync.client import ClientConnection, connect

FINAL = ("token", "malformed")
"""Reasons for disconnecting that another attempt would not change."""
TOO_LARGE = 1009
"""WebSocket close code (RFC 6455) for a message that is too large."""


class ServerError(RuntimeError):
    """The server does not take a message, or this client; another attempt would not change that."""


class Client:
    """A connection to `ws://…/stream` that reconnects when it breaks; the server then begins a new map."""

    def __init__(self, address: str, token: str = "", want: Collection[str] = (), patience: float = 30.0):
        """want: any of depth, confidence, points and tracks. patience: seconds to keep trying."""
        self._address, self._patience, self._id = address, patience, 0
        self._hello = msgpack.packb({"type": "hello", "version": 1, "token": token, "want": list(want)})
        self._socket: ClientConnection | None = None
        self._most = 0

    def send(self, data: bytes, timestamp: float | None = None, format: str = "jpeg") -> dict[str, Any]:
        """Send one frame. Returns the server's answer, a `result` or `dropped`, with NumPy arrays.

        Raises ServerError when the server refuses it, or this client; TimeoutError when the server cannot be reached.
        """
        self._id, until = self._id + 1, time.monotonic() + self._patience
        frame = {"type": "frame", "id": self._id, "timestamp": timestamp, "format": format, "data": data}
        message = msgpack.packb(frame)
        while True:
            try:
                if self._socket is None:
                    self._socket = connect(self._address, compression=None, max_size=None)
                    self._socket.send(self._hello)
                    self._most = self._receive(self._socket).get("message_bytes", len(message))
                if len(message) > self._most:  # sent, it would end the connection, and with it the map
                    raise ServerError(f"the frame has {len(message):,} bytes, and the server takes {self._most:,}")
                self._socket.send(message)
                while (answer := self._receive(self._socket)).get("id") != self._id:
                    pass  # of a frame whose answer was not waited for
                return answer
            except (OSError, ConnectionClosed, InvalidHandshake) as error:
                self.close()
                if _is_final(error):
                    raise ServerError(f"{self._address}: {error}") from error
                if time.monotonic() > until:
                    raise TimeoutError(f"{self._address}: {error}") from error
                time.sleep(0.5)

    def close(self) -> None:
        """Disconnect; the next `send` reconnects."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    def _receive(self, socket: ClientConnection) -> dict[str, Any]:
        message: dict[str, Any] = msgpack.unpackb(socket.recv(self._patience), object_hook=_array)
        if message["type"] == "error":
            again = message.get("reason", FINAL[0]) not in FINAL
            raise (ConnectionError if again else ServerError)(message["error"])
        return message


def _is_final(error: Exception) -> bool:
    """Whether another attempt would end alike."""
    if isinstance(error, InvalidStatus):
        return 400 <= error.response.status_code < 500
    closed = error.rcvd if isinstance(error, ConnectionClosed) else None
    return closed is not None and (closed.code == TOO_LARGE or closed.reason in FINAL)


def _array(fields: dict[str, Any]) -> Any:
    if fields.keys() != {"shape", "dtype", "data"}:
        return fields
    return np.frombuffer(fields["data"], np.dtype(fields["dtype"]).newbyteorder("<")).reshape(fields["shape"])
