"""One client's session: admit it, read its frames, send answers, and disconnect it when it exceeds limits."""

import asyncio
import hmac
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

from starlette.websockets import WebSocket, WebSocketDisconnect

from ivggt_jax.serve import answers
from ivggt_jax.serve.messages import FrameMessage, Hello, MessageError, pack, parse_frame, parse_hello
from ivggt_jax.serve.options import is_loopback
from ivggt_jax.serve.pictures import PictureError, Pictures
from ivggt_jax.serve.service import Service
from ivggt_jax.serve.slots import Late, Slot, Taken, Waiting
from ivggt_jax.sources.frame import Frame

REFUSED, FAILED, TRY_LATER = 1008, 1011, 1013
"""WebSocket close codes (RFC 6455 and its registry): policy violation, internal error, try again later."""
MOST_WAITING = 64
"""Answers that may wait for a client to read them; a client with more is disconnected."""
MOST_MALFORMED = 32
"""Invalid messages allowed from one client before it is disconnected."""

Made = TypeVar("Made")


class CutOff(Exception):
    """The client is told why and disconnected."""

    def __init__(self, reason: str, text: str, code: int = REFUSED):
        """reason: a word for the metrics. text: for the client."""
        super().__init__(text)
        self.reason, self.code = reason, code


async def serve_client(socket: WebSocket, service: Service, sessions: set["Session"]) -> None:
    """Handle a connection from start to end. `sessions` holds the admitted clients."""
    if not _is_ours(socket.headers, service):
        await socket.close(REFUSED)  # before accepting: the client gets HTTP 403
        return
    await socket.accept()
    text = False
    try:
        first = await _first(socket, service)
        text = isinstance(first, str)
        hello = _hello(first, service)
        session = Session(socket, service, hello)
        sessions.add(session)
        try:
            await session.run()
        finally:
            sessions.discard(session)
            session.close()
    except CutOff as cut:
        service.meters.cut_off.labels(cut.reason).inc()
        # If the client does not read even this, the connection ends with this function.
        with suppress(TimeoutError, RuntimeError, WebSocketDisconnect):
            async with asyncio.timeout(service.limits.patience):
                await _send(socket, pack(answers.error(f"{cut}", reason=cut.reason), text))
                await socket.close(cut.code, cut.reason)
    except WebSocketDisconnect:
        pass


async def _first(socket: WebSocket, service: Service) -> str | bytes:
    """Receive the first message."""
    try:
        async with asyncio.timeout(service.limits.patience):
            return await _receive(socket)
    except TimeoutError:
        raise CutOff("silent", f"no hello within {service.limits.patience:g} s") from None


def _hello(message: str | bytes, service: Service) -> Hello:
    """Read the first message, which must have the right token."""
    try:
        hello = parse_hello(message)
    except MessageError as error:
        service.meters.malformed.inc()
        raise CutOff("malformed", f"{error}") from None
    if service.token and not hmac.compare_digest(hello.token.encode("utf-8", "replace"), service.token.encode()):
        raise CutOff("token", "wrong token")
    return hello


