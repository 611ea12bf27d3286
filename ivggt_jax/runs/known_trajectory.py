"""Results in the unit, or the frame, of a known trajectory; the model alone gives them up to scale only."""

from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from ivggt_jax.options.align import AlignOptions
from ivggt_jax.sources import Frame
from ivggt_jax.sources.image_file import no_file
from ivggt_jax.sources.times import ASSOCIATION_SECONDS, in_seconds, nearest_in_time
from ivggt_jax.trajectories.alignment import align_trajectory
from ivggt_jax.trajectories.tables import poses_from_tum, read_table
from ivggt_jax.transforms import Similarity
from ivggt_jax.writers.saved_run import SavedRun

FINEST = 1e-4
"""Largest distance between neighbouring numbers in float32, in which results are stored, as a share of the path's extent."""
CHECKED = 10
"""Frames at the start of a run whose times are checked before it continues."""
STATED, SLOWER = 2, 50
"""How much longer a video may be than it states, and how much slower pictures with times may follow each other later."""


def read_trajectory(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Times [N] in seconds and world_from_cam [N, 3, 4] from a TUM file, whose times may be Unix times in ms, µs or ns.

    Raises ValueError, naming the file, for any other content.
    """
    if not path.is_file():
        raise ValueError(f"{path}: {no_file(path)}; name a trajectory in TUM format")
    rows, problems = read_table(path, 8)
    poses = poses_from_tum(rows)
    known = np.isfinite(poses).all(axis=(1, 2))
    if problems or not known.any():
        raise ValueError(
            f"{path} is not a trajectory in TUM format, `timestamp tx ty tz qx qy qz qw` "
            f"({problems[0] if problems else 'no pose is finite'})"
        )
    return in_seconds(rows[known, 0]), poses[known]


def checked(frames: Iterator[Frame], path: Path, expected: int | None) -> Iterator[Frame]:
    """The same frames, if the first ten, which are read at once, may have poses in the trajectory.

    Args:
        frames: of a run.
        path: of the trajectory, a TUM file.
        expected: expected number of frames; None if unknown.

    Raises:
        ValueError: judging by the first ones, all frames come before or after the trajectory, or have no times.
    """
    times, _ = read_trajectory(path)
    first = list(islice(frames, CHECKED))
    _check_clock(path, times, first[0].timestamp)
    own = np.array([frame.index if frame.timestamp is None else frame.timestamp for frame in first], np.float64)
    step = np.diff(own).mean() if len(own) > 1 else 0.0
    longer = STATED if first[0].timestamp is None else STATED * SLOWER
    last = (
        np.inf if expected is None and len(first) == CHECKED else own[0] + longer * step * max(expected or 0, len(own))
    )
    if own[0] > times.max() + ASSOCIATION_SECONDS or last < times.min() - ASSOCIATION_SECONDS:
        kind = "numbers (they have no times)" if first[0].timestamp is None else "times"
        raise ValueError(
            f"{path} has no pose for any frame: its times go from {times.min():.3f} to {times.max():.3f}, the frames' {kind} "
            f"from {own[0]:.3f}, {own[-1]:.3f} being the {len(own)}th; both must be of one clock, in seconds"
        )
    return chain(first, frames)


def _check_clock(path: Path, times: np.ndarray, timestamp: float | None) -> None:
    """Raises ValueError for a trajectory in fractions of seconds if frames, like one with this time, only have numbers."""
    if timestamp is None and (np.abs(times - np.rint(times)) > ASSOCIATION_SECONDS).any():
        raise ValueError(
            f"{path} tells times, from {times.min():.3f} to {times.max():.3f}, but the frames have none: number its poses like "
            "the frames (0, 1, 2, …), or name the pictures by their times"
        )


def _check_near(path: Path, positions: np.ndarray) -> None:
    """Raises ValueError for positions [N, 3], such as geographic ones, that are too far from their origin for float32."""
    step, extent = float(np.spacing(np.float32(np.abs(positions).max()))), float(np.ptp(positions, axis=0).max())
    if step > FINEST * extent:
        raise ValueError(
            f"{path} lies so far from its origin that float32, in which results are stored, has steps of {step:.2g} there, and its "
            f"frames are within {extent:.2g}: subtract an offset from all positions, such as {np.rint(positions[0]).tolist()}"
        )


def align_run(run: SavedRun, options: AlignOptions) -> tuple[SavedRun, dict[str, Any]]:
    """A saved run aligned to the trajectory, and its record for `aligned/alignment.json`.

    Frames and poses are matched if their times differ by less than 0.02 s; the time of a frame without one is its index. Raises
    ValueError when fewer than three frames have a pose.
    """
    assert options.trajectory is not None
    times, truth = read_trajectory(options.trajectory)
    frames = [(result.frame.index, result.frame.timestamp, result.world_from_cam) for result in run.cameras()]
    _check_clock(options.trajectory, times, frames[0][1])
    own = np.array([index if timestamp is None else timestamp for index, timestamp, _ in frames], np.float64)
    nearest = nearest_in_time(own, times)
    found = nearest >= 0
    if found.sum() < 3:
        kind = "numbers (they have no times)" if frames[0][1] is None else "times"
        raise ValueError(
            f"{options.trajectory} has poses for {found.sum()} of {len(frames)} frames, and three are needed: its times "
            f"go from {times.min():.3f} to {times.max():.3f}, the frames' {kind} from {own.min():.3f} to "
            f"{own.max():.3f}, and those that belong together differ by less than {ASSOCIATION_SECONDS} s"
        )
    predicted = np.stack([pose for *_, pose in frames])[found]
    truth = truth[nearest[found]]
    similarity = align_trajectory(predicted, truth, "sim3")
    errors = np.linalg.norm(similarity.poses(predicted)[:, :, 3] - truth[:, :, 3], axis=1)
    if options.scale_from:
        similarity = Similarity(scale=similarity.scale)
    else:
        _check_near(options.trajectory, truth[:, :, 3])
    record = {
        "trajectory": str(options.trajectory),
        "meaning": "x_aligned = scale * rotation @ x_model + translation; lengths are in the trajectory's unit",
        "world": "the trajectory's" if options.align_to else "the first camera's frame",
        "scale": similarity.scale,
        "rotation": similarity.rotation.tolist(),
        "translation": similarity.translation.tolist(),
        "frames_with_pose": int(found.sum()),
        "frames": len(frames),
        "position_error_after_sim3": float(np.sqrt(np.mean(errors**2))),
    }
    return run.moved(lambda _, camera: similarity), record
