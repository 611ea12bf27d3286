"""Which client holds which stream of the batch, and the newest frame of each that waits for the next step."""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from ivggt_jax.model.vggt import Predictions
from ivggt_jax.sources.frame import Frame


@dataclass(frozen=True, eq=False)
class Waiting:
    """A frame that waits for its step."""

    id: int
    """The client's own number."""
    frame: Frame
    arrived: float
    """`time.monotonic()` when its message arrived."""


@dataclass(frozen=True, eq=False)
class Taken:
    """A frame that was processed."""

    waiting: Waiting
    number: int
    """Number of this client's frames processed before it."""
    predictions: Predictions
    """On the host, without leading axes."""


Late = Waiting
"""A frame that waited too long and was dropped."""
Answer = Callable[[Taken | Late], None]


class Slot:
    """A stream of the batch while one client holds it. Guarded by the lock of `Slots`."""

    def __init__(self, number: int, answer: Answer):
        self.number, self.answer = number, answer
        self.waiting: Waiting | None = None
        self.seen = 0
        """Frames processed; before the first one the stream is reset."""


class Slots:
    """The streams of the batch: clients claim, fill and release slots, and the worker takes the waiting frames. Thread-safe."""

    def __init__(self, count: int):
        self.count = count
        self._free = deque(range(count))
        self._held: dict[int, Slot] = {}
        self._changed = threading.Condition()

    def claim(self, answer: Answer) -> Slot | None:
        """A slot for a new client, or None when all are held. `answer` is called in the worker's thread."""
        with self._changed:
            if not self._free:
                return None
            slot = Slot(self._free.popleft(), answer)
            self._held[slot.number] = slot
            return slot

    def release(self, slot: Slot) -> None:
        """Release the slot of a client that has left; its waiting frame is discarded."""
        with self._changed:
            del self._held[slot.number]
            self._free.append(slot.number)

    def put(self, slot: Slot, waiting: Waiting) -> Waiting | None:
        """Queue a frame for the next step. Returns the older frame that it replaces, if any."""
        with self._changed:
            replaced, slot.waiting = slot.waiting, waiting
            self._changed.notify()
            return replaced

    def take(self, timeout: float) -> list[tuple[Slot, Waiting]]:
        """The waiting frames, at most one per client; waits up to `timeout` seconds if there are none."""
        with self._changed:
            self._changed.wait_for(lambda: any(slot.waiting for slot in self._held.values()), timeout)
            found = [(slot, slot.waiting) for slot in self._held.values() if slot.waiting]
            for slot, _ in found:
                slot.waiting = None
            return found

    def holds(self, slot: Slot) -> bool:
        """Whether the slot's client is still there."""
        return self._held.get(slot.number) is slot

    @property
    def held(self) -> int:
        """Number of slots that are held."""
        return len(self._held)
