"""Records of a stream over time: error, drift, memory and time as functions of the frame number.

A prediction is known up to a similarity, so a path is compared after Sim3. Over all frames so far, which shows drift, the
position error is the ATE over the spread of the true positions (their root mean square distance from their mean): 0 is perfect, 1
no better than standing still, however long the path. Over each hundred frames, which shows the momentary quality, the path error
is the ATE over the length of that part of the path. Depth is compared after one scale per ten frames, so that of the scale only
its drift between them is left, which is reported separately.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial.transform import Rotation

from ivggt_jax import geometry
from ivggt_jax.config import CacheConfig
from ivggt_jax.evaluate.boundaries import boundary_f1
from ivggt_jax.evaluate.depth_sensor import MetricErrors, joined, measured_depth, metric_errors, metric_measures
from ivggt_jax.evaluate.loops import Loops, MapFollower
from ivggt_jax.evaluate.trajectory import evaluate_trajectory, straight_line
from ivggt_jax.evaluate.walk_cloud import WalkCloud, camera_points
from ivggt_jax.evaluate.walks import CHUNK, FIELD_OF_VIEW, Walk, WalkPart, depth_errors
from ivggt_jax.mapping.config import SubmapConfig
from ivggt_jax.model.parameters import Model
from ivggt_jax.model.vggt import Predictions
from ivggt_jax.runs.memory import peak_memory
from ivggt_jax.streaming.state import StreamState
from ivggt_jax.streaming.steps import infer_clip, init_stream, scan
from ivggt_jax.trajectories.alignment import inverse

WINDOW = 100
"""Frames over which the path error is measured."""
STEP = 4
"""Distance in frames between the cameras whose turning factor is measured."""
EARLY, LATE = slice(50, 100), slice(1000, 2000)
"""Frames whose depth errors are compared: soon after the start, and long after the memory was full."""


@dataclass(frozen=True, eq=False)
class Record:
    """Predictions for one walk of S frames, and their cost."""

    name: str
    truth: np.ndarray
    """float64 [S,3,4]: world_from_cam."""
    found: np.ndarray
    """float64 [S,3,4]: the same as predicted, in a world and unit of its own."""
    depth_error: np.ndarray
    """[S]: AbsRel after one scale for every `CHUNK` frames."""
    constant_depth_error: np.ndarray
    """[S]: the same for the best constant depth, which any model should beat."""
    depth_scale: np.ndarray
    """[S]: the scale, true over predicted; it wanders if the model's unit drifts."""
    depth_delta: np.ndarray
    """[S]: share of pixels whose depth, with that scale, is wrong by less than a factor of 1.25."""
    boundary_f1: np.ndarray
    """[S]: agreement of depth's contours with the true ones (`boundaries`); NaN where there are none."""
    milliseconds: np.ndarray
    """[S]: time per frame, of all streams together divided by their number; NaN where a program was compiled."""
    tokens: np.ndarray
    """[S]: tokens in the cache, over all layers."""
    host_megabytes: np.ndarray
    """[S]: peak resident memory of the process so far, including renderer and truth."""
    state_bytes: int
    """Size of everything the stream remembers."""
    clipped: int
    """How often a layer's budget was clipped, summed over passes."""
    cloud: WalkCloud | None
    """Points of one frame in every `CHUNK`; None for a clip."""
    loops: Loops | None
    """The result of closing loops at the end, if they were looked for."""
    metric: MetricErrors | None
    """Errors in metres, if a depth sensor was simulated."""
    parts: int | None
    """Number of parts of the map; None without submaps."""


