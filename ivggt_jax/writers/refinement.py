"""`--refine-ba`: adjusts a run's cameras to its own tracks, and keeps the result only if unused tracks confirm it.

A tenth of the tracks takes no part in the adjustment. Their points are placed by the cameras before and by those after it. The
adjustment is accepted only if the median reprojection error of these points decreases.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ivggt_jax.options.export import ExportOptions
from ivggt_jax.trajectories.alignment import inverse
from ivggt_jax.writers.adjustment import Cameras, Tracks, adjust, depth_factors, errors, placed
from ivggt_jax.writers.bundle import pycolmap, solve
from ivggt_jax.writers.result import Result
from ivggt_jax.writers.saved_run import SavedRun
from ivggt_jax.writers.tracks import REACH, Tracker, stretch_of

HELD_OUT = 0.1
"""Share of tracks that takes no part."""
FEWEST = 10
"""Fewest tracks to judge by."""


@dataclass(frozen=True)
class Refinement:
    """The result of an adjustment."""

    accepted: bool
    tracks: int
    """Number of tracks that took part."""
    tracks_kept: int
    """Number of these that no round rejected."""
    held_out: int
    """Number of tracks used to judge."""
    before: float | None
    """Median reprojection error of the held-out points with the cameras before, in pixels of the model's input; None if too few
    tracks were held out to judge by."""
    after: float | None
    """The same with the adjusted cameras."""
    focal_before: float
    """Median focal length in pixels of the model's input."""
    focal_after: float

    def describe(self) -> str:
        """A description in one line."""
        if self.before is None or self.after is None:
            return (
                f"not kept: {self.held_out} tracks are too few to judge bundle adjustment by; cameras stay as they were"
            )
        verdict = "kept: bundle adjustment fits" if self.accepted else "not kept: bundle adjustment does not fit"
        stay = "" if self.accepted else "; cameras stay as they were"
        return (
            f"{verdict} left-out tracks better: {self.held_out} of them lie {self.after:.3g} of the model's pixels from where "
            f"they were seen (median, before {self.before:.3g}){stay}; {self.tracks_kept} of {self.tracks} others were "
            f"believed, the focal length went from {self.focal_before:.4g} to {self.focal_after:.4g} of these pixels"
        )

    def record(self) -> dict[str, Any]:
        """The record for a file."""
        return asdict(self)


def refined(run: SavedRun, options: ExportOptions) -> tuple[SavedRun, Refinement]:
    """The run with adjusted cameras and points, or unchanged; and the result of the adjustment.

    Raises ValueError for a run without depth, and when pycolmap is not installed.
    """
    pycolmap()  # reports a missing pycolmap before anything is computed
    tracks, own = gather(run, options)
    cameras = own.shared(np.arange(len(run)) if options.own_cameras else _lenses(run))
    held = np.random.default_rng(0).random(len(tracks.positions)) < HELD_OUT
    judges, rest = tracks.only(held), tracks.only(~held)
    if min(len(judges.positions), len(rest.positions)) < FEWEST:
        focal = float(np.median(own.focal))
        counts = len(rest.positions), 0, len(judges.positions)
        return run, Refinement(False, *counts, None, None, focal, focal)
    kept, adjusted = adjust(rest, cameras, solve)
    before, after = (_median_error(judges, cameras) for cameras in (own, adjusted))
    refinement = Refinement(
        bool(len(kept.positions) and after < before),
        len(rest.positions),
        len(kept.positions),
        len(judges.positions),
        before,
        after,
        float(np.median(own.focal)),
        float(np.median(adjusted.focal)),
    )
    if not refinement.accepted:
        return run, refinement
    factors = depth_factors(kept, own, adjusted)
    better = run.changed(lambda number, result: _with_camera(result, adjusted, number, float(factors[number])))
    better.tracks = kept
    return better, refinement


def _with_camera(result: Result, cameras: Cameras, number: int, factor: float) -> Result:
    """The result with its adjusted camera: each pixel's point is on its new ray, at its depth times a factor."""
    matrix = result.intrinsics.copy()
    matrix[0, 0] = cameras.focal[number]
    matrix[1, 1] = cameras.focal[number] / stretch_of(result)
    matrix[:2, 2] = cameras.centre[number] / (1, stretch_of(result)) - 0.5
    pose = cameras.cam_from_world[number]
    points = result.points
    if points is not None:
        in_camera = points @ result.cam_from_world[:, :3].T + result.cam_from_world[:, 3]
        in_camera = factor * in_camera @ (np.linalg.inv(matrix) @ result.intrinsics).T
        world_from_cam = inverse(pose)
        points = (in_camera @ world_from_cam[:, :3].T + world_from_cam[:, 3]).astype(np.float32)
    depth = None if result.depth is None else (factor * result.depth).astype(np.float32)
    return replace(result, cam_from_world=pose, intrinsics=matrix, depth=depth, points=points)


def _median_error(judges: Tracks, cameras: Cameras) -> float:
    """Median reprojection error in pixels of tracks that took no part, with points placed by these cameras."""
    return float(np.median(errors(placed(judges, cameras, solve), cameras)))


def gather(run: SavedRun, options: ExportOptions) -> tuple[Tracks, Cameras]:
    """A run's tracks, as in COLMAP models, and its cameras. Raises ValueError for a run without depth."""
    tracker = Tracker(options)
    frames, pixels, points, positions, colours, origins = ([], [], [], [], [], [])
    matrices, poses, known, stretch = _own_cameras(run)
    for position in range(-REACH, len(run) + REACH):
        if 0 <= position + REACH < len(run):
            tracker.feed(run[position + REACH])
        if 0 <= position < len(run):
            new = tracker.points_of(position)
            positions.append(new.positions)
            colours.append(new.colours)
            origins.append(np.full(len(new.numbers), position))
        if 0 <= (done := position - REACH) < len(run):
            seen, numbers = tracker.observations()
            frames.append(np.full(len(seen), done))
            pixels.append((seen + 0.5) * (1, stretch[done]))
            points.append(numbers - 1)
    tracks = Tracks(*map(np.concatenate, (frames, points, pixels, positions, colours, origins, positions)))
    centre = (matrices[:, :2, 2] + 0.5) * np.stack((np.ones(len(run)), stretch), axis=1)
    focal = np.sqrt(matrices[:, 0, 0] * matrices[:, 1, 1] * stretch)
    return tracks, Cameras(poses, focal, centre, np.arange(len(run)), known)


def _own_cameras(run: SavedRun) -> tuple[np.ndarray, ...]:
    """Intrinsics [N, 3, 3] and poses [N, 3, 4] of a run, whether the former are calibrated, bool [N], and `stretch_of` [N]."""
    rows = (
        (result.intrinsics, result.cam_from_world, result.frame.camera is not None, stretch_of(result))
        for result in run.cameras()
    )
    return tuple(map(np.array, zip(*rows, strict=True)))


def _lenses(run: SavedRun) -> np.ndarray:
    """Numbers, int64 [N], equal for frames with equal fits, which are assumed to be from one camera."""
    fits = [result.frame.fit for result in run.cameras()]
    numbers = {fit: number for number, fit in enumerate(dict.fromkeys(fits))}
    return np.array([numbers[fit] for fit in fits])
