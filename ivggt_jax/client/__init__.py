"""A client of `ivggt serve` in a few lines: frames out, cameras in. It needs neither JAX nor a model."""

import time
from collections.abc import Collection
from typing import Any

import msgpack
import numpy as np
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import ClientConnection, connect

FINAL = ("token", "malformed")
"""Reasons of the server to send a client away that another try would not change."""


class ServerError(RuntimeError):
    """What the server has to say against a message."""


class Client:
    """A connection to `ws://…/stream` that is opened again when it breaks: the server then begins a new map."""

    def __init__(self, address: str, token: str = "", want: Collection[str] = (), patience: float = 30.0):
        """want: of depth, confidence, points and tracks. patience: seconds to go on trying for."""
        self._address, self._patience, self._id = address, patience, 0
        self._hello = msgpack.packb({"type": "hello", "version": 1, "token": token, "want": list(want)})
        self._socket: ClientConnection | None = None

    def send(self, data: bytes, timestamp: float | None = None, format: str = "jpeg") -> dict[str, Any]:
        """One frame; returns the server's answer to it, a `result` or `dropped`, with arrays as NumPy's.

        Raises ServerError for what the server refuses, TimeoutError when it cannot be reached.
        """
        self._id, until = self._id + 1, time.monotonic() + self._patience
        frame = {"type": "frame", "id": self._id, "timestamp": timestamp, "format": format, "data": data}
        while True:
            try:
                if self._socket is None:
                    self._socket = connect(self._address, compression=None, max_size=None)
                    self._socket.send(self._hello)
                self._socket.send(msgpack.packb(frame))
                while (answer := self._receive(self._socket)).get("id") != self._id:
                    pass  # the welcome
                return answer
            except (OSError, ConnectionClosed, InvalidHandshake) as error:
                self.close()
                if time.monotonic() > until:
                    raise TimeoutError(f"{self._address}: {error}") from error
                time.sleep(0.5)

    def close(self) -> None:
        """Leave; the next `send` would connect again."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    def _receive(self, socket: ClientConnection) -> dict[str, Any]:
        message: dict[str, Any] = msgpack.unpackb(socket.recv(self._patience), object_hook=_array)
        if message["type"] == "error":
            again = message.get("reason", FINAL[0]) not in FINAL
            raise (ConnectionError if again else ServerError)(message["error"])
        return message


def _array(fields: dict[str, Any]) -> Any:
    if fields.keys() != {"shape", "dtype", "data"}:
        return fields
    return np.frombuffer(fields["data"], np.dtype(fields["dtype"]).newbyteorder("<")).reshape(fields["shape"])
