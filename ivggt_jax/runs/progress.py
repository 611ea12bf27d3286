"""The progress of a run: a bar on a terminal, a plain line every few seconds elsewhere."""

import sys
import time
from collections import deque
from collections.abc import Iterable

import numpy as np
from tqdm import tqdm

from ivggt_jax.runs.command import say
from ivggt_jax.runs.stages import first_frame, took
from ivggt_jax.streaming.state import StreamState

SECONDS_BETWEEN_LINES = 5.0
"""Time between progress lines without a terminal."""
SECONDS_BETWEEN_WORDS = 0.5
"""Time between updates of the text beside a terminal's bar; a median of many times is too expensive for every frame."""
KEPT_TIMES = 10_000
"""Number of frame times kept for the percentiles in `run.json`."""
FULL = 0.99
"""Share of the budget from which the memory counts as full; each layer keeps whole tokens of its share."""


class Progress:
    """Counts frames, and shows their speed and how full the memory is."""

    def __init__(self, total: int | None, begin: int, state: StreamState, *, sure: bool = True, live: bool = False):
        """total: expected number of frames, None if unknown; begin: number of frames finished before this part of the run.

        sure: the total is not an estimate. live: the frames' timestamps are the Unix times of capture.
        """
        self._total, self._of = total, "/" if sure else " of about "
        self._bar = tqdm(total=total, initial=begin, unit="frame", disable=not sys.stderr.isatty(), dynamic_ncols=True)
        self._times: deque[float] = deque(maxlen=KEPT_TIMES)
        self._latencies: deque[float] = deque(maxlen=KEPT_TIMES)
        self._count = begin
        self._live = live
        self._first = None if live else first_frame(state)  # for a live source it is compiled earlier
        self._begun = time.perf_counter()
        self._last: float | None = None
        self._waiting = True
        self._line = self._begun
        budget = state.settings.cache.total_budget
        self._room = budget or state.settings.slots * state.settings.model.depth

    def advance(self, lengths: np.ndarray, frames: int = 1, taken: float | None = None) -> None:
        """Count `frames` more frames, the last captured at time `taken`; lengths [layer] are the live tokens afterwards."""
        now = time.perf_counter()
        self._count += frames
        if self._live and taken is not None:
            self._latencies.append(1000 * (time.time() - taken))
        if self._last is not None:  # the first one compiles
            self._times.extend([1000 * (now - self._last) / frames] * frames)
        elif self._waiting:  # not after a pause
            self._waiting = False
            if self._first is not None:
                took(self._first, now - self._begun)
            say(f"the first frame is done, after {now - self._begun:.1f} s")
            self._line = now
        self._last = now
        self._bar.update(self._count - self._bar.n)
        if now - self._line < (SECONDS_BETWEEN_LINES if self._bar.disable else SECONDS_BETWEEN_WORDS):
            return
        self._line = now
        filled = int(lengths.sum()) / self._room
        memory = "full: what adds least is forgotten" if filled >= FULL else f"{filled:.0%} full"
        words = ", ".join(filter(None, (self._pace(), f"the model's memory {memory}")))
        if self._bar.disable:
            of = f"{self._of}{self._total}" if self._total and self._count <= self._total else ""
            say(f"frame {self._count}{of}, {words}")
        else:
            self._bar.set_postfix_str(words, refresh=False)

    def pause(self) -> None:
        """Exclude the time until the next frame from its measured time."""
        self._last = None

    def percentiles(self) -> dict[str, float]:
        """Median and 95th percentile of the milliseconds between frames; empty if there are too few."""
        return _percentiles(self._times)

    def latencies(self) -> dict[str, float]:
        """The same for the milliseconds from a live frame's arrival to its pose; empty for other sources."""
        return _percentiles(self._latencies)

    def summary(self) -> str:
        """The speed as text, ", 12.5 frames/s"; empty if there were too few frames."""
        return f", {pace}" if (pace := self._pace()) else ""

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()

    def _pace(self) -> str:
        """Speed of the median frame: "12.5 frames/s, a pose 90 ms after its frame"."""
        words = []
        if self._times:
            words.append(f"{1000 / max(np.median(self._times), 1e-3):.3g} frames/s")
        if self._latencies:
            words.append(f"a pose {np.median(self._latencies):.0f} ms after its frame")
        return ", ".join(words)


def _percentiles(milliseconds: Iterable[float]) -> dict[str, float]:
    known = list(milliseconds)
    return {f"p{q}": float(np.percentile(known, q)) for q in (50, 95)} if known else {}
