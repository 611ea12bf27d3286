"""How two places lie relative to each other, from corners visible in both: matching, a robust similarity, least squares.

Corners have a depth in both places, so three matches give a similarity (Umeyama, PAMI 1991). Among many triples (RANSAC, Fischler
and Bolles, 1981) the one wins with which most other matches agree, in the image and in depth, counting one vote per small square
of the image. Robust least squares over the reprojection errors in both places then refines it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from ivggt_jax.mapping.places import Place
from ivggt_jax.transforms import Similarity, rotate

LEAST_LIKENESS = 0.6
"""Least cosine of two matching patches."""
TRIPLES = 400
STRETCH = 0.5
"""Largest difference between two submaps' units, as a logarithm; both units come from the same model."""
REACH = (6.0, 4.0, 3.0)
"""Pixels, of an image `WIDTH` wide, within which a match agrees, in successive refinements; the second also for triples."""
DEPTHS = 0.25
"""Largest difference between the log depths of a match."""
DEPTH_WEIGHT = 10.0
"""Pixels per unit of log depth: an error of e in log depth counts like an error of this many times e in the image."""
WIDTH = 112
CELL = 6.0
"""Side in pixels of the squares that vote."""
FEWEST = 5
"""Fewest matches to fit a similarity to."""


@dataclass(frozen=True, eq=False)
class Matches:
    """N matching corners of two places a and b."""

    points: tuple[np.ndarray, np.ndarray]
    """float64 [N,3] each, in the submaps' frames and units."""
    pixels: tuple[np.ndarray, np.ndarray]
    """float64 [N,2] each: relative to the image centre, in pixels of an image `WIDTH` wide."""
    submap_from_cam: tuple[np.ndarray, np.ndarray]
    """float64 [N,3,4] each."""
    focal: float
    """In the same pixels."""

    def __len__(self) -> int:
        return len(self.points[0])

    def only(self, which: np.ndarray) -> "Matches":
        """The matches marked in `which` [N]."""
        (a, b), (u, v), (p, q) = self.points, self.pixels, self.submap_from_cam
        return Matches((a[which], b[which]), (u[which], v[which]), (p[which], q[which]), self.focal)


@dataclass(frozen=True, eq=False)
class Registration:
    """The similarity between two places, and how well their matches support it."""

    a_from_b: Similarity
    matches: int
    support: int
    """Squares of the image that contain an agreeing match: the smaller number of the two places."""
    error: float
    """Median reprojection error of the agreeing matches, in pixels of an image `WIDTH` wide."""


def register(a: Place, b: Place, focal: float) -> Registration | None:
    """The similarity from place b to place a; `focal` is the cameras' focal length in image widths. None if there is none."""
    matches = match(a, b, focal * WIDTH)
    start = _by_triples(matches, np.random.default_rng((a.submap, b.submap)))
    if start is None:
        return None
    found = start
    for reach in REACH:
        agreeing = matches.only(_agreement(found, matches, reach)[0])
        if len(agreeing) < FEWEST:
            return None
        found = _polished(found, agreeing)
    which, distance = _agreement(found, matches, REACH[-1])
    if which.sum() < FEWEST:
        return None
    support = min(_squares(pixels[which]) for pixels in matches.pixels)
    return Registration(found, len(matches), support, float(np.median(distance[which])))


def match(a: Place, b: Place, focal: float) -> Matches:
    """Pairs of corners, from all frames of two places, that are each other's best match."""
    sides = [[_corners(place, frame, focal) for frame in range(len(place.depth))] for place in (a, b)]
    found: list[list[np.ndarray]] = [[np.zeros((0, *shape))] for shape in ((3,), (2,), (3, 4), (3,), (2,), (3, 4))]
    for *one, patches in sides[0]:
        for *other, others in sides[1]:
            if not len(patches) or not len(others):
                continue
            likeness = patches @ others.T
            best, back = likeness.argmax(axis=1), likeness.argmax(axis=0)
            number = np.arange(len(best))
            mutual = np.flatnonzero((back[best] == number) & (likeness[number, best] > LEAST_LIKENESS))
            for column, values in zip(
                found, (*(x[mutual] for x in one), *(x[best[mutual]] for x in other)), strict=True
            ):
                column.append(values)
    points_a, pixels_a, cameras_a, points_b, pixels_b, cameras_b = (np.concatenate(column) for column in found)
    return Matches((points_a, points_b), (pixels_a, pixels_b), (cameras_a, cameras_b), focal)


