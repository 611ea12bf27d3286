"""The processes of a split run, and the pieces they are working on."""

import subprocess
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import count
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any

from ivggt_jax.sources import SourceError
from ivggt_jax.split.messages import Ahead, Answer, Ended, Order, Piece, Seen, Task

PROCESS = "ivggt_jax.split.process"
ATTEMPTS = 3
"""How often a piece is given to a process if processes die of it."""
SECONDS_TO_WAIT = 0.05
"""Time to wait for an answer before checking for user input."""
SECONDS_TO_END = 10.0
"""Time to wait for a process that no longer answers."""


class Died(ValueError):
    """Processes died of a piece, one after the other."""


@dataclass(eq=False)
class OnTheWay:
    """A piece, and its results that were not taken yet."""

    piece: Piece
    number: int = -1
    """Number of the newest task for it; -1: no process has it."""
    seen: deque[Seen] = field(default_factory=deque)
    taken: int = 0
    """Number of frames taken."""
    again: int = 0
    """Number of frames to skip because a restarted process sends them again."""
    after: Piece | None = None
    """The next piece, if known."""
    ended: Ended | None = None
    deaths: list[str] = field(default_factory=list)


class Pool:
    """Several processes that see the pieces of a source in turn, some of them ahead of the current piece."""

    def __init__(self, order: Order, processes: int, while_waiting: Callable[[], None]):
        """while_waiting is called repeatedly while waiting for the next frame; an exception from it ends the wait."""
        self._order, self._while_waiting = order, while_waiting
        self._processes = [_Process(order) for _ in range(processes)]
        self._numbers = count()
        self._ways: deque[OnTheWay] = deque()
        self._most = order.submaps.frames + order.submaps.delay
        """Most frames held of a piece; few pieces have more."""

    def go_to(self, piece: Piece) -> None:
        """Go to the beginning of this piece, using its results so far if it was the next one, and then on to those after it."""
        while self._ways and self._ways[0].piece != piece:
            self._ways.popleft()
        if not self._ways:
            self._ways.append(OnTheWay(piece))
        for process in self._processes:
            if process.way is not None and process.way not in self._ways:
                process.way = None
                process.tell(None)

    def prolong(self) -> None:
        """Continue the current piece beyond its assumed end."""
        way = self._ways.popleft()
        self._ways.clear()
        self.go_to(replace(way.piece, least=way.taken + 1))
        self._ways[0].again = self._ways[0].taken = way.taken

    @property
    def after(self) -> Piece | None:
        """The piece after the current one, if known."""
        return self._ways[0].after

    def next(self) -> Seen | None:
        """The next frame of the current piece; None at its end.

        Raises SourceError when the frame cannot be read, Died when processes die of it.
        """
        way = self._ways[0]
        self._receive(0)  # so that no process waits for the map
        while not way.seen and way.ended is None:
            self._receive(SECONDS_TO_WAIT)
        if way.seen:
            way.taken += 1
            return way.seen.popleft()
        if way.ended is not None and way.ended.error is not None:
            raise SourceError(way.ended.error)
        return None

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.end()

    def _receive(self, seconds: float) -> None:
        """Handle the processes' messages; if none comes within `seconds`, check for user input."""
        self._hand_out()
        listened = {
            process.channel: process
            for process in self._processes
            if process.channel is not None and (process.way is None or len(process.way.seen) < self._most)
        }
        ready = wait(list(listened), seconds)
        if seconds and not ready:
            self._while_waiting()
        for channel in ready:
            process = listened[channel]  # type: ignore[index]
            try:
                self._note(process, process.receive())
            except (EOFError, OSError):
                self._note_death(process, process.end(SECONDS_TO_END))

    def _note(self, process: "_Process", answer: Answer) -> None:
        way = process.way
        if way is None or answer.number != way.number:
            return  # for a piece that is no longer wanted
        if isinstance(answer, Ahead):
            if way.after is None:
                way.after = answer.piece
        elif isinstance(answer, Ended):
            way.ended, process.way = answer, None
        elif way.again:
            way.again -= 1
        else:
            way.seen.append(answer)

    def _note_death(self, process: "_Process", how: str) -> None:
        way, process.way = process.way, None
        if way is None:
            return
        way.deaths.append(how)
        if len(way.deaths) == ATTEMPTS:
            where = f"the frames from number {way.piece.anchor.index} on"
            raise Died(f"processes died {ATTEMPTS} times over {where}: {', '.join(way.deaths)}")
        way.number, way.again = -1, way.taken + len(way.seen)

    def _hand_out(self) -> None:
        """Give pieces to idle processes, unless too many are in progress."""
        for process in self._processes:
            if process.way is None and (way := self._unseen()) is not None:
                way.number = next(self._numbers)
                process.way = way
                process.tell(Task(way.number, way.piece))

    def _unseen(self) -> OnTheWay | None:
        for way in self._ways:
            if way.number < 0:
                return way
        last = self._ways[-1]
        if last.after is None or len(self._ways) >= 2 * len(self._processes):
            return None
        self._ways.append(OnTheWay(last.after))
        return self._ways[-1]


class _Process:
    """One process, started when needed and restarted when it died."""

    def __init__(self, order: Order):
        self._order = order
        self._process: subprocess.Popen[bytes] | None = None
        self.channel: Connection[Any, Any] | None = None
        self.way: OnTheWay | None = None

    def tell(self, task: Task | None) -> None:
        """Give it a piece, or None for nothing, in place of the current one. Its death shows in `receive`.

        Raises OSError if it cannot be started.
        """
        messages: list[Order | Task | None] = [task]
        if self.channel is None:
            self.channel, messages = self._started(), [self._order, task]
        with suppress(OSError):
            for message in messages:
                self.channel.send(message)

    def receive(self) -> Answer:
        """Wait for its next answer. Raises EOFError or OSError when it died."""
        assert self.channel is not None
        answer: Answer = self.channel.recv()
        return answer

    def end(self, patience: float = 0) -> str:
        """End it if it has not ended within `patience` seconds, and return how it ended."""
        if self._process is None or self.channel is None:
            return "it was not there"
        self.channel.close()
        self.channel = None
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(patience)
        self._process.kill()  # harmless: it writes nothing to disk
        code = self._process.wait()
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def _started(self) -> "Connection[Any, Any]":
        ours, theirs = Pipe()
        number = theirs.fileno()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", PROCESS, str(number)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[number],
                start_new_session=True,  # Ctrl-C goes to the run, which ends them
            )
        return ours
