"""Strangers for tools/live/trial.py: every way to be a bad client that we could think of."""

import asyncio
import random
import time
from collections import Counter
from contextlib import suppress

import msgpack
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

AT_ONCE = 16
"""Strangers at the same time."""
SILENT_FOR = 1.0
"""Seconds that a half-open connection is kept."""
HUGE = 6 << 20
"""Bytes; a message may have four MiB."""
KINDS = (
    "random bytes",
    "huge",
    "half-open",
    "wrong order",
    "wrong token",
    "random bytes of one let in",
    "damaged pictures",
)
SHARES = (40, 1, 4, 15, 15, 15, 10)
"""How often each kind comes."""


async def send_hostile(port: int, token: str, count: int, seconds: float, chance: random.Random) -> Counter[str]:
    """So many hostile messages, spread over so many seconds, and how many of each kind they were."""
    kinds, met = chance.choices(KINDS, SHARES, k=count), Counter[str]()

    async def stranger() -> None:
        while kinds:
            kind, next_one = kinds.pop(), time.monotonic() + AT_ONCE * seconds / count
            with suppress(OSError, WebSocketException, TimeoutError):
                await _meet(kind, port, token, chance)
            met[kind] += 1
            await asyncio.sleep(max(0, next_one - time.monotonic()))

    await asyncio.gather(*(stranger() for _ in range(AT_ONCE)))
    return met


async def _meet(kind: str, port: int, token: str, chance: random.Random) -> None:
    """One hostile message."""
    if kind == "half-open":
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        request = b"GET /stream HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        writer.write(request[: chance.randrange(len(request))])
        await asyncio.sleep(SILENT_FOR)
        writer.close()
        return
    hello = {"type": "hello", "version": 1, "token": token}
    noise = chance.randbytes(chance.randrange(1, 3000))
    frame = {"type": "frame", "id": 1, "format": chance.choice(["jpeg", "webp", "h264"]), "data": noise}
    messages = {
        "random bytes": [noise],
        "huge": [bytes(HUGE)],
        "wrong order": [msgpack.packb(frame)],
        "wrong token": [msgpack.packb({**hello, "token": token[:-1]})],
        "random bytes of one let in": [msgpack.packb(hello), noise],
        "damaged pictures": [msgpack.packb(hello), msgpack.packb(frame)],
    }[kind]
    async with connect(
        f"ws://127.0.0.1:{port}/stream", compression=None, open_timeout=10, close_timeout=1
    ) as connection:
        for message in messages:
            await connection.send(message)
        for _ in messages:
            await asyncio.wait_for(connection.recv(), 10)