def run_walks(
    model: Model,
    cache: CacheConfig,
    walks: Sequence[Walk],
    frames: int,
    submaps: SubmapConfig | None = None,
    loops: bool = False,
    sensor_every: int | None = None,
) -> list[Record]:
    """Run the walks, all of one size, as one batch of streams. Returns a record of each.

    The last chunk is processed whole; frames beyond `frames` are not recorded. With `loops`, which need submaps, each record also
    has the path corrected by them. With `sensor_every` n, which also needs submaps, every n-th frame comes with a simulated
    sensor's depth (`depth_sensor`).
    """
    height, width = walks[0].size
    cache = replace(cache, max_frames=-(-frames // CHUNK) * CHUNK)
    state = init_stream(
        model, cache, height=height, width=width, batch=len(walks), heads=("camera", "depth"), submaps=submaps
    )
    state_bytes = state.nbytes // len(walks)
    columns: list[list[dict[str, np.ndarray]]] = [[] for _ in walks]
    points: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in walks]
    metric: list[list[MetricErrors]] = [[] for _ in walks]
    followers = [MapFollower() for _ in walks] if loops else []
    for start in range(0, frames, CHUNK):
        parts = [walk.part(start, CHUNK) for walk in walks]
        measured = None if sensor_every is None else _measured(walks, parts, start, sensor_every)
        images = np.stack([part.images for part in parts], axis=1)
        state, predictions, seconds = _timed_scan(model, state, images, measured)
        taken = seconds * 1000 / CHUNK / len(walks) if start else np.nan
        for stream, part in enumerate(parts):
            own = jax.tree.map(lambda x, i=stream: x[:, i], predictions)
            if followers:
                followers[stream].add(part.images, own)
            if measured is not None:
                metric[stream].append(metric_errors(own.depth, part.depth, measured[:, stream]))
            columns[stream].append(_look(part, own) | _taken(state, stream, taken))
            points[stream].append(_first_points(part, own))
    records = [
        Record(
            name=walk.name,
            state_bytes=state_bytes,
            clipped=int(state.clipped[stream]),
            cloud=WalkCloud(np.arange(0, frames, CHUNK), *map(np.stack, zip(*points[stream], strict=True))),
            loops=None,
            parts=None if state.map is None else 1 + int(state.map.part[stream]),
            metric=joined(metric[stream], frames) if metric[stream] else None,
            **{name: np.concatenate([part[name] for part in columns[stream]])[:frames] for name in columns[stream][0]},
        )
        for stream, walk in enumerate(walks)
    ]
    if not followers:
        return records
    return [
        replace(record, loops=follower.finish().loops(record.found, record.truth, record.depth_scale))
        for record, follower in zip(records, followers, strict=True)
    ]


def record_clip(model: Model, walk: Walk, frames: int) -> Record:
    """A record of a walk's first frames seen all at once, each by all: the offline model, as a reference."""
    part = walk.part(0, frames)
    predictions = jax.device_get(infer_clip(model, part.images[None], "offline", heads=("camera", "depth")))
    unknown = np.full(frames, np.nan)
    return Record(
        name=walk.name, milliseconds=unknown, tokens=unknown, host_megabytes=unknown, state_bytes=0, clipped=0, cloud=None,
        loops=None, metric=None, parts=None,
        **_look(part, jax.tree.map(lambda x: x[0], predictions)),
    )  # fmt: skip


class PathErrors(NamedTuple):
    """Errors of a path after Sim3."""

    over_spread: float
    """ATE over the spread of the true positions."""
    over_length: float
    """ATE over the length of the true path."""
    rotation_degrees: float
    """Mean angle between predicted and true orientation."""


def path_errors(found: np.ndarray, truth: np.ndarray) -> PathErrors:
    """Errors of cameras [S,3,4] (world_from_cam); infinite if a prediction is not finite. Raises ValueError below 3 frames."""
    if not np.isfinite(found).all():
        return PathErrors(np.inf, np.inf, np.inf)
    positions = truth[..., 3]
    spread = np.sqrt(np.mean(np.sum((positions - positions.mean(axis=0)) ** 2, axis=1)))
    length = np.linalg.norm(np.diff(positions, axis=0), axis=1).sum()
    errors = evaluate_trajectory(found, truth, "sim3").summary()
    return PathErrors(errors["ate"] / float(spread), errors["ate"] / float(length), errors["rotation_mean_degrees"])


def turning_factor(found: np.ndarray, truth: np.ndarray) -> float:
    """Factor by which cameras [S,3,4] (world_from_cam) over-rotate between frames `STEP` apart; the truth has 1.

    The least-squares slope of predicted over true rotation vectors, each in the frame of its earlier camera. Infinite if a
    prediction is not finite; NaN if no true camera turns, or there are no such frames.
    """
    if not np.isfinite(found).all():
        return np.inf
    predicted, true = (_turns(cameras[..., :3]) for cameras in (found, truth))
    size = np.sum(np.square(true))
    return float(np.sum(predicted * true) / size) if size > 0 else np.nan


def _turns(orientations: np.ndarray) -> np.ndarray:
    """Rotation vectors [S − STEP,3], in radians, between cameras with orientations [S,3,3]."""
    steps = np.swapaxes(orientations[:-STEP], -1, -2) @ orientations[STEP:]
    return Rotation.from_matrix(steps).as_rotvec() if len(steps) else np.zeros((0, 3))


def measures(record: Record, length: int) -> dict[str, float]:
    """Summary of a record's first `length` frames: errors, time and memory, a number each.

    `path_error_percent` is the mean over all windows of `WINDOW` frames, and `line_error_percent` that of a straight line with
    equal steps; `scale_drift` is the standard deviation of the log of the depth scale; `late_over_early` the mean depth error of
    the `LATE` frames over that of the `EARLY` ones, only for streams long enough.
    """
    found, truth = record.found[:length], record.truth[:length]
    whole = path_errors(found, truth)
    depth_error, scale = record.depth_error[:length], record.depth_scale[:length]
    times = record.milliseconds[:length]
    times = times[np.isfinite(times)]
    numbers = {
        "depth_error": np.mean(depth_error),
        "depth_delta": np.mean(record.depth_delta[:length]),
        "boundary_f1": np.nanmean(record.boundary_f1[:length]),
        "constant_depth_error": np.mean(record.constant_depth_error[:length]),
        "scale_drift": np.std(np.log(scale)) if np.isfinite(scale).all() else np.inf,
        "path_error_percent": _window_error(found, truth),
        "line_error_percent": _window_error(straight_line(len(truth)), truth),
        "position_error": whole.over_spread,
        "rotation_error_degrees": whole.rotation_degrees,
        "turning_factor": turning_factor(found, truth),
        "milliseconds": np.median(times) if len(times) else np.nan,
        "state_megabytes": record.state_bytes / 1e6,
    }
    if length > LATE.start:
        numbers["late_over_early"] = np.mean(depth_error[LATE]) / np.mean(depth_error[EARLY])
    return {name: float(value) for name, value in numbers.items()}


def map_measures(record: Record) -> dict[str, float]:
    """Summary of a whole stream's map: the distance of its cloud from the scene, and the effect of loops on path and cloud."""
    numbers: dict[str, float] = {} if record.parts is None else {"parts": record.parts}
    if record.metric is not None:
        numbers |= metric_measures(record.metric, record.found, record.truth)
    if record.cloud is not None:
        numbers["cloud_error"] = record.cloud.distance(record.found, np.ones(len(record.found)), record.truth)
    if record.loops is not None:
        found, truth = record.loops.corrected, record.truth
        numbers["corrected_position_error"] = path_errors(found, truth).over_spread
        numbers["corrected_path_error_percent"] = _window_error(found, truth)
        if record.cloud is not None:
            numbers["corrected_cloud_error"] = record.cloud.distance(found, record.loops.scales, truth)
        numbers |= {"loops": record.loops.kept, "false_loops": record.loops.false}
    return numbers


def _window_error(found: np.ndarray, truth: np.ndarray) -> float:
    """Mean path error over all windows of `WINDOW` frames, in percent."""
    starts = range(0, max(1, len(truth) - WINDOW + 1), WINDOW)
    return 100 * float(np.mean([path_errors(found[i : i + WINDOW], truth[i : i + WINDOW]).over_length for i in starts]))


def curves(record: Record) -> dict[str, np.ndarray]:
    """All curves over the frame number, float [S]; path errors change every `CHUNK` frames."""
    ends = [*range(CHUNK, len(record.truth), CHUNK), len(record.truth)]
    so_far = [path_errors(record.found[:end], record.truth[:end]).over_spread for end in ends]
    local = [
        100 * path_errors(record.found[begin:end], record.truth[begin:end]).over_length
        for begin, end in ((max(0, end - WINDOW), end) for end in ends)
    ]
    steps = np.diff([0, *ends])
    return {
        "position error, all frames so far": np.repeat(so_far, steps),
        f"path error, last {WINDOW} frames (%)": np.repeat(local, steps),
        "depth error (AbsRel)": record.depth_error,
        "depth scale": record.depth_scale,
        "tokens kept": record.tokens.astype(np.float64),
        "host memory (MB)": record.host_megabytes,
        "time per frame (ms)": record.milliseconds,
    }


def _timed_scan(
    model: Model, state: StreamState, images: np.ndarray, depth: np.ndarray | None
) -> tuple[StreamState, Predictions, float]:
    """State, predictions [T,B,…] on the host, and the seconds they took."""
    began = time.perf_counter()
    state, predictions = scan(model, state, images, depth=depth)
    predictions = jax.device_get(predictions)
    return state, predictions, time.perf_counter() - began


def _measured(walks: Sequence[Walk], parts: Sequence[WalkPart], start: int, every: int) -> np.ndarray:
    """Simulated sensor depth of all walks for their parts from frame `start` on, float32 [T,B,H,W]."""
    pairs = zip(walks, parts, strict=True)
    return np.stack([measured_depth(walk, start, part.depth, every) for walk, part in pairs], axis=1)


def _taken(state: StreamState, stream: int, milliseconds: float) -> dict[str, np.ndarray]:
    """Time per frame and memory of one stream of the batch after a chunk, for each of its frames."""
    numbers = {
        "milliseconds": milliseconds,
        "tokens": int(state.lengths[stream].sum()),
        "host_megabytes": peak_memory()["host"] / 1e6,
    }
    return {name: np.full(CHUNK, number) for name, number in numbers.items()}


def _look(part: WalkPart, predictions: Predictions) -> dict[str, np.ndarray]:
    """Truth and prediction of a part of one stream, frame by frame."""
    assert predictions.pose_encoding is not None
    assert predictions.depth is not None
    cam_from_world, _ = _cameras(predictions.pose_encoding, *part.depth.shape[1:])
    depth = np.asarray(predictions.depth)
    errors = depth_errors(depth, part.depth)
    return {
        "truth": part.world_from_cam,
        "found": inverse(np.asarray(cam_from_world, np.float64)),
        "depth_error": errors.abs_rel,
        "constant_depth_error": part.constant_depth_error,
        "depth_scale": errors.scale,
        "depth_delta": errors.delta,
        "boundary_f1": np.array([boundary_f1(*maps) for maps in zip(depth, part.depth, strict=True)]),
    }


def _first_points(part: WalkPart, predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Points [N,3] of the part's first frame in its camera, predicted and true."""
    assert predictions.pose_encoding is not None
    assert predictions.depth is not None
    size = part.depth.shape[1:]
    _, intrinsics = _cameras(predictions.pose_encoding[:1], *size)
    true = geometry.intrinsics_from_field_of_view(jnp.deg2rad(FIELD_OF_VIEW), *size)
    return camera_points(np.asarray(predictions.depth[0]), np.asarray(intrinsics[0])), camera_points(
        part.depth[0], np.asarray(true)
    )


_cameras = jax.jit(geometry.cameras_from_pose, static_argnums=(1, 2))
