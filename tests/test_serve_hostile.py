"""What clients do wrong costs nobody else a frame: nonsense, huge, slow, silent and half-open, out of order, without the token.

The tiny model without heads but the camera's; random bytes of seed 0. A good client runs beside everything else.
"""

import contextlib
import io
import json
import resource
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import msgpack
import numpy as np
import pytest
from PIL import Image
from serving import HELLO, LIMITS, coded, entered, frame, opened, running, service, told
from websockets.exceptions import ConnectionClosed, InvalidStatus

from ivggt_jax import Model
from ivggt_jax.client import Client, ServerError
from ivggt_jax.serve import listen
from ivggt_jax.serve.messages import MessageError, pack, parse_frame, parse_hello
from ivggt_jax.serve.pictures import PictureError, Pictures
from ivggt_jax.serve.service import Service

SHORT = replace(LIMITS, silence=3.0, patience=1.5)


@pytest.fixture(scope="module")
def serving(tiny: Model) -> Iterator[tuple[str, Service]]:
    """Three slots, a token, and short patience."""
    made = service(tiny, limits=SHORT, token="sésame", heads=("camera",))
    with running(made) as address:
        yield address, made


@contextlib.contextmanager
def undisturbed(address: str, image: np.ndarray) -> Iterator[None]:
    """A client all of whose frames are answered by results, one after the other, while something else goes on."""
    over, wrong, numbers = threading.Event(), [], []

    def follow() -> None:
        client, data = Client(f"ws://{address}/stream", "sésame", patience=20), coded(image)
        try:
            while not over.is_set():
                numbers.append(client.send(data, format="webp").get("number"))
                time.sleep(0.01)
        except Exception as error:
            wrong.append(error)
        finally:
            client.close()

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        one_more(numbers, thread)
        yield
        one_more(numbers, thread)
    finally:
        over.set()
        thread.join()
    assert not wrong and numbers == list(range(len(numbers)))


def one_more(numbers: list[int], thread: threading.Thread) -> None:
    """Wait until another frame has its answer."""
    before, until = len(numbers), time.monotonic() + 20
    while len(numbers) == before and thread.is_alive():
        assert time.monotonic() < until
        time.sleep(0.01)


TOO_LARGE = (1009, None)
"""What a client hears that is still sending when the server closes: its bytes may reset the connection."""


def closed_with(connection, timeout: float = 15) -> tuple[list[dict], int | None]:
    """What the server says until it closes, and its code; None where the connection was reset before it came."""
    messages, until = [], time.monotonic() + timeout
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            messages.append(told(connection, until - time.monotonic()))
    return messages, None if closed.value.rcvd is None else closed.value.rcvd.code


def held_becomes(made: Service, count: int) -> None:
    until = time.monotonic() + 10
    while made.slots.held != count and time.monotonic() < until:
        time.sleep(0.02)
    assert made.slots.held == count


GOOD = {"type": "frame", "id": 0, "format": "webp", "data": b"x"}


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (b"", "neither"),
        (b"\xc1", "neither"),
        (b"\x93" * 5000, "neither"),
        ("[" * 100_000, "neither"),
        ('{"type": "frame", "id": 0, "timestamp": NaN}', "NaN"),
        (f'{{"type": "frame", "id": 0, "timestamp": 1{400 * "0"}}}', "too large"),
        (msgpack.packb([1]), "must be a map, not list"),
        (msgpack.packb({1: 2}), "neither"),
        (msgpack.packb({"type": "hello"}), "type must be frame here, not 'hello'"),
        (json.dumps({"type": "\ud800" * 300}), "type must be frame"),
        (msgpack.packb({**GOOD, "id": -1}), "id must be"),
        (msgpack.packb({**GOOD, "id": True}), "id must be"),
        (msgpack.packb({**GOOD, "id": 2**53}), "id must be"),
        (msgpack.packb({**GOOD, "timestamp": float("inf")}), "timestamp must be"),
        (msgpack.packb({**GOOD, "timestamp": "now"}), "timestamp must be"),
        (msgpack.packb({**GOOD, "format": "tiff"}), "format must be one of jpeg, webp, h264, not 'tiff'"),
        (msgpack.packb({**GOOD, "format": ["jpeg"]}), "format must be one of"),
        (msgpack.packb({**GOOD, "data": ""}), "data must be"),
        (msgpack.packb({**GOOD, "data": b""}), "data must be"),
        ('{"type": "frame", "id": 3, "data": "not base64!"}', "base64|Only"),
    ],
)
def test_messages_that_are_not_understood_are_told_apart(message, words: str):
    with pytest.raises(MessageError, match=words) as raised:
        parse_frame(message)
    assert pack({"error": f"{raised.value}"}, text=False) and pack({"error": f"{raised.value}"}, text=True)
    assert len(f"{raised.value}") < 200


