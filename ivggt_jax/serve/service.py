"""The parts of one server: limits, slots, the worker with the model, and threads that decode and encode."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import jax
import numpy as np

from ivggt_jax.config import CacheConfig
from ivggt_jax.model.parameters import Model
from ivggt_jax.runs.command import say
from ivggt_jax.runs.fitting import default_budget, free_cache
from ivggt_jax.runs.memory import free_memory, mapped_bytes
from ivggt_jax.serve.meters import Meters
from ivggt_jax.serve.options import Limits, ServeConfig
from ivggt_jax.serve.slots import Slots
from ivggt_jax.serve.worker import Worker
from ivggt_jax.sources.fit import Size
from ivggt_jax.streaming.state import StreamState
from ivggt_jax.streaming.steps import init_stream
from ivggt_jax.weights import loading

THREADS = 4
"""Number of threads that decode and encode; a client uses at most one at a time."""


class Service:
    """One model and its clients. Nothing is computed, and no thread runs, before `worker.start()`."""

    def __init__(self, model: Model, state: StreamState, limits: Limits, token: str | None = None):
        """state: fresh, with a stream for each possible client. token: required from clients; None: none."""
        self.limits, self.token = limits, token
        self.size: Size = (state.settings.width, state.settings.height)
        self.tracks = "tracks" in state.settings.heads
        self.meters = Meters()
        self.slots = Slots(len(state.frame))
        self.worker = Worker(model, state, self.slots, self.meters, limits.age)
        self.threads = ThreadPoolExecutor(THREADS, thread_name_prefix="pictures")


def load_service(config: ServeConfig) -> Service:
    """A service for the options of the command.

    Raises ValueError for options that make no sense, CheckpointError for a checkpoint that cannot be used.
    """
    config.check()
    say(f"loading {config.checkpoint}")
    model = loading.load(config.checkpoint)
    heads = ("camera", "depth", *(("tracks",) if config.track_grid else ()))
    model = model.only_heads(heads)
    width, height = config.size(model.config.image_size)
    cache = _cache(config, model, width, height)
    state = init_stream(
        model,
        cache,
        height=height,
        width=width,
        batch=config.clients,
        heads=heads,
        query_points=_grid(config, width, height) if config.track_grid else None,
        submaps=config.mapping.choose(model.config, None),
    )
    say(
        f"{config.clients} streams of {width}×{height}, {cache.total_budget:,} tokens each; {state.nbytes / 1e6:.0f} MB"
    )
    return Service(model, state, config.limits, config.token)


def _cache(config: ServeConfig, model: Model, width: int, height: int) -> CacheConfig:
    """The cache of each client's stream: the user's budget, or as much of the default as fits in free memory for all."""
    budget = config.budget or default_budget(model.config, height, width)
    cache = CacheConfig(total_budget=budget, policy=config.policy)
    if config.budget is not None:
        return cache
    room = free_memory(mapped_bytes(jax.tree.leaves(model.params)))
    return free_cache(model, cache, height, width, replace(room, free=room.free // config.clients))


def _grid(config: ServeConfig, width: int, height: int) -> np.ndarray:
    """Query points [B,N,2] on a regular grid, the same for each stream."""
    x, y = (np.linspace(0, side - 1, config.track_grid + 2)[1:-1] for side in (width, height))
    points = np.stack(np.meshgrid(x, y), axis=-1).reshape(1, -1, 2).astype(np.float32)
    return np.repeat(points, config.clients, axis=0)