class Session:
    """An admitted client and its slot."""

    def __init__(self, socket: WebSocket, service: Service, hello: Hello):
        """Raises CutOff when every slot is held, or the worker has failed."""
        self._socket, self._service, self._hello = socket, service, hello
        self._loop = asyncio.get_running_loop()
        self._outbox: asyncio.Queue[Mapping[str, Any] | Taken] = asyncio.Queue(MOST_WAITING)
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._pictures = Pictures(service.size, service.limits.frame_pixels)
        self._malformed, self._allowed, self._counted = 0, service.limits.rate, time.monotonic()
        if service.worker.failed:
            raise CutOff("failed", "the server has failed", FAILED)
        slot = service.slots.claim(self._from_worker)
        if slot is None:
            raise CutOff("full", "every slot is taken: try again later", TRY_LATER)
        self._slot: Slot = slot
        service.meters.hold(service.slots.held, service.slots.count)

    def close(self) -> None:
        """Release the slot."""
        self._service.slots.release(self._slot)
        self._service.meters.cache_fill.labels(self._slot.number).set(0)
        self._service.meters.hold(self._service.slots.held, self._service.slots.count)

    def end(self, cut: CutOff) -> None:
        """Make `run` raise `cut`."""
        if not self._ended.done():
            self._ended.set_exception(cut)

    async def run(self) -> None:
        """Run until the client leaves (WebSocketDisconnect) or is disconnected (CutOff)."""
        await self._outbox.put(answers.welcome(self._service))
        tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._write()), self._ended]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            await done.pop()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._service.limits.silence):
                    message = await _receive(self._socket)
            except TimeoutError:
                raise CutOff("silent", f"no message within {self._service.limits.silence:g} s") from None
            try:
                await self._take(parse_frame(message), time.monotonic())
            except MessageError as error:
                self._service.meters.malformed.inc()
                self._malformed += 1
                about = {} if error.number is None else {"id": error.number}
                await self._outbox.put(answers.error(f"{error}", **about))
                if self._malformed >= MOST_MALFORMED:
                    raise CutOff("malformed", f"{MOST_MALFORMED} messages were not understood") from None

    async def _take(self, message: FrameMessage, arrived: float) -> None:
        """Decode a frame and queue it for the next step."""
        if not self._within_rate(arrived):
            self._pictures.forget()
            await self._drop(message.id, "rate")
            await asyncio.sleep(1 / self._service.limits.rate)  # it is not read any faster either
            return
        try:
            decoded = await self._in_thread(partial(self._pictures.decode, message.format, message.data))
        except PictureError as error:
            # Does not count as malformed: after a lost piece, a video fails until its next key frame.
            self._service.meters.malformed.inc()
            await self._outbox.put(answers.error(f"{error}", id=message.id))
            return
        if decoded is None:
            await self._drop(message.id, "no picture")
            return
        image, mask, fit = decoded
        frame = Frame(image, message.id, message.timestamp, f"{message.id}", fit, mask)
        if replaced := self._service.slots.put(self._slot, Waiting(message.id, frame, arrived)):
            await self._drop(replaced.id, "newer")

    def _within_rate(self, now: float) -> bool:
        """Whether another frame is allowed now: `rate` per second, in bursts of up to one second's frames."""
        rate = self._service.limits.rate
        self._allowed = min(max(rate, 1.0), self._allowed + rate * (now - self._counted))
        self._counted = now
        if self._allowed < 1:
            return False
        self._allowed -= 1
        return True

    async def _drop(self, number: int, reason: str) -> None:
        self._service.meters.frames.labels(reason).inc()
        await self._outbox.put(answers.dropped(number, reason))

    def _from_worker(self, answer: Taken | Late) -> None:
        """Called in the worker's thread."""
        with suppress(RuntimeError):  # raised if the server has stopped
            self._loop.call_soon_threadsafe(self._hand_on, answer)

    def _hand_on(self, answer: Taken | Late) -> None:
        if isinstance(answer, Waiting):
            self._service.meters.frames.labels("late").inc()
        try:
            self._outbox.put_nowait(answer if isinstance(answer, Taken) else answers.dropped(answer.id, "late"))
        except asyncio.QueueFull:
            self.end(CutOff("slow", "answers are not taken"))

    async def _write(self) -> None:
        patience, text = self._service.limits.patience, self._hello.text
        while True:
            answer = await self._outbox.get()
            if isinstance(answer, Taken):
                packed = await self._in_thread(partial(_packed, answer, self._hello))
            else:
                packed = pack(answer, text)
            try:
                async with asyncio.timeout(patience):
                    await _send(self._socket, packed)
            except TimeoutError:
                raise CutOff("slow", f"an answer was not taken within {patience:g} s") from None
            if isinstance(answer, Taken):
                self._service.meters.frames.labels("answered").inc()
                self._service.meters.latency.observe(time.monotonic() - answer.waiting.arrived)

    async def _in_thread(self, make: Callable[[], Made]) -> Made:
        return await self._loop.run_in_executor(self._service.threads, make)


def _packed(taken: Taken, hello: Hello) -> str | bytes:
    return pack(answers.result(taken, hello), hello.text)


async def _receive(socket: WebSocket) -> str | bytes:
    """The next message. Raises WebSocketDisconnect if there is none."""
    event = await socket.receive()
    if event["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(event.get("code") or 1005)
    text: str | None = event.get("text")
    return event["bytes"] if text is None else text


async def _send(socket: WebSocket, packed: str | bytes) -> None:
    await (socket.send_text(packed) if isinstance(packed, str) else socket.send_bytes(packed))


def _is_ours(headers: Mapping[str, str], service: Service) -> bool:
    """Whether the request is not from a foreign web page. Browsers let any page open a WebSocket, but send the page's origin.

    Without a token, the host name in the request must also be this machine's, because any page could make its own name resolve to
    this server.
    """
    host = headers.get("host", "")
    try:
        name = urlsplit(f"//{host}").hostname or ""
        foreign = "origin" in headers and urlsplit(headers["origin"]).netloc != host
    except ValueError:
        return False
    return not foreign and (bool(service.token) or is_loopback(name))