@pytest.mark.parametrize(
    "fields",
    [{"version": 2}, {"version": None}, {"token": 3}, {"token": "x" * 2000}, {"want": "depth"}, {"want": [[]]}],
)
def test_a_hello_is_checked(fields: dict):
    with pytest.raises(MessageError):
        parse_hello(msgpack.packb({**HELLO, **fields}))


def test_a_word_that_cannot_be_wanted_is_named():
    with pytest.raises(MessageError, match="want may name depth, confidence, points, tracks, not 'poses'"):
        parse_hello(msgpack.packb({**HELLO, "want": ["depth", "poses"]}))


def header_of(size: int, kind: str) -> bytes:
    """A small file that says it has size × size pixels."""
    data = bytearray(coded(np.zeros((16, 16, 3), np.uint8), kind))
    if kind == "JPEG":
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = size.to_bytes(2, "big") * 2
    else:  # lossless WebP: 14 bits of width − 1, 14 of height − 1
        data[21:25] = (int.from_bytes(data[21:25], "little") & 0xF0000000 | (size - 1) * (1 + (1 << 14))).to_bytes(
            4, "little"
        )
    return bytes(data)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
@pytest.mark.parametrize("size", [400, 16_000])
def test_a_picture_that_claims_to_be_large_takes_no_memory(kind: str, size: int):
    pictures, before = Pictures((42, 28), 100_000), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(PictureError, match="pixels|bomb"):
        pictures.decode(kind.lower(), header_of(size, kind))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB; 16,000² pixels would be 768,000


@pytest.mark.parametrize("kind", ["jpeg", "webp", "h264"])
def test_a_picture_that_is_damaged_is_an_error_of_ours(kind: str):
    pictures, good = Pictures((42, 28), 100_000), io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(
        good, "JPEG" if kind == "jpeg" else "WEBP"
    )
    random = np.random.default_rng(0)
    for data in [good.getvalue()[:-200], b"\x00", *(random.bytes(random.integers(1, 300)) for _ in range(50))]:
        try:
            assert pictures.decode(kind, data) is None
        except PictureError as error:
            assert len(f"{error}") < 300 and " at 0x" not in f"{error}"


def test_nonsense_is_answered_and_then_cut_off(serving, videos: np.ndarray):
    """A good frame after damaged ones is taken, however many; the 32nd message that is none is the last."""
    address, made = serving
    random = np.random.default_rng(0)
    with undisturbed(address, videos[0, 0]), entered(address, token="sésame") as bad:
        for _ in range(40):
            bad.send(frame(5, b"no picture"))
        assert [told(bad)["id"] for _ in range(40)] == [5] * 40
        bad.send(frame(6, coded(videos[0, 1])))
        assert told(bad)["number"] == 0
        with contextlib.suppress(ConnectionClosed):
            for _ in range(40):
                bad.send(random.bytes(random.integers(0, 2000)))
        messages, code = closed_with(bad)
        assert len(messages) == 33 and messages[-1]["reason"] == "malformed" and code == 1008
    held_becomes(made, 0)


