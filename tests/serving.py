"""Helpers of the tests of the server: one on loopback, with the tiny model and frames of 42×28 pixels."""

import contextlib
import io
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgpack
import numpy as np
import pytest
from PIL import Image
from streaming import BOUNDED, HEIGHT, WIDTH
from websockets.sync.client import ClientConnection, connect

from ivggt_jax import CacheConfig, Model, SubmapConfig, init_stream

pytest.importorskip("uvicorn")

from ivggt_jax.serve.application import create_application
from ivggt_jax.serve.listen import create_server, listening_socket
from ivggt_jax.serve.options import Limits
from ivggt_jax.serve.service import Service

SUBMAPS = SubmapConfig(frames=4, delay=1)
CACHE: CacheConfig = replace(BOUNDED, camera_frames=8)
LIMITS = Limits(age=60.0, silence=20.0, rate=10_000.0, frame_pixels=100_000, message_bytes=200_000)
"""Generous in time, for tests run beside others."""
HELLO = {"type": "hello", "version": 1}


def service(
    model: Model, clients: int = 3, limits: Limits = LIMITS, token: str | None = None, **options: Any
) -> Service:
    options = {"heads": ("camera", "depth"), **options}
    state = init_stream(model, CACHE, height=HEIGHT, width=WIDTH, batch=clients, **options)
    return Service(model, state, limits, token)


@contextlib.contextmanager
def running(service: Service, port: int = 0) -> Iterator[str]:
    """Serve in a thread; gives the address, such as 127.0.0.1:12345."""
    with listening_socket("127.0.0.1", port) as listener:
        server = create_server(create_application(service), service.limits)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive(), "the server did not start"
                time.sleep(0.01)
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


def opened(address: str, **options: Any) -> ClientConnection:
    return connect(f"ws://{address}/stream", compression=None, max_size=None, **options)


def entered(address: str, **hello: Any) -> ClientConnection:
    """A connection that has been let in."""
    socket = opened(address)
    socket.send(msgpack.packb({**HELLO, **hello}))
    assert told(socket)["type"] == "welcome"
    return socket


def told(socket: ClientConnection, timeout: float = 30) -> dict[str, Any]:
    """The next message, which must come in time."""
    return msgpack.unpackb(socket.recv(timeout))


def coded(image: np.ndarray, kind: str = "WEBP") -> bytes:
    """An image [H,W,3], uint8 or in [0,1], as a file; WebP without loss."""
    file = io.BytesIO()
    image = image if image.dtype == np.uint8 else np.round(255 * image).astype(np.uint8)
    Image.fromarray(image).save(file, kind, lossless=True)
    return file.getvalue()


def frame(number: int, data: bytes, kind: str = "webp") -> bytes:
    return msgpack.packb({"type": "frame", "id": number, "timestamp": number / 10, "format": kind, "data": data})
