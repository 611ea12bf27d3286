"""How a stream fares as it goes on: error, drift, memory and time as functions of the frame number.

A prediction is known up to a similarity, so a path is compared after Sim3. Its position error is the ATE over the spread
of the true positions (their root mean square distance from their mean): 0 is perfect, 1 no better than standing still,
and neither the length of the path nor its unit matters. Over all frames so far it shows drift; over the last hundred
alone it shows what the model can do at that moment.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax
import numpy as np

from ivggt_jax import geometry
from ivggt_jax.command import peak_memory
from ivggt_jax.config import CacheConfig
from ivggt_jax.evaluate.trajectory import evaluate_trajectory, inverse
from ivggt_jax.evaluate.walks import Walk, WalkPart
from ivggt_jax.model.parameters import Model
from ivggt_jax.model.vggt import Predictions
from ivggt_jax.stream import StreamState, infer_clip, init_stream, scan

WINDOW = 100
"""Frames of the local position error."""
CHUNK = 10
"""Frames computed at a time, and between two points of a curve."""


@dataclass(frozen=True, eq=False)
class Record:
    """What was predicted of one walk of S frames, and what it took."""

    name: str
    truth: np.ndarray
    """float64 [S,3,4]: world_from_cam."""
    found: np.ndarray
    """float64 [S,3,4]: the same as predicted, in a world and unit of its own."""
    depth_error: np.ndarray
    """[S]: AbsRel after each frame's own median scale."""
    depth_scale: np.ndarray
    """[S]: that scale, true over predicted; it wanders where the scale drifts."""
    milliseconds: np.ndarray
    """[S]: time per frame, NaN where a program was compiled."""
    tokens: np.ndarray
    """[S]: in the cache, over all layers."""
    host_megabytes: np.ndarray
    """[S]: most resident memory of the process so far, renderer and truth included."""
    state_bytes: int
    """Of everything the stream remembers."""
    clipped: int
    """Budgets of single layers that were clipped, summed over frames."""


def run_walks(model: Model, cache: CacheConfig, walks: Sequence[Walk], frames: int) -> list[Record]:
    """Feeds the walks, all of one size, side by side as one batch of streams; returns a record of each."""
    parts = [walk.part(0, CHUNK) for walk in walks]
    height, width = parts[0].images.shape[1:3]
    state = init_stream(
        model, replace(cache, max_frames=frames if cache.max_frames is None else cache.max_frames),
        height=height, width=width, batch=len(walks), heads=("camera", "depth"),
    )  # fmt: skip
    state_bytes = state.nbytes // len(walks)
    columns: list[list[dict[str, np.ndarray]]] = [[] for _ in walks]
    for start in range(0, frames, CHUNK):
        if start:
            parts = [walk.part(start, CHUNK) for walk in walks]
        state, predictions, seconds = _timed_scan(model, state, np.stack([part.images for part in parts], axis=1))
        taken = seconds * 1000 / CHUNK / len(walks) if start else np.nan
        for stream, part in enumerate(parts):
            columns[stream].append(_look(part, jax.tree.map(lambda x, i=stream: x[:, i], predictions), height, width))
            columns[stream][-1] |= {
                "milliseconds": np.full(CHUNK, taken),
                "tokens": np.full(CHUNK, int(state.lengths[stream].sum())),
                "host_megabytes": np.full(CHUNK, peak_memory()["host"] / 1e6),
            }
    return [
        Record(
            name=walk.name,
            state_bytes=state_bytes,
            clipped=int(state.clipped[stream]),
            **{name: np.concatenate([part[name] for part in columns[stream]])[:frames] for name in columns[stream][0]},
        )
        for stream, walk in enumerate(walks)
    ]


def record_clip(model: Model, walk: Walk, frames: int) -> Record:
    """The same of a walk's first frames seen all at once, each by all: the offline model, as a reference."""
    part = walk.part(0, frames)
    height, width = part.images.shape[1:3]
    predictions = jax.device_get(infer_clip(model, part.images[None], "offline", heads=("camera", "depth")))
    unknown = np.full(frames, np.nan)
    return Record(
        name=walk.name, milliseconds=unknown, tokens=unknown, host_megabytes=unknown, state_bytes=0, clipped=0,
        **_look(part, jax.tree.map(lambda x: x[0], predictions), height, width),
    )  # fmt: skip


