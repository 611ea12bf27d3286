"""Faults at every step of something that works on files: an error, Ctrl-C, or the death of the process.

Python announces each system call on a path before it is made (its audit events), and a hook may refuse it. A process that
died is played by refusing every call from then on, so that no clean-up reaches the disk, as after SIGKILL.
"""

import errno
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

CALLS = frozenset({"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link", "fcntl.flock"})


class Killed(BaseException):
    """The process is dead: whatever it tries, nothing more happens."""


def failed() -> OSError:
    """What a broken disk says."""
    return OSError(errno.EIO, os.strerror(errno.EIO))


FAULTS: dict[str, Callable[[], BaseException]] = {"error": failed, "Ctrl-C": KeyboardInterrupt, "kill": Killed}


@dataclass
class Fault:
    """Refuses the call number `step` of this thread, and where that is `Killed` also those that follow."""

    step: int
    error: Callable[[], BaseException]
    calls: int = 0
    thread: int = field(default_factory=threading.get_ident)

    @property
    def happened(self) -> bool:
        return self.calls > self.step

    def meet(self, event: str) -> None:
        if event not in CALLS or threading.get_ident() != self.thread:
            return
        self.calls += 1
        if self.calls == self.step + 1 or (self.happened and self.error is Killed):
            raise self.error()


_ACTIVE: list[Fault] = []
_HOOKED: list[bool] = []


@contextmanager
def injected(fault: Fault) -> Iterator[None]:
    """Play the fault inside the block; whatever comes of it ends there, and what else is raised passes."""
    if not _HOOKED:
        sys.addaudithook(lambda event, _: [fault.meet(event) for fault in _ACTIVE] and None)
        _HOOKED.append(True)  # a hook cannot be taken off
    _ACTIVE.append(fault)
    try:
        yield
    except BaseException:
        if not fault.happened:
            raise
    finally:
        _ACTIVE.remove(fault)


def at_every_step(error: Callable[[], BaseException], attempt: Callable[[], object]) -> Iterator[int]:
    """Attempt again and again, with the fault one step later each time, until it ends without meeting it.

    Yields the number of the step after each attempt that met it, to look at what is left.
    """
    step = 0
    while True:
        fault = Fault(step, error)
        with injected(fault):
            attempt()
        if not fault.happened:
            assert step > 0, "nothing was attempted"
            return
        yield step
        step += 1
