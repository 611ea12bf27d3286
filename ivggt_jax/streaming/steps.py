"""Streams of frames: state in, state and predictions out. The only module that compiles and donates the public steps."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from ivggt_jax.config import CacheConfig, HeadName
from ivggt_jax.mapping.config import SubmapConfig
from ivggt_jax.mapping.refinement import Focal
from ivggt_jax.mapping.state import MapState
from ivggt_jax.memory.cache import KVCache
from ivggt_jax.memory.ring import CameraRing
from ivggt_jax.memory.track_window import TrackWindow
from ivggt_jax.model.clip import ClipMode
from ivggt_jax.model.heads import DEFAULT_HEADS, HEADS
from ivggt_jax.model.parameters import Model
from ivggt_jax.model.sensor import SensorUnit
from ivggt_jax.model.vggt import VGGT, Predictions
from ivggt_jax.streaming.compiled import compiled, single_precision
from ivggt_jax.streaming.derivatives import guarded
from ivggt_jax.streaming.groups import groups
from ivggt_jax.streaming.inputs import (
    FrameArray,
    check_arrays,
    check_frames,
    depth_of,
    focal_of,
    in_range,
    marks,
    queries_of,
    sensor_depth,
    still,
    unit,
)
from ivggt_jax.streaming.known_focal import KnownFocal
from ivggt_jax.streaming.mapped_pass import mapped_pass, with_known_focal
from ivggt_jax.streaming.one_pass import choose, fresh, one_pass
from ivggt_jax.streaming.state import StreamSettings, StreamState


@single_precision
def infer_clip(
    model: Model,
    images: FrameArray,
    mode: ClipMode = "offline",
    query_points: FrameArray | None = None,
    *,
    heads: Iterable[HeadName] | None = None,
    features: bool = False,
    depth: FrameArray | None = None,
) -> Predictions:
    """Predictions for a whole clip at once; images [B,S,H,W,3], float32 in [0,1] or uint8.

    `offline`: every frame sees all frames (VGGT); `causal`: a frame sees itself and earlier ones (StreamVGGT). `query_points`
    [B,N,2] are (x, y) pixels of the first frame; `depth` [B,S,H,W] is as in `step`. Raises ValueError for other shapes or types,
    and for query points outside the frame.
    """
    check_arrays(images=images, query_points=query_points, depth=depth)
    if images.ndim != 5 or images.shape[-1] != 3 or not all(images.shape[:2]):
        raise ValueError(f"images must be [B,S,H,W,3] with at least one frame, not {list(images.shape)}")
    if mode not in ("offline", "causal"):
        raise ValueError(f"mode must be 'offline' or 'causal', not {mode!r}")
    model.config.patch_grid(*in_range(images).shape[2:4])
    queries = None if query_points is None else queries_of(query_points, images.shape[0], *images.shape[2:4])
    measured = sensor_depth(model, None, depth, images)
    return _clip(model, images, queries, measured, mode, _heads(model, heads, queries is not None), features)


@single_precision
def init_stream(
    model: Model,
    cache_config: CacheConfig | None = None,
    *,
    height: int,
    width: int,
    batch: int = 1,
    query_points: FrameArray | None = None,
    heads: Iterable[HeadName] | None = None,
    features: bool = False,
    submaps: SubmapConfig | None = None,
    focal: FrameArray | None = None,
) -> StreamState:
    """A fresh state for `batch` independent streams of height×width frames.

    `query_points` [B,N,2] are (x, y) pixels of each stream's first frame. With `submaps` a stream keeps one world and one unit
    however long it is. `focal` [B,2] are known focal lengths along x and y, in pixels of the frames; they replace the predicted
    ones, and the principal point is the image centre. Raises ValueError when the size is not a multiple of the patch size, the
    budget cannot hold one frame in each layer, submaps lack the heads `camera` and `depth`, or a query point is outside the frame.
    """
    check_arrays(query_points=query_points, focal=focal)
    config, cache_config = model.config, cache_config or CacheConfig()
    queries = None if query_points is None else queries_of(query_points, batch, height, width)
    chosen = _heads(model, heads, queries is not None)
    if submaps is not None and not {"camera", "depth"} <= set(chosen):
        raise ValueError(f"submaps are linked by the heads camera and depth; chosen are {', '.join(chosen)}")
    known = None if focal is None else KnownFocal.of(focal_of(focal, batch, chosen))
    settings = StreamSettings(config, cache_config, height, width, chosen, features, submaps)
    settings.check_budget()
    dtype = jnp.dtype(cache_config.dtype or model.params["aggregator"]["camera_token"].dtype)
    cached = (config.depth, batch, settings.slots, config.heads, config.head_dim)
    camera = _ring(settings, batch) if "camera" in settings.heads else None
    tracks = None
    if "tracks" in settings.heads:
        assert queries is not None  # checked by _heads
        tracks = TrackWindow.empty(queries, cache_config.track_window, height // 2, width // 2, config.track_features)
    return StreamState(
        settings=settings,
        cache=KVCache.empty(cached, dtype, extra=settings.stored is not None),
        scores=jnp.zeros((batch, config.depth), jnp.float32),
        budgets=jnp.full((batch, config.depth), settings.slots, jnp.int32),
        frame=jnp.zeros(batch, jnp.int32),
        clipped=jnp.zeros(batch, jnp.int32),
        dropped=jnp.zeros(batch, jnp.int32),
        camera=camera,
        tracks=tracks,
        map=None if submaps is None else _map(submaps, batch, height, width, queries, known),
        sensor=SensorUnit.empty(batch) if config.depth_input else None,
        focal=known,
    )


@compiled
def step(
    model: Model,
    state: StreamState,
    frame: FrameArray,
    where: FrameArray | None = None,
    masks: FrameArray | None = None,
    depth: FrameArray | None = None,
) -> tuple[StreamState, Predictions]:
    """Process one frame of each stream, [B,H,W,3], float32 in [0,1] or uint8. The given state is used up.

    With `where` [B] bool only the streams it marks take part; the others keep their state, and their predictions mean nothing.
    `masks` [B,H,W] bool are True on the static scene: submaps are linked, and poses refined, by those pixels alone; the network
    sees the whole frame. A frame with NaN or infinity breaks its own stream until `reset`.

    `depth` [B,H,W] is what a sensor measured, in metres; 0, negative, infinite and NaN mean "not measured", and any frame may
    lack it. With submaps all predictions are in metres from the first measurement on (`mapping.metric`). A model with
    `depth_input` also takes it as input (`model.sensor`); without submaps its predictions are in metres if the first frame has
    depth and the stream has the head `depth`.

    Raises ValueError for frames, masks or depth of another shape, for the state of a differently configured model, and for heads
    of the state that the model lacks.
    """
    check_frames(model, state, frame, 4)
    where = None if where is None else marks(state, where)
    model, images, measured = guarded(model, state, frame, depth)
    network, measured = model.network, None if measured is None else measured[:, None]
    patches = network.aggregator.encoder(images)[:, None]
    state, predictions = _pass(network, state, patches, still(images, masks)[:, None], measured, where)
    return state, jax.tree.map(lambda x: x[:, 0], predictions)


@compiled
def scan(
    model: Model,
    state: StreamState,
    frames: FrameArray,
    masks: FrameArray | None = None,
    depth: FrameArray | None = None,
) -> tuple[StreamState, Predictions]:
    """Process several frames of each stream, [T,B,H,W,3]; predictions are stacked along T. The given state is used up.

    Equals T steps, with `masks` and `depth` [T,B,H,W]; only the encoder, which treats frames independently, runs on all of them
    at once. With `frames_per_step` = n, every n frames share a pass. Raises ValueError when T is not a multiple of n.

    Differentiable where nothing is forgotten: with an unbounded cache and no submaps, on a CPU. Elsewhere differentiating raises
    ValueError.
    """
    check_frames(model, state, frames, 5)
    count, batch = frames.shape[:2]
    each = state.settings.cache.frames_per_step
    if count % each or not count:
        raise ValueError(f"{count} frames are no positive multiple of frames_per_step={each}")
    model, images, measured = guarded(model, state, frames, depth)
    network = model.network
    patches = network.aggregator.encoder(images.reshape(-1, *frames.shape[2:]))

    def grouped(x: jax.Array, axes: int) -> jax.Array:
        return x.reshape(count // each, each, batch, *x.shape[-axes:]).swapaxes(1, 2)

    measured = None if measured is None else grouped(measured, 2)
    passes = (grouped(patches, 2), grouped(still(images, masks), 3), measured)
    state, predictions = lax.scan(lambda state, inputs: _pass(network, state, *inputs), state, passes)
    return state, jax.tree.map(lambda x: x.swapaxes(1, 2).reshape(count, batch, *x.shape[3:]), predictions)


def stream(
    model: Model,
    frames: Iterable[FrameArray],
    cache_config: CacheConfig | None = None,
    *,
    chunk: int = 1,
    lookahead: int = 1,
    query_points: FrameArray | None = None,
    heads: Iterable[HeadName] | None = None,
    features: bool = False,
    submaps: SubmapConfig | None = None,
    focal: FrameArray | None = None,
    depth: Iterable[FrameArray | None] | None = None,
) -> Iterator[Predictions]:
    """Predictions of one stream, frame by frame, as host arrays without a batch axis.

    `frames` is any iterable of [H,W,3] arrays, all of the first one's size. They are computed `chunk` at a time, rounded up to a
    multiple of `frames_per_step`. `lookahead` chunks are computed while one is handed out; with 0 the predictions of a chunk come
    before the next frame is requested, as a live camera needs. `query_points` [N,2], `submaps` and `focal` [2] are
    those of `init_stream` for one stream. `depth` yields what a sensor measured of each frame, [H,W] or None (`step`).

    Raises ValueError before the first frame past `max_frames`, with submaps only if a submap may be longer. Whatever `frames` or
    `depth` raises is raised after all frames before it were handed out.
    """
    cache_config = cache_config or CacheConfig()
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1 frame, not {chunk}")
    if lookahead < 0:
        raise ValueError(f"lookahead must be 0 or more chunks, not {lookahead}")
    chunk = -(-chunk // cache_config.frames_per_step) * cache_config.frames_per_step
    most = cache_config.max_frames
    if submaps is not None and most is not None and most >= submaps.longest(cache_config.frames_per_step):
        most = None  # A submap fits.
    frames, depths = iter(frames), None if depth is None else iter(depth)
    state = None
    running: deque[tuple[Predictions, int]] = deque()
    try:
        for group in groups(islice(frames, most), chunk):
            if state is None:
                queries = None if query_points is None else jnp.asarray(query_points)[None]
                state = init_stream(
                    model, cache_config, height=group[0].shape[0], width=group[0].shape[1], query_points=queries,
                    heads=heads, features=features, submaps=submaps,
                    focal=None if focal is None else jnp.asarray(focal)[None],
                )  # fmt: skip
            # A short last group is padded: this avoids another compilation, and the state is not needed any more.
            padded = np.stack(group + [group[-1]] * (chunk - len(group)))[:, None]
            state, predictions = scan(model, state, padded, depth=depth_of(depths, group, chunk))
            running.append((predictions, len(group)))
            if len(running) > lookahead:
                yield from _unstacked(*running.popleft())
    except Exception:
        yield from _all_unstacked(running)
        raise
    yield from _all_unstacked(running)
    if most is not None and next(frames, None) is not None:
        raise ValueError(f"the stream is longer than max_frames={most} of its cache")


@compiled
def reset(state: StreamState, where: FrameArray, query_points: FrameArray | None = None) -> StreamState:
    """Restart the streams marked in `where` [B] bool: nothing they saw before has any influence, NaN included.

    Those streams track their first frame's query points again or, with `query_points` [B,N,2], as many new ones. Raises ValueError
    for another shape, and for points outside the frame.
    """
    where = marks(state, where)
    queries = None if state.tracks is None else state.tracks.first_points
    if query_points is not None:
        if queries is None or query_points.shape != queries.shape:
            had = "none" if queries is None else list(queries.shape)
            raise ValueError(f"query_points must be like those of the state, {had}, not {list(query_points.shape)}")
        queries = queries_of(query_points, where.shape[0], state.settings.height, state.settings.width)
    state = fresh(state, where, queries)
    if (tracks := state.tracks) is not None:
        first = choose(where, tracks.query_points, tracks.first_points)
        state = replace(state, tracks=replace(tracks, first_points=first))
    state = replace(state, clipped=jnp.where(where, 0, state.clipped), dropped=jnp.where(where, 0, state.dropped))
    if (known := state.focal) is not None:
        known = jax.tree.map(partial(choose, where), KnownFocal.of(known.length), known)
        state = replace(state, focal=known)
    if state.map is None:
        return state
    assert state.settings.submaps is not None
    begun = _map(state.settings.submaps, where.shape[0], state.settings.height, state.settings.width, None, known)
    begun = replace(begun, alive=None if state.map.alive is None else jnp.ones_like(state.map.alive))
    return replace(state, map=jax.tree.map(partial(choose, where), begun, state.map))


@partial(jax.jit, static_argnames=("mode", "heads", "features"))
def _clip(
    model: Model,
    images: FrameArray,
    query_points: jax.Array | None,
    depth: jax.Array | None,
    mode: ClipMode,
    heads: tuple[str, ...],
    features: bool,
) -> Predictions:
    network = model.network
    return network.clip(unit(images), mode=mode, heads=heads, query_points=query_points, features=features, depth=depth)


def _pass(
    network: VGGT,
    state: StreamState,
    patches: Float[Array, "B S N width"],
    images: Float[Array, "B S H W 3"],
    depth: Float[Array, "B S H W"] | None,
    where: Bool[Array, " B"] | None = None,
) -> tuple[StreamState, Predictions]:
    """One pass over frames [B,S,H,W,3], NaN where masked, with their patch tokens [B,S,N,width] and depth [B,S,H,W]."""
    if state.settings.submaps is None:
        state, found = one_pass(network, state, patches, where, depth)
        return with_known_focal(state, found, where)
    return mapped_pass(network, state, patches, images, where, depth)


def _map(
    submaps: SubmapConfig, batch: int, height: int, width: int, queries: jax.Array | None, known: KnownFocal | None
) -> MapState:
    begun = MapState.empty(submaps, batch, height, width, None if queries is None else queries.shape[1])
    return begun if known is None else replace(begun, focal=Focal.known(known.length))


def _ring(settings: StreamSettings, batch: int) -> CameraRing:
    """An empty ring for the camera head; if nothing is forgotten, it has room for every frame."""
    config, cache = settings.model, settings.cache
    frames = max(cache.max_frames or 0, 2) if cache.total_budget is None else cache.camera_frames
    head_dim = 2 * config.width // config.camera_heads
    return CameraRing.empty(config.camera_depth, batch, frames, config.camera_iterations, config.camera_heads, head_dim)


def _heads(model: Model, heads: Iterable[HeadName] | None, queries: bool) -> tuple[str, ...]:
    usual = (head for head in model.config.predicts if head in DEFAULT_HEADS or (head == "tracks" and queries))
    chosen = tuple(usual if heads is None else heads)
    unknown = sorted(set(chosen) - set(HEADS))
    if unknown:
        raise ValueError(f"unknown heads {', '.join(unknown)}; known: {', '.join(HEADS)}")
    if "tracks" in chosen and not queries:
        raise ValueError("the tracks head needs query_points")
    model.check_heads(chosen)
    return tuple(head for head in HEADS if head in chosen)


def _all_unstacked(running: deque[tuple[Predictions, int]]) -> Iterator[Predictions]:
    while running:
        yield from _unstacked(*running.popleft())


def _unstacked(predictions: Predictions, count: int) -> Iterator[Predictions]:
    host = jax.tree.map(np.asarray, predictions)
    for i in range(count):
        yield jax.tree.map(lambda x, i=i: x[i, 0], host)