def position_error(found: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Position error over the spread of the true positions, and mean rotation error in degrees, after Sim3.

    Both [S,3,4] world_from_cam; a prediction that is not finite has infinite errors.
    """
    if not np.isfinite(found).all():
        return np.inf, np.inf
    positions = truth[..., 3]
    spread = np.sqrt(np.mean(np.sum((positions - positions.mean(axis=0)) ** 2, axis=1)))
    errors = evaluate_trajectory(found, truth, "sim3").summary()
    return errors["ate"] / float(spread), errors["rotation_mean_degrees"]


def measures(record: Record, length: int) -> dict[str, float]:
    """What is left of a record's first `length` frames: errors, time and memory, one number each."""
    found, truth = record.found[:length], record.truth[:length]
    position, rotation = position_error(found, truth)
    starts = range(0, max(1, length - WINDOW + 1), WINDOW)
    windows = [position_error(found[i : i + WINDOW], truth[i : i + WINDOW]) for i in starts]
    return {
        "position_error": position,
        "rotation_error_degrees": rotation,
        "local_position_error": float(np.mean([error for error, _ in windows])),
        "depth_error": float(np.mean(record.depth_error[:length])),
        "milliseconds": float(np.nanmedian(record.milliseconds[:length])) if length > CHUNK else np.nan,
        "state_megabytes": record.state_bytes / 1e6,
    }


def curves(record: Record) -> dict[str, np.ndarray]:
    """Everything as a function of the frame number, float [S]; path errors change every `CHUNK` frames."""
    frames = len(record.truth)
    ends = [*range(CHUNK, frames, CHUNK), frames]
    so_far, local = ([], []) if frames >= 3 else ([np.nan], [np.nan])
    for end in ends if frames >= 3 else ():
        for errors, begin in ((so_far, 0), (local, max(0, end - WINDOW))):
            errors.append(position_error(record.found[begin:end], record.truth[begin:end])[0])
    steps = np.diff([0, *ends])
    return {
        "position error, all frames so far": np.repeat(so_far, steps),
        f"position error, last {WINDOW} frames": np.repeat(local, steps),
        "depth error (AbsRel)": record.depth_error,
        "depth scale": record.depth_scale,
        "tokens kept": record.tokens.astype(np.float64),
        "host memory (MB)": record.host_megabytes,
        "time per frame (ms)": record.milliseconds,
    }


def _timed_scan(model: Model, state: StreamState, images: np.ndarray) -> tuple[StreamState, Predictions, float]:
    """State and host predictions [T,B,…], and the seconds they took."""
    began = time.perf_counter()
    state, predictions = scan(model, state, images)
    predictions = jax.device_get(predictions)
    return state, predictions, time.perf_counter() - began


def _look(part: WalkPart, predictions: Predictions, height: int, width: int) -> dict[str, np.ndarray]:
    """Truth and prediction of one stream's chunk, frame by frame."""
    assert predictions.pose_encoding is not None
    assert predictions.depth is not None
    cam_from_world, _ = _cameras(predictions.pose_encoding, height, width)
    scales, errors = zip(*map(_depth_error, np.asarray(predictions.depth), part.depth), strict=True)
    return {
        "truth": part.world_from_cam,
        "found": inverse(np.asarray(cam_from_world, np.float64)),
        "depth_scale": np.array(scales),
        "depth_error": np.array(errors),
    }


_cameras = jax.jit(geometry.cameras_from_pose, static_argnums=(1, 2))


def _depth_error(depth: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Median scale of a frame, and its AbsRel after it; NaN without truth, infinite where the prediction is not finite."""
    known = truth > 0
    if not known.any():
        return np.nan, np.nan
    if not np.isfinite(depth[known]).all():
        return np.inf, np.inf
    scale = float(np.median(truth[known]) / np.median(depth[known]))
    return scale, float(np.mean(np.abs(scale * depth[known] - truth[known]) / truth[known]))