def test_a_wrong_order_or_token_is_not_let_in(serving, videos: np.ndarray):
    address, made = serving
    with undisturbed(address, videos[0, 0]):
        for first, reason in [
            (frame(0, coded(videos[0, 1])), "malformed"),
            (msgpack.packb(HELLO), "token"),
            (msgpack.packb({**HELLO, "token": "sesame"}), "token"),
            (json.dumps({**HELLO, "token": "sesame"}), "token"),
            ("nonsense", "malformed"),
        ]:
            with opened(address) as stranger:
                stranger.send(first)
                answer = stranger.recv(15)
                assert type(answer) is type(first), "the browser's page reads JSON only"
                message = json.loads(answer) if isinstance(answer, str) else msgpack.unpackb(answer)
                assert (message["reason"], closed_with(stranger)) == (reason, ([], 1008))
        with pytest.raises(ServerError, match="wrong token"):
            Client(f"ws://{address}/stream", "?").send(b"x")
        for headers in ({"Origin": "http://elsewhere.example"}, {"Origin": "null"}, {"Origin": "http://["}):
            with pytest.raises(InvalidStatus, match="403"):
                opened(address, additional_headers=headers)
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"http://{address}/metrics")
        bearer = {"Authorization": "Bearer sésame".encode().decode("latin-1")}  # UTF-8, as curl sends it
        urllib.request.urlopen(urllib.request.Request(f"http://{address}/metrics", headers=bearer)).read()
    held_becomes(made, 0)


def test_who_is_silent_or_takes_nothing_is_cut_off(serving, videos: np.ndarray, monkeypatch: pytest.MonkeyPatch):
    """Silent before and after hello; one that sends for ever and never reads; TCP that says nothing, or half a request."""
    address, made = serving
    monkeypatch.setattr(listen, "SECONDS_OF_REQUEST", 1.0)
    host, port = address.split(":")
    with undisturbed(address, videos[0, 0]), contextlib.ExitStack() as stack:
        silent = stack.enter_context(opened(address))
        mute = [stack.enter_context(socket.create_connection((host, int(port)))) for _ in range(3)]
        mute[1].sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
        mute[2].sendall(b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n1")
        assert closed_with(silent)[0][0]["reason"] == "silent"
        quiet = stack.enter_context(entered(address, token="sésame"))
        assert closed_with(quiet)[0][0]["reason"] == "silent"
        for connection in mute:
            connection.settimeout(10)
            with contextlib.suppress(ConnectionResetError):
                while connection.recv(1000):
                    pass
        deaf = stack.enter_context(socket.socket())
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect((host, int(port)))
        talk_without_listening(deaf, host, frame(0, b"no picture"))
    held_becomes(made, 0)


def talk_without_listening(deaf: socket.socket, host: str, message: bytes) -> None:
    """A WebSocket by hand whose client never reads: its answers fill what there is room for, and then it is cut off."""
    handshake = f"GET /stream HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    deaf.sendall(
        f"{handshake}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
    )
    hello = msgpack.packb({**HELLO, "token": "sésame"})
    deaf.sendall(b"\x82" + bytes([0x80 | len(hello)]) + bytes(4) + hello)
    deaf.settimeout(10)
    piece = b"\x82" + bytes([0x80 | len(message)]) + bytes(4) + message
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        until = time.monotonic() + 10
        while time.monotonic() < until:
            deaf.sendall(piece * 10)
        pytest.fail("nobody cut it off")


def test_what_is_too_large_or_too_fast(tiny: Model, serving, videos: np.ndarray):
    address, made = serving
    with undisturbed(address, videos[0, 0]):
        with entered(address, token="sésame") as large:
            large.send(frame(0, coded(np.zeros((400, 400, 3), np.uint8))))
            assert "more than 100,000" in told(large)["error"]
            with contextlib.suppress(ConnectionClosed):
                large.send(bytes(300_000))
            assert closed_with(large)[1] in TOO_LARGE
        with entered(address, token="sésame") as large:
            with contextlib.suppress(ConnectionClosed):
                large.send([bytes(50_000)] * 10)  # in fragments
            assert closed_with(large)[1] in TOO_LARGE
        client, good = Client(f"ws://{address}/stream", "sésame"), coded(videos[0, 1])
        assert client.send(good, format="webp")["number"] == 0
        with pytest.raises(ServerError, match="300,0.. bytes, and the server takes 200,000"):
            client.send(bytes(300_000))
        assert client.send(good, format="webp")["number"] == 1, "the map goes on"
        client.close()
    held_becomes(made, 0)
    with running(service(tiny, 3, replace(LIMITS, rate=5.0), heads=("camera",))) as address, entered(address) as fast:
        for number in range(12):
            fast.send(frame(number, coded(videos[0, 0])))
        answers = [told(fast) for _ in range(12)]
    reasons = [answer.get("reason") for answer in answers]
    assert reasons.count("rate") >= 3 and reasons.count(None) >= 1 and set(reasons) <= {"rate", "newer", None}


