"""What hands videos to a process (`ivggt_jax.batch.process`), one after the other, and waits for it.

The process is apart from that (a thread here, an actor on Ray), for it may be killed, run out of memory or take too long; and
what it had finished by then lies in its folder, to be resumed by the next.
"""

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from ivggt_jax.batch.inputs import local
from ivggt_jax.batch.manifest import Row
from ivggt_jax.batch.options import BatchConfig
from ivggt_jax.inference.options import InferConfig

PROCESS = "ivggt_jax.batch.process"
ATTEMPTS = 3
"""How often a video is tried whose worker dies, each time from the state that it saved last."""
SECONDS_TO_SAVE = 60.0
"""That a worker which is told to stop may take to finish its frame and save."""


@dataclass(frozen=True)
class Task:
    """A row of the manifest that is to be done, and what `infer` is told of it alone."""

    row: Row
    options: tuple[str, ...] = ()


class Worker:
    """Runs tasks in a process of its own, started when it is needed and anew when it died. For one thread at a time."""

    def __init__(self, config: BatchConfig, job: Path, number: int = 0, among: int = 1):
        """job: the folder of all runs; number: among the workers of this process; among: workers that share its memory."""
        self._config, self._job, self._number, self._among = config, job, number, among
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Connection[Any, Any] | None = None
        self._stopping = threading.Event()

    def run(self, task: Task) -> Row:
        """The task's row, filled in. Whatever goes wrong is in it; nothing is raised."""
        begun = time.perf_counter()
        try:
            with local(task.row.source, self._job / "inputs" / task.row.path) as frames:
                config = self._config.of(frames, self._job / task.row.path, task.options)
                outcome = self._attempts(config)
        except Exception as error:  # one that leaves an actor would end the whole job on Ray
            outcome = {"status": "failed", "error": str(error) or type(error).__name__}
        changes = {"frames": None, "error": None, "worker": self._name(), **outcome}
        return dataclasses.replace(task.row, seconds=round(time.perf_counter() - begun, 3), **changes)

    def stop(self, at_once: bool = False) -> None:
        """Have the video at hand stopped, and saved unless that is to be at once; from another thread. The last thing it does."""
        self._stopping.set()
        self._signal(signal.SIGKILL if at_once else signal.SIGTERM)

    def close(self) -> None:
        """End the process."""
        if self._channel is not None:
            self._channel.close()  # which ends a process that waits
        if self._process is not None:
            self._process.wait()
        self._process = self._channel = None

    def _attempts(self, config: InferConfig) -> dict[str, Any]:
        deaths: list[str] = []
        while len(deaths) < ATTEMPTS:
            channel = self._started()
            if self._stopping.is_set():  # here, so that a process which was not there to be signalled gets no work
                return {"status": "stopped"}
            try:
                channel.send(config)
                if channel.poll(self._config.time_limit):
                    return channel.recv()
            except (EOFError, OSError):
                deaths.append(self._death())
                config = dataclasses.replace(config, overwrite=False, resume=True)
                continue
            return self._overdue(channel)
        return {"status": "failed", "error": f"its worker died {ATTEMPTS} times: {', '.join(deaths)}"}

    def _overdue(self, channel: "Connection[Any, Any]") -> dict[str, Any]:
        """Stop the video at hand, and the process where it does not listen."""
        self._signal(signal.SIGTERM)
        outcome: dict[str, Any] = {}
        with suppress(EOFError, OSError):
            if channel.poll(SECONDS_TO_SAVE):
                outcome = channel.recv()
        if not outcome:
            self._signal(signal.SIGKILL)
            self._death()
        if outcome.get("status") == "done":  # it was so near
            return outcome
        return {**outcome, "status": "failed", "error": f"not done after {self._config.time_limit:g} s"}

    def _started(self) -> "Connection[Any, Any]":
        if self._channel is not None:
            return self._channel
        ours, theirs = Pipe()
        folder = self._job / "workers"
        folder.mkdir(exist_ok=True)
        number = theirs.fileno()
        with (folder / f"{socket.gethostname()}-{os.getpid()}-{self._number}.log").open("ab") as log, theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", PROCESS, str(number), "--among", str(self._among)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[number],
                start_new_session=True,  # Ctrl-C is for the job, which tells its workers
            )
        self._channel = ours
        return ours

    def _death(self) -> str:
        """What the process died of."""
        assert self._process is not None and self._channel is not None
        self._channel.close()
        code = self._process.wait()
        self._channel = None
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def _signal(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def _name(self) -> str | None:
        return None if self._process is None else f"{socket.gethostname()}:{self._process.pid}"
