"""How far a run is: a bar on a terminal, a plain line every few seconds elsewhere."""

import sys
import time
from collections import deque

import numpy as np
from tqdm import tqdm

from ivggt_jax.runs.command import say
from ivggt_jax.streaming.state import StreamState

SECONDS_BETWEEN_LINES = 5.0
"""Between progress lines where there is no terminal."""
KEPT_TIMES = 10_000
"""Frame times remembered for the percentiles in `run.json`."""


class Progress:
    """Counts frames, and shows ms/frame and how full the cache is."""

    def __init__(self, total: int | None, begin: int, state: StreamState):
        """total: frames to expect, None when unknown; begin: those that an earlier part of the run had finished."""
        self._total = total
        self._bar = tqdm(total=total, initial=begin, unit="frame", disable=not sys.stderr.isatty(), dynamic_ncols=True)
        self._times: deque[float] = deque(maxlen=KEPT_TIMES)
        self._count = begin
        self._last: float | None = None
        self._line = time.perf_counter()
        budget = state.settings.cache.total_budget
        self._room = budget or state.settings.slots * state.settings.model.depth

    def advance(self, lengths: np.ndarray, frames: int = 1) -> None:
        """So many more frames are done; lengths [layer] are the live tokens after them."""
        now = time.perf_counter()
        self._count += frames
        if self._last is not None:  # The first one compiles.
            self._times.extend([1000 * (now - self._last) / frames] * frames)
        self._last = now
        if self._bar.disable and now - self._line < SECONDS_BETWEEN_LINES:
            return
        self._line = now
        pace = f"{np.median(self._times):.0f} ms/frame" if self._times else "compiled"
        filled = f"cache {100 * int(lengths.sum()) / self._room:.0f} %"
        if self._bar.disable:
            of = f"/{self._total}" if self._total else ""
            say(f"frame {self._count}{of}, {pace}, {filled}")
        else:
            self._bar.set_postfix_str(f"{pace}, {filled}", refresh=False)
            self._bar.update(self._count - self._bar.n)

    def pause(self) -> None:
        """What happens until the next frame is not that frame's time."""
        self._last = None

    def percentiles(self) -> dict[str, float]:
        """Median and 95th percentile of the time between frames; empty when there were too few."""
        return {f"p{q}": float(np.percentile(self._times, q)) for q in (50, 95)} if self._times else {}

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()
