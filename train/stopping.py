"""Stopping between two steps on request of a user or a scheduler."""

import signal
from types import FrameType
from typing import Any, Self

import jax
from jax.experimental import multihost_utils

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Turns Ctrl-C and SIGTERM into a request that the run checks after every step; a context manager.

    A second signal acts at once. Several processes agree on a step, because JAX passes one's SIGTERM on to all.
    """

    def __init__(self) -> None:
        self._requested = False
        self._before: dict[signal.Signals, Any] = {}

    def requested(self, step: int) -> bool:
        """Whether to stop after this step; must be called after every step."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._requested

    def __enter__(self) -> Self:
        if jax.process_count() == 1:
            self._before = {number: signal.signal(number, self._request) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _request(self, number: int, frame: FrameType | None) -> None:
        self._requested = True
        self.__exit__()
