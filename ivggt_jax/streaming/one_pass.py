"""Frames of a stream through the network, against what the stream remembers: state in, state and predictions out."""

from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
from jax import lax

from ivggt_jax.kernels.attention import attend_layer
from ivggt_jax.memory.budgets import adaptive_total, layer_budgets
from ivggt_jax.memory.cache import append
from ivggt_jax.memory.eviction import forget
from ivggt_jax.memory.origin import number_tokens
from ivggt_jax.memory.ring import CameraRing, attend_ring
from ivggt_jax.memory.stored_numbers import add_attention, store_residual
from ivggt_jax.memory.track_window import TrackWindow
from ivggt_jax.model.vggt import VGGT, Predictions
from ivggt_jax.streaming.state import StreamSettings, StreamState


def one_pass(
    network: VGGT, state: StreamState, patches: jax.Array, where: jax.Array | None = None
) -> tuple[StreamState, Predictions]:
    """The next S frames of each stream from their patch tokens [B,S,N,width], together; predictions [B,S,…].

    Streams that `where` [B] does not mark neither see nor remember the frames, and their predictions mean nothing. That
    costs no copy: what is written for them lies behind their live tokens, or where their next frame is written first.
    """
    settings = state.settings
    height, width = settings.height, settings.width
    before, (state, outputs) = state, _aggregate(network, state, patches, where)
    found = network.dense(outputs, height, width, settings.heads)
    if settings.features or settings.submaps is not None:
        found["features"] = outputs[-1]
    maps = None if state.tracks is None else network.track_maps(outputs, height, width).swapaxes(0, 1)

    def one_frame(memory, inputs):
        frame, camera, tracks = memory
        tokens, feature_map = inputs
        found = {}
        if camera is not None:
            found["pose_encoding"], camera = _camera(network, settings, frame, camera, tokens)
        if tracks is not None:
            of_frame, tracks = _track(network, frame, tracks, feature_map)
            found |= of_frame
        return (frame + 1, camera, tracks), found

    # These two remember frame by frame. The token cache is no part of it, so that nothing carries it along.
    memory = (state.frame, state.camera, state.tracks)
    (frame, camera, tracks), each = lax.scan(one_frame, memory, (outputs[-1, :, :, 0].swapaxes(0, 1), maps))
    found |= {name: x.swapaxes(0, 1) for name, x in each.items()}
    if where is not None:
        frame = jnp.where(where, frame, before.frame)
        if tracks is not None and before.tracks is not None:
            kept = jnp.where(where[:, None, None, None], tracks.coordinates, before.tracks.coordinates)
            tracks = replace(tracks, coordinates=kept)
    return replace(state, frame=frame, camera=camera, tracks=tracks), Predictions(**found)


def fresh(state: StreamState, where: jax.Array, query_points: jax.Array | None = None) -> StreamState:
    """Streams marked in `where` [B] bool as they begin, and as cheaply as that can be: for use within a program.

    What the buffers hold stays there, unseen. With `query_points` [B,N,2] those streams track new points from then on.
    """
    tracks = state.tracks
    if tracks is not None and query_points is not None:
        points = jnp.where(where[:, None, None], query_points, tracks.query_points)
        tracks = replace(tracks, query_points=points)
    return replace(
        state,
        cache=replace(state.cache, length=jnp.where(where, 0, state.cache.length)),
        scores=jnp.where(where[:, None], 0, state.scores),
        budgets=jnp.where(where[:, None], state.settings.slots, state.budgets),
        frame=jnp.where(where, 0, state.frame),
        tracks=tracks,
    )


