"""Measures this implementation in the current process: first frame, frames with a full cache, stages and their minimum."""

import time
from dataclasses import asdict
from multiprocessing.connection import Connection
from typing import Any

import jax
import numpy as np

from ivggt_jax.bench import device
from ivggt_jax.bench.case import Case, fill, make_frames, make_model, start
from ivggt_jax.bench.costs import Cost, step_costs
from ivggt_jax.bench.process import requests
from ivggt_jax.bench.stages import time_stages
from ivggt_jax.model.vggt import Predictions
from ivggt_jax.runs.memory import peak_memory
from ivggt_jax.streaming.state import StreamSettings
from ivggt_jax.streaming.steps import scan, step

WARM_UP = 3
"""Frames before the first measured one; the first evictions move budgets between layers."""
FRAMES = 4
"""Number of different frames, used in turn."""


def measure(pipe: Connection, case: Case, count: int) -> None:
    """Serve requests for the measurements of `Own`, in a process of its own."""
    own = Own(case, count)
    for request in requests(pipe):
        pipe.send(getattr(own, request)())


class Own:
    """A stream whose calls are timed. Its methods, in order, are the requests."""

    def __init__(self, case: Case, count: int):
        """Load the model; `count` calls will be timed."""
        began = time.perf_counter()
        self._case, self._count = case, count
        self._model = jax.block_until_ready(make_model(case).only_heads(case.heads))
        self._load = time.perf_counter() - began
        device.forget_peak()
        self._frames = make_frames(case, self._model.config, FRAMES)
        self._calls = 0

    def begin(self) -> dict[str, Any]:
        """Compile and compute the first frame. Returns the seconds to load the model, and from there to the first predictions."""
        began = time.perf_counter()
        self._state = start(self._case, self._model)
        jax.device_get(self._call())
        first = time.perf_counter() - began
        settings = self._settings
        return {
            "settings": {
                **asdict(self._case),
                "height": settings.height,
                "width": settings.width,
                "tokens_per_frame": settings.tokens,
                "budget": settings.cache.total_budget,
                "frames_per_step": settings.cache.frames_per_step,
                "evict_after_attention": settings.cache.evict_after_attention,
                "cache_dtype": settings.cache.dtype,
                "precision": str(self._trunk),
                "state_bytes": self._state.nbytes,
            },
            "seconds": {"load": self._load, "first_frame": first},
            "machine": device.describe(),
        }

    def fill(self) -> dict[str, Any]:
        """Fill the cache as after the case's frames. Returns the live tokens in each layer."""
        self._state = fill(self._state, self._case.seen)
        for _ in range(WARM_UP):
            jax.device_get(self._call())
        return {"live_tokens": self._live()}

    def frame(self) -> float:
        """Seconds from a call to its predictions on the host, divided by the frames of each stream in it."""
        began = time.perf_counter()
        jax.device_get(self._call())
        return (time.perf_counter() - began) / self._case.chunk

    def finish(self) -> dict[str, Any]:
        """Frames per second with one call in flight, peak memory so far, and the stages with their minimum."""
        rate = self._throughput()
        memory = peak_memory()
        costs = self._costs()
        self._state, measured = time_stages(self._model, self._state, costs, self._count)
        rates = {
            "trunk": device.matrix_rate(self._trunk),
            "float32": device.matrix_rate("float32"),
            "bandwidth": device.bandwidth(),
        }
        stages = {
            name: {
                "seconds": measured[name],
                "operations": cost.operations,
                "bytes": cost.bytes,
                "floor": cost.floor(rates["trunk" if cost.trunk else "float32"], rates["bandwidth"]),
            }
            for name, cost in costs.items()
        }
        return {"frames_per_second": rate, "memory": memory, "rates": rates, "stages": stages}

    @property
    def _settings(self) -> StreamSettings:
        return self._state.settings

    @property
    def _trunk(self) -> np.dtype:
        return self._model.params["aggregator"]["camera_token"].dtype

    def _live(self) -> int:
        """Mean number of tokens per layer."""
        return round(float(np.mean(self._state.lengths)))

    def _costs(self) -> dict[str, Cost]:
        """Costs of the stages that a step has; a cache that is not full evicts nothing."""
        settings, live = self._settings, self._live()
        costs = step_costs(
            settings.model,
            settings.height,
            settings.width,
            live=live,
            batch=self._case.batch,
            trunk=self._trunk,
            cached=self._state.cache.keys.dtype,
            heads=settings.heads,
            camera_frames=settings.cache.camera_frames,
        )
        if live + settings.tokens <= (settings.cache.total_budget or 0) // settings.model.depth:
            del costs["eviction"]
        return costs

    def _call(self) -> Predictions:
        """Process the next frame or chunk."""
        frames = self._frames[self._calls % FRAMES]
        self._calls += 1
        if self._case.chunk == 1:
            self._state, predictions = step(self._model, self._state, frames[0])
        else:
            self._state, predictions = scan(self._model, self._state, frames)
        return predictions

    def _throughput(self) -> float:
        """Frames per second, of all streams, when a call's predictions are fetched while the next is computed."""
        began = time.perf_counter()
        before = self._call()
        for _ in range(self._count - 1):
            now = self._call()
            jax.device_get(before)
            before = now
        jax.device_get(before)
        return self._count * self._case.chunk * self._case.batch / (time.perf_counter() - began)
