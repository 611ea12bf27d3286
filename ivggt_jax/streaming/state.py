"""The state of a stream, and the settings it was started with."""

from dataclasses import dataclass, field

import jax

from ivggt_jax.config import CacheConfig, ModelConfig
from ivggt_jax.kernels.attention import CHUNK
from ivggt_jax.mapping.config import SubmapConfig
from ivggt_jax.mapping.state import MapState
from ivggt_jax.memory.budgets import layer_capacity
from ivggt_jax.memory.cache import KVCache
from ivggt_jax.memory.policies import Extra, find_policy, stored_number
from ivggt_jax.memory.ring import CameraRing
from ivggt_jax.memory.track_window import TrackWindow
from ivggt_jax.model.brief import megabytes, shape
from ivggt_jax.model.sensor import SensorUnit
from ivggt_jax.streaming.known_focal import KnownFocal


@dataclass(frozen=True)
class StreamSettings:
    """Settings a stream was started with; static under jit."""

    model: ModelConfig
    cache: CacheConfig
    height: int
    width: int
    heads: tuple[str, ...]
    features: bool
    submaps: SubmapConfig | None = None

    @property
    def tokens(self) -> int:
        """Tokens per frame, P."""
        return self.model.tokens_per_frame(self.height, self.width)

    @property
    def budget_limits(self) -> tuple[int, int]:
        """Fewest and most tokens of a layer in a bounded cache: its anchors, at least one frame, and its buffer's capacity."""
        cache = self.cache
        assert cache.total_budget is not None
        most = layer_capacity(cache.total_budget, self.model.depth, cache.capacity_factor, cache.temperature)
        return max(cache.anchor_frames, 1) * self.tokens, most

    @property
    def capacity(self) -> int:
        """Most tokens a layer can ever keep; fewer than its budget where `max_frames` ends the stream earlier."""
        ends = [] if self.cache.max_frames is None else [self.cache.max_frames * self.tokens]
        return min(ends if self.cache.total_budget is None else [*ends, self.budget_limits[1]])

    @property
    def stored(self) -> Extra | None:
        """Which number the policy stores with every token; None where it stores none or nothing is ever evicted."""
        number = stored_number(find_policy(self.cache.policy))
        return None if self.cache.total_budget is None else number

    @property
    def slots(self) -> int:
        """Slots of a layer's buffer: its capacity plus the frames of one pass, which are appended before eviction."""
        needed = self.capacity + self.cache.frames_per_step * self.tokens
        unit = CHUNK if needed > CHUNK else 8
        return -(-needed // unit) * unit

    def check_budget(self) -> None:
        """Raises ValueError when a bounded cache has no room for the tokens that are never evicted."""
        if self.cache.total_budget is None:
            return
        smallest, least = self.cache.least_budget or self.cache.total_budget, self.budget_limits[0]
        if smallest < least * self.model.depth:
            raise ValueError(
                f"a budget of {smallest} in all is below the anchor frames, at least one, in each layer: {least} tokens × "
                f"{self.model.depth} layers = {least * self.model.depth} at {self.height}×{self.width}"
            )


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class StreamState:
    """Everything a stream remembers. Its size never changes."""

    settings: StreamSettings = field(metadata={"static": True})
    cache: KVCache
    scores: jax.Array
    """[B,layer] float32: mean redundancy at each layer's last eviction, 0 before."""
    budgets: jax.Array
    """[B,layer] int32: budget of each layer in the last step; all slots when the cache is unbounded."""
    frame: jax.Array
    """[B] int32: frames seen; with submaps, those that the memory of the present one has seen."""
    clipped: jax.Array
    """[B] int32: how often a layer's budget was clipped to its buffer or to one frame, summed over passes."""
    dropped: jax.Array
    """[B] int32: tokens per layer that did not fit the buffers because the stream went past `max_frames`."""
    camera: CameraRing | None
    tracks: TrackWindow | None
    map: MapState | None = None
    """Position of the stream in its world; None without submaps."""
    sensor: SensorUnit | None = None
    """Units in which depth goes in and comes out; None for a model without depth input."""
    focal: KnownFocal | None = None
    """Known focal length of a calibrated camera; None where the predicted one is used."""

    def __repr__(self) -> str:
        settings, cache, frame = self.settings, self.settings.cache, self.frame if self.map is None else self.map.frame
        seen = shape(frame)
        if isinstance(frame, jax.Array) and not isinstance(frame, jax.core.Tracer):
            if frame.is_deleted():
                return "StreamState(used up by the call that it was given to, which returned the next one)"
            seen = str(frame.tolist())
        kept = "everything" if cache.total_budget is None else f"{cache.total_budget:,} tokens by {cache.policy}"
        return (
            f"StreamState({settings.width}×{settings.height}, frames seen by each stream {seen}; keeps {kept}; predicts "
            f"{', '.join(settings.heads)}; {megabytes(self)}{'' if settings.submaps is None else ', with submaps'})"
        )

    @property
    def lengths(self) -> jax.Array:
        """[B,layer] int32: live tokens."""
        return self.cache.length.T

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return sum(x.nbytes for x in jax.tree.leaves(self))
