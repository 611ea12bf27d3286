"""Passes videos to a process (`ivggt_jax.batch.process`), one after the other, and waits for it.

The process is separate from its caller (a thread here, an actor on Ray) because it may be killed, run out of memory or take too
long. Its folder then keeps what it had finished, for the next process to resume.
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

from ivggt_jax.batch.manifest import Row
from ivggt_jax.batch.options import BatchConfig
from ivggt_jax.inference.options import InferConfig
from ivggt_jax.runs.output_folder import mark_of

PROCESS = "ivggt_jax.batch.process"
ATTEMPTS = 3
"""How often a video is tried if its worker dies; each attempt resumes from the last saved state."""
LONGEST = 24 * 86400.0
"""Seconds from which a time limit is none: the system's calls take at most 2³¹ milliseconds."""
SECONDS_TO_SAVE = 60.0
"""Time that a stopped worker has to finish its frame and save."""


@dataclass(frozen=True)
class Task:
    """A row of the manifest to process, and the source's own options for `infer`."""

    row: Row
    options: tuple[str, ...] = ()


class Worker:
    """Runs tasks in a process of its own, started when needed and restarted when it died. For use by one thread at a time."""

    def __init__(self, config: BatchConfig, job: Path, number: int = 0, among: int = 1):
        """job: folder of all runs; number: of this worker among those of this process; among: workers that share its memory."""
        self._config, self._job, self._number, self._among = config, job, number, among
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Connection[Any, Any] | None = None
        self._stopping = threading.Event()

    def run(self, task: Task) -> Row:
        """Run a task and return its row. Errors are recorded in the row; nothing is raised."""
        begun = time.perf_counter()
        try:
            outcome = self._attempts(self._config.of(task.row.source, self._job / task.row.path, task.options))
        except Exception as error:  # an exception that leaves an actor would end the whole job on Ray
            outcome = {"status": "failed", "error": str(error) or type(error).__name__}
        changes = {"frames": None, "error": None, "worker": self._name(), **outcome}
        return dataclasses.replace(task.row, seconds=round(time.perf_counter() - begun, 3), **changes)

    def stop(self, at_once: bool = False) -> None:
        """Stop the current video, saving it first unless `at_once`. Called from another thread; no further tasks are taken."""
        self._stopping.set()
        self._signal(signal.SIGKILL if at_once else signal.SIGTERM)

    def close(self) -> None:
        """End the process."""
        if self._channel is not None:
            self._channel.close()  # this ends a waiting process
        if self._process is not None:
            self._process.wait()
        self._process = self._channel = None

    def _attempts(self, config: InferConfig) -> dict[str, Any]:
        deaths: list[str] = []
        assert config.out is not None
        earlier, limit = mark_of(config.out), self._config.time_limit
        while len(deaths) < ATTEMPTS:
            channel = None if self._stopping.is_set() else self._started()
            # Asked again, because a process that did not exist could not be signalled.
            if channel is None or self._stopping.is_set():
                return {"status": "stopped"}
            try:
                channel.send(config)
                if channel.poll(limit if limit and limit < LONGEST else None):
                    return channel.recv()
            except (EOFError, OSError):
                deaths.append(self._death())
                begun = mark_of(config.out) != earlier
                if begun or not config.overwrite:  # otherwise the folder still holds the earlier run
                    config = dataclasses.replace(config, overwrite=False, resume=True)
                continue
            return self._overdue(channel)
        return {"status": "failed", "error": f"its worker died {ATTEMPTS} times: {', '.join(deaths)}"}

    def _overdue(self, channel: "Connection[Any, Any]") -> dict[str, Any]:
        """Stop the current video, and kill the process if it does not react."""
        self._signal(signal.SIGTERM)
        outcome: dict[str, Any] = {}
        with suppress(EOFError, OSError):
            if channel.poll(SECONDS_TO_SAVE):
                outcome = channel.recv()
        if not outcome:
            self._signal(signal.SIGKILL)
            self._death()
        if outcome.get("status") == "done":  # it finished just in time
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
                start_new_session=True,  # Ctrl-C goes to the job, which stops its workers
            )
        self._channel = ours
        # The time limit counts from here on. If the process dies instead, sending it a task fails.
        with suppress(EOFError, OSError):
            ours.recv()
        return ours

    def _death(self) -> str:
        """Why the process died."""
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