def _corners(place: Place, frame: int, focal: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A frame's corners: points [N,3] in the submap, pixels [N,2], cameras [N,3,4], and unit-length patches [N,D]."""
    known = place.depth[frame] > 0
    pixels, depth = WIDTH * place.pixels[frame, known].astype(np.float64), place.depth[frame, known].astype(np.float64)
    pose = place.submap_from_cam[frame]
    in_camera = np.concatenate((pixels / focal, np.ones((len(pixels), 1))), axis=1) * depth[:, None]
    patches = place.patches[frame, known].astype(np.float32)
    patches /= np.maximum(np.linalg.norm(patches, axis=1, keepdims=True), 1e-6)
    cameras = np.broadcast_to(pose, (len(pixels), 3, 4))
    return in_camera @ pose[:, :3].T + pose[:, 3], pixels, cameras, patches


def _by_triples(matches: Matches, rng: np.random.Generator) -> Similarity | None:
    """The similarity through three matches with which most others agree."""
    if len(matches) < FEWEST:
        return None
    triples = rng.integers(0, len(matches), (TRIPLES, 3))
    found = _similarities(*(points[triples] for points in matches.points))
    usable = np.flatnonzero(np.abs(np.log(np.maximum(found.scale, 1e-9))) < STRETCH)
    if not len(usable):
        return None
    found = Similarity(found.scale[usable], found.rotation[usable], found.translation[usable])
    moved = found.points(matches.points[1][None])
    distance, ratio = _seen_in(moved, matches, 0)
    agrees = (distance < REACH[1]) & (np.abs(ratio) < DEPTHS)
    square = np.unique(matches.pixels[0] // CELL, axis=0, return_inverse=True)[1].ravel()
    votes = (agrees.astype(np.float32) @ (square[:, None] == np.arange(square.max() + 1)) > 0).sum(axis=1)
    best = int(votes.argmax())
    return Similarity(float(found.scale[best]), found.rotation[best], found.translation[best])


def _similarities(a: np.ndarray, b: np.ndarray) -> Similarity:
    """Least-squares similarities a_from_b [R] of corresponding points, [R,3,3] each."""
    middle_a, middle_b = a.mean(axis=1), b.mean(axis=1)
    off_a, off_b = a - middle_a[:, None], b - middle_b[:, None]
    left, strength, right = np.linalg.svd(off_a.swapaxes(1, 2) @ off_b)
    sign = np.where(np.linalg.det(left @ right) < 0, -1.0, 1.0)
    strength[:, 2] *= sign
    left[:, :, 2] *= sign[:, None]
    rotation = left @ right
    scale = strength.sum(axis=1) / np.maximum((off_b**2).sum(axis=(1, 2)), 1e-12)
    return Similarity(scale, rotation, middle_a - scale[:, None] * rotate(rotation, middle_b))


def _seen_in(points: np.ndarray, matches: Matches, side: int) -> tuple[np.ndarray, np.ndarray]:
    """How far points [...,N,3] of a submap project from their matches there: distance in pixels, and log ratio of depths."""
    shift, depth = _reprojection(points, matches, side)
    return np.linalg.norm(shift, axis=-1), depth


def _reprojection(points: np.ndarray, matches: Matches, side: int) -> tuple[np.ndarray, np.ndarray]:
    cameras = matches.submap_from_cam[side]
    back = cameras[:, :, :3].swapaxes(1, 2)
    in_camera, own = (rotate(back, x - cameras[:, :, 3]) for x in (points, matches.points[side]))
    depth = np.maximum(in_camera[..., 2], 1e-6 * own[:, 2])
    shift = in_camera[..., :2] / depth[..., None] * matches.focal - matches.pixels[side]
    return shift, np.log(depth / own[:, 2])


def _agreement(a_from_b: Similarity, matches: Matches, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Which matches agree with a similarity in both places, bool [N], and their larger error of the two in pixels."""
    in_a, depth_a = _seen_in(a_from_b.points(matches.points[1]), matches, 0)
    in_b, depth_b = _seen_in(a_from_b.inverse().points(matches.points[0]), matches, 1)
    distance = np.maximum(in_a, in_b)
    return (distance < reach) & (np.maximum(np.abs(depth_a), np.abs(depth_b)) < DEPTHS), distance


def _polished(start: Similarity, matches: Matches) -> Similarity:
    """The similarity near `start` with the least robust error in both places, over matches that agree with `start`."""

    def moved(change: Sequence[float]) -> Similarity:
        turn = Rotation.from_rotvec(change[:3]).as_matrix()
        scale = float(start.scale * np.exp(change[6]))
        return Similarity(scale, turn @ start.rotation, start.translation + np.asarray(change[3:6]))

    def residual(change: Sequence[float]) -> np.ndarray:
        a_from_b = moved(change)
        in_a, depth_a = _reprojection(a_from_b.points(matches.points[1]), matches, 0)
        in_b, depth_b = _reprojection(a_from_b.inverse().points(matches.points[0]), matches, 1)
        return np.concatenate((in_a.ravel(), in_b.ravel(), DEPTH_WEIGHT * depth_a, DEPTH_WEIGHT * depth_b))

    return moved(least_squares(residual, np.zeros(7), loss="soft_l1", max_nfev=20).x)


def _squares(pixels: np.ndarray) -> int:
    return len(np.unique(pixels // CELL, axis=0))
