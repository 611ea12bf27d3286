"""Tracks and the cameras that saw them, and their joint adjustment: `bundle` solves it, `refinement` judges it.

Pixels are those of the model's input, counted from the corner and scaled along v to be square, so that a camera has a single
focal length.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ivggt_jax.trajectories.alignment import compose, inverse

Free = Literal["points", "poses", "focal"]
"""What a round adjusts: points; poses as well; focal lengths as well."""
FEWEST_VIEWS = 3
"""Fewest observations of a point that takes part."""
FEWEST_POINTS = 12
"""Fewest observations in a frame that takes part; with fewer, its camera would be undetermined."""
ROUNDS: tuple[tuple[Free, float, float], ...] = (
    ("points", 0.5, 6),
    ("poses", 0.5, 3),
    ("focal", 0.5, 3),
    ("focal", 0.25, 1.5),
)
"""For each round: what it adjusts, the scale of its loss, and the largest error in pixels kept after it."""


@dataclass(frozen=True)
class Tracks:
    """Points and their observations."""

    frames: np.ndarray
    """int64 [M]: frame of the observation, as position in the run."""
    points: np.ndarray
    """int64 [M]: its point, a row of the next arrays."""
    pixels: np.ndarray
    """float64 [M, 2]"""
    positions: np.ndarray
    """float64 [P, 3] in the world."""
    colours: np.ndarray
    """uint8 [P, 3]"""
    origins: np.ndarray
    """int64 [P]: frame whose depth placed the point."""
    by_depth: np.ndarray
    """float64 [P, 3]: position from that depth."""

    def only(self, points: np.ndarray, observations: np.ndarray | None = None) -> "Tracks":
        """The tracks of the marked points, bool [P], with the marked observations, bool [M]."""
        kept = points[self.points] if observations is None else points[self.points] & observations
        numbers = np.cumsum(points) - 1
        return Tracks(
            self.frames[kept],
            numbers[self.points[kept]],
            self.pixels[kept],
            self.positions[points],
            self.colours[points],
            self.origins[points],
            self.by_depth[points],
        )

    def joined(self, other: "Tracks") -> "Tracks":
        """These tracks followed by those of other points."""
        points = np.concatenate((self.points, other.points + len(self.positions)))
        names = [field.name for field in fields(self)]
        both = {name: np.concatenate((getattr(self, name), getattr(other, name))) for name in names}
        return Tracks(**{**both, "points": points})


@dataclass(frozen=True)
class Cameras:
    """The cameras of a run's frames."""

    cam_from_world: np.ndarray
    """float64 [N, 3, 4]"""
    focal: np.ndarray
    """float64 [N]"""
    centre: np.ndarray
    """float64 [N, 2]"""
    lens: np.ndarray
    """int64 [N]: frames with equal numbers share focal length and centre."""
    known: np.ndarray
    """bool [N]: the focal length is calibrated, and fixed."""

    def shared(self, lens: np.ndarray) -> "Cameras":
        """The cameras with the median focal length and centre of all frames with equal numbers in `lens`, int64 [N]."""
        focal, centre = self.focal.copy(), self.centre.copy()
        for own in rows_by(lens, int(lens.max()) + 1):
            focal[own], centre[own] = np.median(focal[own]), np.median(centre[own], axis=0)
        return replace(self, focal=focal, centre=centre, lens=lens)


Solve = Callable[[Tracks, Cameras, float, Free], tuple[Cameras, np.ndarray]]
"""(tracks, cameras, scale of the loss, what to adjust) → (cameras, positions)."""