def test_frames_that_wait_too_long_are_dropped(tiny: Model, videos: np.ndarray):
    """And a client that is refused, here for the name that it gives this machine, does not try again."""
    made = service(tiny, limits=replace(LIMITS, age=1e-9), heads=("camera",))
    with running(made) as address, entered(address) as late:
        late.send(frame(0, coded(videos[0, 0])))
        assert told(late) == {"type": "dropped", "id": 0, "reason": "late"}
        with pytest.raises(ServerError, match="403"):
            Client(f"ws://{address.replace('127.0.0.1', '0.0.0.0')}/stream", patience=1e9).send(b"x")


def test_whoever_waits_for_each_answer_gets_every_frame_taken(
    tiny: Model, videos: np.ndarray, monkeypatch: pytest.MonkeyPatch
):
    """Also where a step (0.2 s here) takes longer than --age (0.05 s), and two clients take turns."""
    made = service(tiny, limits=replace(LIMITS, age=0.05), heads=("camera",))
    image, compute = coded(videos[0, 0]), made.worker._step

    def slow(*arguments):
        time.sleep(0.2)
        return compute(*arguments)

    def five(client: Any) -> list[dict]:
        answers = []
        for number in range(5):
            client.send(frame(number, image))
            answers.append(told(client))
        return answers

    with running(made) as address, entered(address) as one, entered(address) as other:
        monkeypatch.setattr(made.worker, "_step", slow)
        one.send(frame(99, image))  # the length of a step is known after the first
        told(one)
        with ThreadPoolExecutor(2) as threads:
            answers = list(threads.map(five, (one, other)))
    assert [[answer["type"] for answer in each] for each in answers] == [["result"] * 5] * 2


def test_there_are_as_many_clients_as_slots(serving, videos: np.ndarray):
    """A fourth is told to try again, which `Client` does until a slot is free."""
    address, made = serving
    with contextlib.ExitStack() as stack:
        first, *_ = [stack.enter_context(entered(address, token="sésame")) for _ in range(3)]
        with opened(address) as fourth:
            fourth.send(msgpack.packb({**HELLO, "token": "sésame"}))
            (message,), code = closed_with(fourth)
            assert (message["reason"], code) == ("full", 1013)
        first.close()
        client = Client(f"ws://{address}/stream", "sésame")
        assert client.send(coded(videos[0, 0]), format="webp")["number"] == 0
        client.close()
    held_becomes(made, 0)


def test_a_server_that_computes_no_more_says_so(
    tiny: Model, videos: np.ndarray, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    made = service(tiny, heads=("camera",))
    with running(made) as address, entered(address) as client:
        monkeypatch.setattr(made.worker, "_step", lambda *_: 1 / 0)
        client.send(frame(0, coded(videos[0, 0])))
        (message,), code = closed_with(client)
        assert (message["reason"], code) == ("failed", 1011)
        with opened(address) as late:
            late.send(msgpack.packb(HELLO))
            (message,), code = closed_with(late)
            assert (message["reason"], code) == ("failed", 1011)
        assert "ZeroDivisionError" in caplog.text, "the reason is told at once, not only when the server ends"
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(f"http://{address}/healthz")


def test_clients_come_back_when_the_server_does(tiny: Model, videos: np.ndarray):
    """On the same port; the map begins anew."""
    data = coded(videos[0, 0])
    with running(service(tiny, heads=("camera",))) as address:
        client = Client(f"ws://{address}/stream")
        assert [client.send(data, format="webp")["number"] for _ in range(2)] == [0, 1]
    with running(service(tiny, heads=("camera",)), int(address.split(":")[1])):
        assert [client.send(data, format="webp")["number"] for _ in range(2)] == [0, 1]
        client.close()