def _aggregate(
    network: VGGT, state: StreamState, patches: jax.Array, where: jax.Array | None
) -> tuple[StreamState, jax.Array]:
    """The aggregator over frames that share a pass, against the cache; layer outputs [layer,B,S,P,2·width]."""
    settings = state.settings
    config, tokens, capacity = settings.cache, settings.tokens, settings.capacity
    batch, frames = patches.shape[:2]
    aggregator = network.aggregator
    bounded = config.total_budget is not None
    evict_first = not (config.evict_after_attention or config.frames_per_step > 1)
    budgets, clipped = state.budgets, jnp.zeros_like(state.clipped)
    if config.total_budget is not None:
        total: int | jax.Array = config.total_budget
        if config.least_budget is not None:
            total = adaptive_total(state.scores, config.least_budget, config.total_budget)
        budgets, clipped = layer_budgets(state.scores, total, config.temperature, *settings.budget_limits)
        budgets = jnp.minimum(budgets, capacity)
    newest = state.frame + frames - 1
    origin = number_tokens(state.frame, frames, tokens)

    def down_to_budget(cache, scores, layer, after=()):
        special = settings.model.special_tokens
        budget = budgets[:, layer] if where is None else jnp.where(where, budgets[:, layer], settings.slots)
        return forget(cache, scores, layer, budget + _never(after), newest, config, tokens, special)

    def across(query, keys, values, memory, layer):
        cache, scores = memory
        keys, values = (x.reshape(batch, frames * tokens, *x.shape[2:]) for x in (keys, values))
        query = query.reshape(batch, frames, tokens, *query.shape[2:])
        cache = append(cache, layer, keys, values, origin)
        if bounded and evict_first:
            cache, scores = down_to_budget(cache, scores, layer)
        attended = []
        for frame in range(frames):  # each sees itself and what lies before it
            length = cache.length[layer] - (frames - 1 - frame) * tokens
            attended.append(attend_layer(query[:, frame], cache.keys, cache.values, layer, length, cache.scales))
            if settings.stored == "attention":
                seen = length if where is None else jnp.where(where, length, 0)
                cache = add_attention(cache, layer, query[:, frame], seen)
        if bounded and not evict_first:
            cache, scores = down_to_budget(cache, scores, layer, after=attended)
        return jnp.stack(attended, axis=1).reshape(batch * frames, tokens, *keys.shape[2:]), (cache, scores)

    def note(x, change, memory, layer):
        cache, scores = memory
        x, change = (a.reshape(batch, frames * tokens, -1) for a in (x, change))
        return store_residual(cache, layer, x, change, origin[:, 0], frames), scores

    first = state.frame[:, None] + jnp.arange(frames) == 0
    x = aggregator.tokens(patches, first)
    outputs, (cache, scores) = aggregator.alternate(
        x, settings.height, settings.width, across, (state.cache, state.scores),
        note=note if settings.stored == "residual" else None,
    )  # fmt: skip
    # Past the end of an unbounded stream a frame still sees itself, and is then forgotten.
    excess = jnp.maximum(cache.length - capacity, 0)
    length, dropped = cache.length - excess, excess[0]
    if where is not None:
        length = jnp.where(where, length, state.cache.length)
        budgets = jnp.where(where[:, None], budgets, state.budgets)
        clipped, dropped = jnp.where(where, clipped, 0), jnp.where(where, dropped, 0)
    state = replace(
        state, cache=replace(cache, length=length), scores=scores, budgets=budgets,
        clipped=state.clipped + clipped, dropped=state.dropped + dropped,
    )  # fmt: skip
    return state, outputs


def _never(arrays: Sequence[jax.Array]) -> jax.Array | int:
    """0, which XLA does not know before it has the arrays.

    What depends on it comes after what reads the cache for them; XLA would copy a cache that is written at any time.
    """
    return sum(jnp.any(x > jnp.inf).astype(jnp.int32) for x in arrays)


def _camera(
    network: VGGT, settings: StreamSettings, frame: jax.Array, ring: CameraRing, tokens: jax.Array
) -> tuple[jax.Array, CameraRing]:
    """Pose encoding [B,9] of frame [B] from its camera token [B,2·width], against the camera ring."""

    def across(query, keys, values, ring, layer, iteration):
        return attend_ring(ring, layer, iteration, frame, query, keys, values, settings.cache.camera_cache)

    poses, ring = network.camera.refine(tokens[:, None], across, ring)
    return poses[-1][:, 0], ring


def _track(
    network: VGGT, frame: jax.Array, window: TrackWindow, feature_map: jax.Array
) -> tuple[dict[str, jax.Array], TrackWindow]:
    """Tracks [B,N,2], visibility and confidence [B,N] of frame [B] from its map [B,h,w,features], against the window."""
    window = window.push(frame, feature_map)
    tracks, visibility, confidence = network.tracker(
        window.maps, window.query_points, start=window.start(frame), live=window.live(frame)
    )
    newest = jnp.arange(frame.shape[0]), window.slot(frame)
    found = {"tracks": tracks[newest], "visibility": visibility[newest], "track_confidence": confidence[newest]}
    return found, window.store(tracks)
