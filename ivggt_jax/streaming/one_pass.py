"""Frames of a stream through the network, with the stream's memory: state in, state and predictions out."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Shaped

from ivggt_jax.memory.budgets import adaptive_total, layer_budgets
from ivggt_jax.memory.eviction import Eviction
from ivggt_jax.memory.origin import number_tokens
from ivggt_jax.memory.ring import CameraMemory, CameraRing
from ivggt_jax.memory.token_memory import TokenMemory
from ivggt_jax.memory.track_window import TrackWindow
from ivggt_jax.model.sensor import SensorUnit
from ivggt_jax.model.vggt import VGGT, Predictions, in_unit
from ivggt_jax.streaming.state import StreamState

FrameMemory = tuple[jax.Array, CameraRing | None, TrackWindow | None]
"""Frame number [B], camera ring and track window: the memory that is updated frame by frame."""


def one_pass(
    network: VGGT,
    state: StreamState,
    patches: Float[Array, "B S N width"],
    where: Bool[Array, " B"] | None = None,
    depth: Float[Array, "B S H W"] | None = None,
) -> tuple[StreamState, Predictions]:
    """The next S frames of each stream, from their patch tokens [B,S,N,width], in one pass; predictions [B,S,…].

    `depth` [B,S,H,W] is what a sensor measured.

    With `where` [B] bool only the streams it marks see and remember the frames. The others keep their state; they cost the pass,
    but no copy, and their predictions mean nothing.
    """
    settings = state.settings
    height, width = settings.height, settings.width
    if state.sensor is None:
        depth = None  # depth is for the map alone: this network does not take it
    if depth is not None:
        state, patches = _tell(network, state, patches, where, depth)
    state, outputs = _aggregate(network, state, patches, where)
    found = network.dense(outputs, height, width, settings.heads)
    if depth is not None and "depth" in found:
        assert state.sensor is not None
        sensor = state.sensor.answered(depth, found["depth"], state.frame)
        state = replace(state, sensor=jax.tree.map(partial(choose, where), sensor, state.sensor))
    if settings.features or settings.submaps is not None:
        found["features"] = outputs[-1]
    maps = None if state.tracks is None else network.track_maps(outputs, height, width).swapaxes(0, 1)

    def one_frame(
        memory: FrameMemory, inputs: tuple[jax.Array, jax.Array | None]
    ) -> tuple[FrameMemory, dict[str, jax.Array]]:
        frame, camera, tracks = memory
        tokens, feature_map = inputs
        found: dict[str, jax.Array] = {}
        # A stream left out by `where` writes to the slot that its next frame will overwrite before reading it.
        if camera is not None:
            of_frame = CameraMemory(camera, frame, settings.cache.camera_cache)
            poses, of_frame = network.camera.refine(tokens[:, None], of_frame)
            found["pose_encoding"], camera = poses[-1][:, 0], of_frame.ring
        if tracks is not None:
            assert feature_map is not None
            tracked, new = _track(network, frame, tracks, feature_map)
            found |= tracked
            tracks = replace(new, coordinates=choose(where, new.coordinates, tracks.coordinates))
        return (choose(where, frame + 1, frame), camera, tracks), found

    # The camera ring and the tracker advance frame by frame. The token cache is not in the carry, so the loop does not copy it.
    memory = (state.frame, state.camera, state.tracks)
    (frame, camera, tracks), each = lax.scan(one_frame, memory, (outputs[-1, :, :, 0].swapaxes(0, 1), maps))
    found |= {name: x.swapaxes(0, 1) for name, x in each.items()}
    return replace(state, frame=frame, camera=camera, tracks=tracks), in_unit(Predictions(**found), state.sensor)


def fresh(
    state: StreamState, where: Bool[Array, " B"], query_points: Float[Array, "B N 2"] | None = None
) -> StreamState:
    """Restart the streams marked in `where` [B] bool, as cheaply as possible: for use inside a compiled program.

    Old buffer contents remain but are never seen, NaN included: everything that reads slots masks dead ones. `clipped` and
    `dropped`, which count over the whole stream, continue. With `query_points` [B,N,2] those streams track new points from then
    on.
    """
    tracks = state.tracks
    if tracks is not None and query_points is not None:
        points = jnp.where(where[:, None, None], query_points, tracks.query_points)
        tracks = replace(tracks, query_points=points)
    sensor = state.sensor
    if sensor is not None:
        sensor = jax.tree.map(partial(choose, where), SensorUnit.empty(where.shape[0]), sensor)
    return replace(
        state,
        cache=replace(state.cache, length=jnp.where(where, 0, state.cache.length)),
        scores=jnp.where(where[:, None], 0, state.scores),
        budgets=jnp.where(where[:, None], state.settings.slots, state.budgets),
        frame=jnp.where(where, 0, state.frame),
        tracks=tracks,
        sensor=sensor,
    )


def token_memory(state: StreamState, frames: int, where: Bool[Array, " B"] | None = None) -> TokenMemory:
    """The memory that the aggregator attends to during the next `frames` of each stream that `where` [B] marks."""
    settings = state.settings
    return TokenMemory(
        cache=state.cache,
        scores=state.scores,
        budgets=None if settings.cache.total_budget is None else state.budgets,
        numbers=number_tokens(state.frame, frames, settings.tokens),
        eviction=Eviction(
            settings.cache, settings.tokens, settings.model.special_tokens, newest=state.frame + frames - 1
        ),
        where=where,
    )


def _tell(
    network: VGGT,
    state: StreamState,
    patches: Float[Array, "B S N width"],
    where: Bool[Array, " B"] | None,
    depth: Float[Array, "B S H W"],
) -> tuple[StreamState, Float[Array, "B S N width"]]:
    """The state and patch tokens with the measured depth added; the first depth sets the unit in which the stream gets depth."""
    assert state.sensor is not None
    sensor = state.sensor.after(depth)
    patches = network.aggregator.tell(patches, sensor.relative(depth))
    return replace(state, sensor=jax.tree.map(partial(choose, where), sensor, state.sensor)), patches


def _aggregate(
    network: VGGT, state: StreamState, patches: Float[Array, "B S N width"], where: Bool[Array, " B"] | None
) -> tuple[StreamState, Float[Array, "layer B S token features"]]:
    """The aggregator over the frames of one pass, attending to the cache; layer outputs [layer,B,S,P,2·width]."""
    settings, frames = state.settings, patches.shape[1]
    if settings.cache.total_budget is not None:
        budgets, clipped = _budgets(state)
        # Past `max_frames` the buffers are too small for the budget; the tokens that this costs are counted.
        lost = jnp.minimum(budgets, state.lengths + frames * settings.tokens) - settings.capacity
        state = replace(
            state,
            budgets=choose(where, jnp.minimum(budgets, settings.capacity), state.budgets),
            clipped=choose(where, state.clipped + clipped, state.clipped),
            dropped=choose(where, state.dropped + jnp.maximum(lost.max(-1), 0), state.dropped),
        )
    tokens = network.aggregator.tokens(patches, first=state.frame[:, None] + jnp.arange(frames) == 0)
    memory = token_memory(state, frames, where)
    outputs, memory = network.aggregator.alternate(tokens, settings.height, settings.width, memory)
    memory = memory.settle()
    # Past the end of an unbounded stream a frame still sees itself, and is then forgotten.
    excess = jnp.maximum(memory.cache.length - settings.capacity, 0)
    cache = replace(memory.cache, length=memory.cache.length - excess)
    return replace(state, cache=cache, scores=memory.scores, dropped=state.dropped + excess[0]), outputs


def _budgets(state: StreamState) -> tuple[Int[Array, "B layer"], Int[Array, " B"]]:
    """Tokens that each layer may keep, int32 [B,layer], and how many layers had their share clipped, int32 [B]."""
    config, total = state.settings.cache, state.settings.cache.total_budget
    assert total is not None
    shared = total if config.least_budget is None else adaptive_total(state.scores, config.least_budget, total)
    return layer_budgets(state.scores, shared, config.temperature, *state.settings.budget_limits)


def _track(
    network: VGGT, frame: Int[Array, " B"], window: TrackWindow, feature_map: Float[Array, "B h w features"]
) -> tuple[dict[str, jax.Array], TrackWindow]:
    """Tracks [B,N,2], visibility and confidence [B,N] of frame number `frame` [B], from its feature map and the window."""
    window = window.push(frame, feature_map)
    tracks, visibility, confidence = network.tracker(
        window.maps, window.query_points, start=window.start(frame), live=window.live(frame)
    )
    newest = jnp.arange(frame.shape[0]), window.slot(frame)
    found = {"tracks": tracks[newest], "visibility": visibility[newest], "track_confidence": confidence[newest]}
    return found, window.store(tracks)


def choose(
    where: Bool[Array, " B"] | None, new: Shaped[Array, "B *axes"], old: Shaped[Array, "B *axes"]
) -> Shaped[Array, "B *axes"]:
    """`new` [B,…], in the type of `old`, for the streams that `where` [B] marks (None: all), `old` for the others."""
    new = new.astype(old.dtype)
    return new if where is None else jnp.where(where.reshape(-1, *[1] * (new.ndim - 1)), new, old)
