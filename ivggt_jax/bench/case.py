"""The measured configuration: a model, a size, and a cache as full as after many frames."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ivggt_jax.config import CacheConfig, ModelConfig, PresetName
from ivggt_jax.kernels.attention import CHUNK
from ivggt_jax.mapping.config import SubmapConfig
from ivggt_jax.memory.ring import CameraRing
from ivggt_jax.model.parameters import Model, cast, compute_dtypes
from ivggt_jax.sources.fit import parse_size, usual_size
from ivggt_jax.streaming.state import StreamState
from ivggt_jax.streaming.steps import init_stream
from ivggt_jax.weights import loading

KEPT_FRAMES = 48
"""Frames per layer if no budget is given; at 518×392 that is about the published 1,200,000 tokens in total."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One configuration to measure. Raises ValueError when fields are out of range."""

    model: Literal["vggt_1b", "demo", "tiny"] = "vggt_1b"
    """Architecture, with random weights; nothing is downloaded."""
    checkpoint: str | None = None
    """Measure these weights instead: a folder, a file, a published name, or demo."""
    size: str | None = None
    """Frame size as WIDTHxHEIGHT, such as 518x392; by default the model's own width, and 3/4 of it as height."""
    budget: int | None = None
    """Tokens kept, over all layers; by default 48 frames per layer, 1,200,000 for the full model at its size."""
    capacity_factor: float = 1.5
    """Size of a layer's buffer over its mean share of the budget."""
    seen: int = 10_000
    """Frames that the stream has already seen, which fill its cache."""
    batch: int = 1
    """Streams in one step."""
    chunk: int = 1
    """Frames that one call computes; more than 1 go through `scan`."""
    frames_per_step: int = 1
    """Frames of a call that share a pass; must divide `chunk`. 1 means the preset's number."""
    preset: PresetName = "exact"
    """exact: as published; fast and small change the order of the steps and need a `chunk` of 4."""
    evict_after_attention: bool = False
    """Evict after attention, not before; several frames per pass always do."""
    cache_dtype: Literal["int8", "bfloat16", "float32"] | None = None
    """Type of cached keys and values; by default the trunk's."""
    heads: tuple[Literal["camera", "depth", "points"], ...] = ("camera", "depth", "points")
    """What to predict."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the trunk; auto is bfloat16 on a GPU, float32 on a CPU."""

    def __post_init__(self) -> None:
        for name in ("seen", "batch", "chunk", "frames_per_step"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(self, name)}")
        if self.chunk % self.together:
            raise ValueError(f"--chunk {self.chunk} is not a multiple of --frames-per-step {self.together}")
        if self.size is not None:
            parse_size(self.size)

    @property
    def together(self) -> int:
        """Frames that share a pass."""
        return self.frames_per_step if self.frames_per_step > 1 else CacheConfig.preset(self.preset).frames_per_step

    def image_size(self, config: ModelConfig) -> tuple[int, int]:
        """Height and width of a frame."""
        width, height = usual_size(config.image_size) if self.size is None else parse_size(self.size)
        return height, width

    def cache(self, config: ModelConfig) -> CacheConfig:
        """The stream's cache."""
        height, width = self.image_size(config)
        published, chosen = CacheConfig().total_budget, CacheConfig.preset(self.preset)
        assert published is not None
        assert chosen.total_budget is not None
        kept = KEPT_FRAMES * chosen.total_budget // published * config.tokens_per_frame(height, width) * config.depth
        full = replace(config, predicts=ModelConfig().predicts) == ModelConfig()
        if full and (height, width) == Case().image_size(config):
            kept = chosen.total_budget
        return replace(
            chosen,
            total_budget=kept if self.budget is None else self.budget,
            capacity_factor=self.capacity_factor,
            frames_per_step=self.together,
            evict_after_attention=self.evict_after_attention or chosen.evict_after_attention,
            dtype=self.cache_dtype or chosen.dtype,
        )


def make_model(case: Case) -> Model:
    """The case's model on the device; random weights are the same in every process."""
    dtype = None if case.precision == "auto" else case.precision
    if case.checkpoint is not None:
        return loading.load(case.checkpoint, dtype)
    trunk = compute_dtypes(("aggregator/",), dtype)["aggregator/"]  # that of the device, before it is the host
    # On the host, so that the float32 original never counts as device memory.
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        model = cast(Model.initialise(getattr(ModelConfig, case.model)(), jax.random.key(0)), trunk)
    return jax.device_put(model, jax.local_devices()[0])


def make_frames(case: Case, config: ModelConfig, count: int) -> np.ndarray:
    """Noise, uint8 [count,chunk,batch,H,W,3]; the content of a picture does not affect the time."""
    shape = (count, case.chunk, case.batch, *case.image_size(config), 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def start(case: Case, model: Model, submaps: SubmapConfig | None = None) -> StreamState:
    """A fresh state."""
    height, width = case.image_size(model.config)
    cache = case.cache(model.config)
    return init_stream(model, cache, height=height, width=width, batch=case.batch, heads=case.heads, submaps=submaps)


@partial(jax.jit, static_argnames="seen", donate_argnames="state")
def fill(state: StreamState, seen: int) -> StreamState:
    """The state as after `seen` frames, with random keys and values; every layer has its share of the budget.

    It is filled in place, a few slots at a time, so that it needs no further memory. The tokens' origin is not filled in, because
    the published policy does not use it.
    """
    settings, cache = state.settings, state.cache
    assert settings.cache.total_budget is not None  # Case has no unbounded cache
    share = settings.cache.total_budget // settings.model.depth
    cache = replace(
        cache,
        keys=_random(cache.keys, 0),
        values=_random(cache.values, 1),
        length=jnp.full_like(cache.length, min(share, settings.capacity, seen * settings.tokens)),
    )
    camera = state.camera
    if camera is not None:
        camera = CameraRing(_random(camera.keys, 2), _random(camera.values, 3))
    return replace(state, cache=cache, camera=camera, frame=jnp.full_like(state.frame, seen))


def _random(buffer: jax.Array, seed: int) -> jax.Array:
    """A buffer [layer,batch,slot,…] overwritten with normally distributed numbers."""
    layers, _, slots = buffer.shape[:3]
    unit = CHUNK if slots % CHUNK == 0 else slots
    shape = (1, buffer.shape[1], unit, *buffer.shape[3:])

    def write(index: jax.Array, buffer: jax.Array) -> jax.Array:
        layer, part = index // (slots // unit), index % (slots // unit)
        numbers = jax.random.normal(jax.random.fold_in(jax.random.key(seed), index), shape)
        where: list[jax.Array | int] = [layer, 0, part * unit, *([0] * len(shape[3:]))]
        return lax.dynamic_update_slice(buffer, numbers.astype(buffer.dtype), where)

    return lax.fori_loop(0, layers * (slots // unit), write, buffer)
