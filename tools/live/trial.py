"""How the server holds out: python tools/live/trial.py [--minutes 10] [--clients 8] [--hostile 10000] [--rate 2]

Starts `ivggt serve` with the demo model on loopback, and cameras that send frames of the example at a fixed rate, whatever comes
back. After a quarter of the time, and for half of it, strangers join: random bytes, huge messages, half-open connections, messages
in the wrong order, wrong tokens; one more slot is theirs. At the end the server is killed and started again on the same port.
Printed are frames by what became of them, latency at the clients with and without strangers, the server's memory, how long all
clients took to be back, and how far the first client's cameras are from those of `stream` on the frames that were taken.
"""

import argparse
import asyncio
import random
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from hostile import send_hostile
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

FRAMES = sorted((Path(__file__).parents[2] / "examples" / "room" / "frames").iterdir())
TOKEN, BUDGET = "a-token", 15_274
COMPARED = 100
"""Frames of the first client whose cameras are compared."""


class Camera:
    """Sends frames at a fixed rate and takes answers as they come; connects again when it must."""

    def __init__(self, address: str, rate: float, offset: int):
        self._address, self._rate, self._offset = address, rate, offset
        self.outcomes: Counter[str] = Counter()
        self.latencies: list[tuple[float, float]] = []
        """When an answer came, and how long after its frame was sent."""
        self.taken: list[tuple[Path, Any]] = []
        """Frames of the first connection that were taken, with their poses."""
        self.begun: list[float] = []
        """When the first answer of each connection came."""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                async with connect(self._address, compression=None, open_timeout=5) as connection:
                    await connection.send(msgpack.packb({"type": "hello", "version": 1, "token": TOKEN}))
                    welcome = msgpack.unpackb(await connection.recv())
                    if welcome["type"] == "welcome":
                        sent: dict[int, tuple[float, Path]] = {}
                        async with asyncio.TaskGroup() as group:
                            group.create_task(self._send(connection, sent))
                            group.create_task(self._take(connection, sent))
            except* (OSError, ConnectionClosed, InvalidHandshake, TimeoutError):
                self.outcomes["connections lost"] += 1
            await asyncio.sleep(0.5)

    async def _send(self, connection: ClientConnection, sent: dict[int, tuple[float, Path]]) -> None:
        number, begun = 0, time.monotonic()
        while True:
            there_and_back = (*FRAMES, *FRAMES[-2:0:-1])
            path = there_and_back[(number + self._offset) % len(there_and_back)]
            sent[number] = time.monotonic(), path
            await connection.send(
                msgpack.packb({"type": "frame", "id": number, "timestamp": time.time(), "data": path.read_bytes()})
            )
            number += 1
            await asyncio.sleep(max(0, begun + number / self._rate - time.monotonic()))

    async def _take(self, connection: ClientConnection, sent: dict[int, tuple[float, Path]]) -> None:
        first = True
        while True:
            answer = msgpack.unpackb(await connection.recv())
            now = time.monotonic()
            at, path = sent.pop(answer["id"])
            self.outcomes[answer["type"] if answer["type"] != "dropped" else f"dropped: {answer['reason']}"] += 1
            if answer["type"] != "result":
                continue
            self.latencies.append((now, now - at))
            if first:
                self.begun.append(now)
                first = False
            if len(self.begun) == 1 and len(self.taken) < COMPARED:
                self.taken.append((path, answer["cam_from_world"]))