def errors(tracks: Tracks, cameras: Cameras) -> np.ndarray:
    """Reprojection errors in pixels, float64 [M]; infinite behind the camera."""
    pose = cameras.cam_from_world[tracks.frames]
    in_camera = np.einsum("mij,mj->mi", pose[..., :3], tracks.positions[tracks.points]) + pose[..., 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        plane = in_camera[:, :2] / in_camera[:, 2:]
        places = plane * cameras.focal[tracks.frames, None] + cameras.centre[tracks.frames]
    return np.where(in_camera[:, 2] > 0, np.hypot(*(places - tracks.pixels).T), np.inf)


def adjust(tracks: Tracks, cameras: Cameras, solve: Solve) -> tuple[Tracks, Cameras]:
    """Adjust tracks and cameras. Returns the tracks that were kept, with adjusted points, and the cameras.

    Each part connected by tracks is adjusted separately, starting with the one with most frames, which determines focal lengths.
    The first camera of a part stays in place, and so does the length of its path. Frames with few observations follow the nearest
    frame with more.
    """
    tracks = _connected(tracks, len(cameras.focal))
    before, kept = cameras, tracks.only(np.zeros(len(tracks.positions), bool))
    for members in _parts(tracks, len(cameras.focal)):
        part = tracks.only(members[tracks.origins])
        part, cameras = _adjust_part(part, cameras, solve)
        kept = kept.joined(part)
        if len(part.frames):  # a part that could not be adjusted decides nothing
            decided = np.isin(cameras.lens, cameras.lens[members])
            cameras = replace(cameras, known=cameras.known | decided)
    seen = np.unique(kept.frames)
    poses = inverse(cameras.cam_from_world)
    if len(seen):
        old = inverse(before.cam_from_world)
        nearest = _nearest(seen, len(poses))
        for frame in np.setdiff1d(np.arange(len(poses)), seen):
            near = seen[nearest[frame]]
            poses[frame] = compose(poses[near], compose(before.cam_from_world[near], old[frame]))
    return kept, replace(cameras, cam_from_world=inverse(poses), known=before.known)


def _adjust_part(tracks: Tracks, before: Cameras, solve: Solve) -> tuple[Tracks, Cameras]:
    """The same for connected tracks."""
    cameras = before
    for free, scale, furthest in ROUNDS:
        tracks = _connected(tracks, len(before.focal))
        if len(np.unique(tracks.frames)) < FEWEST_VIEWS:
            return tracks.only(np.zeros(len(tracks.positions), bool)), before
        cameras, positions = solve(tracks, cameras, scale, free)
        tracks = replace(tracks, positions=positions)
        tracks = tracks.only(np.ones(len(positions), bool), errors(tracks, cameras) <= furthest)
    tracks = _connected(tracks, len(before.focal))
    return _in_place(tracks, before, cameras) if len(tracks.frames) else (tracks, before)


def placed(tracks: Tracks, cameras: Cameras, solve: Solve) -> Tracks:
    """The tracks with their points placed by these cameras."""
    for scale in (4.0, 1.0, ROUNDS[0][1]):
        _, positions = solve(tracks, cameras, scale, "points")
        tracks = replace(tracks, positions=positions)
    return tracks


def depth_factors(tracks: Tracks, before: Cameras, after: Cameras) -> np.ndarray:
    """Factor for each frame's depth, float64 [N], that makes it agree with the points that the frame sees.

    A frame without points gets the factor of the nearest frame with any.
    """
    depths = [
        np.einsum("mj,mj->m", pose[tracks.frames, 2, :3], points[tracks.points]) + pose[tracks.frames, 2, 3]
        for pose, points in ((after.cam_from_world, tracks.positions), (before.cam_from_world, tracks.by_depth))
    ]
    seen = np.unique(tracks.frames)
    ratios, frames = depths[0] / depths[1], len(before.focal)
    rows = rows_by(tracks.frames, frames)
    factors = np.array([np.median(ratios[rows[frame]]) for frame in seen])
    return factors[_nearest(seen, frames)]


def rows_by(numbers: np.ndarray, count: int) -> list[np.ndarray]:
    """For each number from 0 to count - 1, its rows in `numbers`, int64 [M], in order."""
    order = np.argsort(numbers, kind="stable")
    return np.split(order, np.cumsum(np.bincount(numbers, minlength=count))[:-1])


def _nearest(seen: np.ndarray, frames: int) -> np.ndarray:
    """For each frame the row, int64 [N], of the nearest one in `seen`, which is increasing; of two, the earlier."""
    every = np.arange(frames)
    later = np.minimum(np.searchsorted(seen, every), len(seen) - 1)
    earlier = np.maximum(later - 1, 0)
    return np.where(np.abs(every - seen[earlier]) <= np.abs(every - seen[later]), earlier, later)


def _connected(tracks: Tracks, frames: int) -> Tracks:
    """The tracks without frames that see few points, and points seen by few frames."""
    while True:
        seen = np.bincount(tracks.frames, minlength=frames)
        viewed = np.bincount(tracks.points[seen[tracks.frames] >= FEWEST_POINTS], minlength=len(tracks.positions))
        points, observations = viewed >= FEWEST_VIEWS, seen[tracks.frames] >= FEWEST_POINTS
        if points.all() and observations.all():
            return tracks
        tracks = tracks.only(points, observations)


def _parts(tracks: Tracks, frames: int) -> list[np.ndarray]:
    """The frames, bool [N], of each part connected by tracks, the one with most frames first."""
    count = frames + len(tracks.positions)
    links = coo_array((np.ones(len(tracks.frames)), (tracks.frames, frames + tracks.points)), (count, count))
    _, labels = connected_components(links, directed=False)
    seen = np.bincount(tracks.frames, minlength=frames) > 0
    parts = [seen & (labels[:frames] == label) for label in np.unique(labels[:frames][seen])]
    return sorted(parts, key=lambda members: -int(members.sum()))


def _in_place(tracks: Tracks, before: Cameras, after: Cameras) -> tuple[Tracks, Cameras]:
    """Tracks and cameras moved so that the part's first camera is where it was before, and its path as long."""
    members = np.unique(tracks.frames)
    first = members[0]
    old, new = inverse(before.cam_from_world), inverse(after.cam_from_world)
    turn = compose(old[first], after.cam_from_world[first])
    poses = compose(turn, new[members])
    path, wanted = poses[..., 3] - old[first, :, 3], old[members, :, 3] - old[first, :, 3]
    length, agreement = float(np.sum(path**2)), float(np.sum(path * wanted))
    scale = agreement / length if agreement > 0 else 1.0
    poses[..., 3] = old[first, :, 3] + scale * path
    positions = tracks.positions @ turn[:, :3].T + turn[:, 3]
    positions = old[first, :, 3] + scale * (positions - old[first, :, 3])
    cam_from_world = before.cam_from_world.copy()
    cam_from_world[members] = inverse(poses)
    return replace(tracks, positions=positions), replace(after, cam_from_world=cam_from_world)