class Server:
    """`ivggt serve` in a process of its own."""

    def __init__(self, port: int, slots: int):
        command = [sys.executable, "-m", "ivggt_jax.serve", "--port", f"{port}", "--clients", f"{slots}"]
        self._process = subprocess.Popen([*command, "--token", TOKEN, "--budget", f"{BUDGET}"])
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2).close()
                return
            except OSError:
                if self._process.poll() is not None:
                    raise SystemExit("the server ended") from None
                time.sleep(0.2)

    def resident(self) -> float:
        """MiB."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()


async def trial(options: argparse.Namespace, port: int) -> list[Camera]:
    """Everything but the comparison."""
    slots = options.clients + 1  # one for strangers
    server = await asyncio.to_thread(Server, port, slots)
    cameras = [Camera(f"ws://127.0.0.1:{port}/stream", options.rate, 7 * i) for i in range(options.clients)]
    tasks = [asyncio.create_task(camera.run()) for camera in cameras]
    seconds, memory = 60 * options.minutes, []
    try:
        begun = time.monotonic()
        await asyncio.sleep(seconds / 8)
        memory.append(server.resident())
        await asyncio.sleep(seconds / 8)
        joined = time.monotonic()
        met = await send_hostile(port, TOKEN, options.hostile, seconds / 2, random.Random(0))
        left = time.monotonic()
        memory.append(server.resident())
        await asyncio.sleep(max(0, begun + seconds - time.monotonic()))
        memory.append(server.resident())
        report(cameras, (joined, left), memory, met)
        server.kill()
        killed = time.monotonic()
        server = await asyncio.to_thread(Server, port, slots)
        ready = time.monotonic()
        while any(len(camera.begun) < 2 for camera in cameras) and time.monotonic() < ready + 60:
            await asyncio.sleep(0.1)
        back = [camera.begun[1] for camera in cameras if len(camera.begun) == 2]
        print(
            f"killed and started again: ready after {ready - killed:.1f} s, {len(back)} of {len(cameras)} clients have "
            f"answers {max(back, default=ready) - ready:.1f} s later"
        )
    finally:
        server.kill()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return cameras


def report(cameras: list[Camera], strangers: tuple[float, float], memory: list[float], met: Counter[str]) -> None:
    """Print what was measured until the server is killed."""
    outcomes = sum((camera.outcomes for camera in cameras), Counter[str]())
    print(", ".join(f"{name}: {count}" for name, count in sorted(outcomes.items())))
    print("answered, each client:", *(camera.outcomes["result"] for camera in cameras))
    print("strangers:", ", ".join(f"{name}: {count}" for name, count in sorted(met.items())))
    joined, left = strangers
    each = {
        "alone": [x for camera in cameras for at, x in camera.latencies if not joined < at < left],
        f"with strangers ({left - joined:.0f} s)": [
            x for camera in cameras for at, x in camera.latencies if joined < at < left
        ],
    }
    for name, latencies in each.items():
        if latencies:
            p50, p95, p99 = 1000 * np.percentile(latencies, (50, 95, 99))
            print(f"latency {name}: p50 {p50:.0f}, p95 {p95:.0f}, p99 {p99:.0f} ms ({len(latencies)} frames)")
    print(
        "resident: "
        + ", ".join(
            f"{x:.0f} MiB {when}"
            for x, when in zip(memory, ("at an eighth", "after the strangers", "at the end"), strict=True)
        )
    )


def compare(taken: list[tuple[Path, Any]]) -> None:
    """Print how far poses are from those of `stream` on the same frames."""
    from PIL import Image

    from ivggt_jax import CacheConfig, SubmapConfig, cameras_from_pose, fit, load, stream

    model = load("demo")
    images = (fit(Image.open(path), model.config.image_size) for path, _ in taken)
    cache = CacheConfig(total_budget=BUDGET)
    found = stream(model, images, cache, heads=("camera", "depth"), submaps=SubmapConfig())
    expected = [np.asarray(cameras_from_pose(p.pose_encoding, *p.depth.shape)[0]) for p in found]
    error = np.abs(np.array([pose for _, pose in taken]) - np.array(expected)).max(axis=(1, 2))
    print(
        f"poses of {len(taken)} frames against stream: {np.median(error):.1e} in the median, {error.max():.1e} at most"
    )


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--hostile", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=2, help="frames a second of each client")
    options = parser.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    cameras = asyncio.run(trial(options, port))
    compare(cameras[0].taken)


if __name__ == "__main__":
    main()
