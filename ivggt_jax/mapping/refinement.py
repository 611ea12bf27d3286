"""A camera's pose refined by direct image alignment against keyframes, starting from the network's pose.

Pixels of the keyframes are projected into the new frame by their predicted depths. Gauss-Newton finds the pose at which their
brightness agrees best, from blurred images to sharp ones, with Huber weights relative to a robust scale. It also estimates the
focal length, where the network errs most; that estimate is carried from frame to frame as in a Kalman filter. A gain and an
offset for each keyframe are eliminated; a prior keeps the network's pose where the images say nothing. Gradients are taken in the
keyframes, as in the inverse compositional method (Baker and Matthews, IJCV 2004). See also Engel, Koltun and Cremers, "Direct
Sparse Odometry", PAMI 2018.

Shapes and iterations are fixed, and the result is always finite: what cannot be refined is rejected.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ivggt_jax.mapping.pyramid import gradient, pyramid, sample, strongest
from ivggt_jax.transforms import multiply, rotate, rotation_from_vector

SAMPLES = 800
"""About how many pixels a keyframe has."""
ITERATIONS = 6
"""Gauss-Newton iterations on each level."""
NOISE = 1 / 255
"""Lower bound for the standard deviation of brightness."""
HUBER = 1.345
"""Residuals beyond this many standard deviations are down-weighted."""
INFORMATION = 100.0
"""Number of independent pixels that all pixels together count as: errors of neighbours, and of keyframes, are correlated."""
TURN, SHIFT = 0.03, 0.05
"""Standard deviations of the network's pose: rotation in radians, and shift as a share of the mean depth."""
FOCAL, FOCAL_DRIFT = 0.1, 0.01
"""Standard deviation of the log of the network's focal length, and the lower bound for later estimates, because lenses zoom."""
GAIN, OFFSET = 0.3, 0.1
"""Standard deviations of the change in brightness from frame to frame: gain and offset."""
CERTAIN = 1e8
"""Information of a known focal length, which is not estimated."""
LEAST_SEEN = 0.1
"""Share of the keyframes' pixels that must be visible in the new image."""
LEAST_CORRELATION = 0.3
"""Correlation of the keyframes with the image, at the pose found, below which the refinement is rejected."""
EDGE = 2.0
"""Width in pixels of the border in which pixels count less, so that they enter and leave gradually as the pose changes."""
LONGEST_STEP = 0.1
"""Longest step of one iteration, in radians and in mean depths."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Keyframe:
    """What is kept of a frame to align others with it: N of its pixels."""

    place: jax.Array
    """[N,2] in pixels, relative to the principal point."""
    depth: jax.Array
    """[N]"""
    brightness: jax.Array
    """[level,N]"""
    gradient: jax.Array
    """[level,N,2]: gradient of brightness per pixel."""
    known: jax.Array
    """bool [N]"""
    world_from_cam: jax.Array
    """[3,4]"""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Focal:
    """The estimate of a stream's focal length."""

    length: jax.Array
    """[2] along x and y, in pixels; their ratio is fixed."""
    information: jax.Array
    """[] inverse variance of the logarithm."""

    @classmethod
    def known(cls, length: jax.Array) -> "Focal":
        """For calibrated cameras with focal lengths [..., 2]."""
        return cls(jnp.array(length), jnp.full(length.shape[:-1], CERTAIN))

    def after(self, intrinsics: jax.Array, first: jax.Array) -> "Focal":
        """The estimate after the network's intrinsics [3,3], which are used as long as there is no keyframe: `first` [].

        Later ones have the same error. A known focal length stays.
        """
        said, first = jnp.stack((intrinsics[0, 0], intrinsics[1, 1])), first & (self.information < CERTAIN)
        return Focal(jnp.where(first, said, self.length), jnp.where(first, FOCAL**-2, self.information))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Refined:
    """A pose, and how far to trust it."""

    world_from_cam: jax.Array
    """[3,4]: the refined pose; the given one if it was rejected."""
    focal: Focal
    """The estimate after this frame."""
    accepted: jax.Array
    """bool []: the refinement was accepted."""
    before: jax.Array
    """[] mean absolute difference of brightness, clipped at 0.1, at the given pose."""
    after: jax.Array
    """[] the same at the pose found."""
    seen: jax.Array
    """[] share of the keyframes' pixels that are visible in the new image."""
    correlation: jax.Array
    """[] correlation of brightness between keyframes and image, at the pose returned; 0 where nothing is visible."""
    detail: jax.Array
    """[] the same for details, which only the sharpest level shows; coarse brightness agrees even between different scenes."""


def keyframe(levels: jax.Array, depth: jax.Array, world_from_cam: jax.Array) -> Keyframe:
    """The keyframe of an image, levels [level,H,W] (`pyramid`), with its depth [H,W] and camera [3,4]."""
    known = jnp.isfinite(depth) & (depth > 0)
    pixels = strongest(levels[-1], known, SAMPLES)
    row, column = pixels[:, 1], pixels[:, 0]
    at = pixels.astype(jnp.float32)
    brightness = jax.vmap(sample, (0, None))(levels, at)
    slope = jax.vmap(gradient, (0, None))(levels, at)
    usable = known[row, column] & jnp.isfinite(brightness).all(0) & jnp.isfinite(slope).all((0, 2))
    usable &= jnp.isfinite(world_from_cam).all()
    return Keyframe(
        place=at - _centre(levels),
        depth=jnp.where(usable, depth[row, column], 1),
        brightness=jnp.where(usable, brightness, 0),
        gradient=jnp.where(usable[:, None], slope, 0),
        known=usable,
        world_from_cam=world_from_cam,
    )


def empty_keyframes(leading: tuple[int, ...], height: int, width: int) -> Keyframe:
    """Empty keyframes [*leading,…] for frames height×width."""

    def one() -> Keyframe:
        image = jnp.zeros((height, width, 3))
        return keyframe(pyramid(image), image[..., 0], jnp.eye(3, 4))

    return jax.tree.map(lambda x: jnp.zeros((*leading, *x.shape), x.dtype), jax.eval_shape(one))


def refine(
    keyframes: Keyframe, valid: jax.Array, levels: jax.Array, focal: Focal, world_from_cam: jax.Array
) -> Refined:
    """Refine the pose of a new image, levels [level,H,W] (`pyramid`), starting at world_from_cam [3,4], and the focal length.

    Keyframes [R,…] are used where `valid` [R]. The result is rejected, and pose and focal length stay, if too few of their pixels
    are visible, they do not correlate, the residual does not fall, or anything is not finite.
    """
    problem = _Problem(keyframes, keyframes.known & valid[:, None], levels, focal, world_from_cam)
    pose, stretch, information = problem.solve()
    before, after = problem.look(world_from_cam, jnp.zeros(())), problem.look(pose, stretch)
    sound = (after.seen >= LEAST_SEEN) & (after.correlation >= LEAST_CORRELATION) & jnp.isfinite(pose).all()
    accepted = sound & (after.residual < before.residual) & jnp.isfinite(stretch + information)
    belief = Focal(focal.length * jnp.exp(stretch), jnp.clip(information, FOCAL**-2, FOCAL_DRIFT**-2))
    belief = jax.tree.map(partial(jnp.where, focal.information < CERTAIN), belief, focal)

    def pick(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(accepted, new, old)

    return Refined(
        world_from_cam=pick(pose, world_from_cam),
        focal=jax.tree.map(pick, belief, focal),
        accepted=accepted,
        before=before.residual,
        after=after.residual,
        seen=pick(after.seen, before.seen),
        correlation=pick(after.correlation, before.correlation),
        detail=pick(after.detail, before.detail),
    )


@dataclass(frozen=True)
class _Look:
    """How well image and keyframes agree."""

    residual: jax.Array
    seen: jax.Array
    correlation: jax.Array
    detail: jax.Array


class _Projection(NamedTuple):
    """The keyframes' pixels [R,N] projected into the image."""

    rotation: jax.Array
    """[R,3,3] camera from keyframe."""
    there: jax.Array
    """[R,N,3] points in the keyframes' camera frames."""
    here: jax.Array
    """[R,N,3] the same points in the new camera's frame."""
    weight: jax.Array
    """[R,N] in [0,1]: 0 where the pixel is not visible, below 1 near the image's border."""
    brightness: jax.Array
    """[R,N] brightness of the image there; 0 where not visible."""


@dataclass(frozen=True)
class _Problem:
    """Keyframes [R,…] against one image. Unknowns: rotation, shift, and `stretch`, the log change of the focal length."""

    keyframes: Keyframe
    known: jax.Array
    levels: jax.Array
    focal: Focal
    guess: jax.Array

    @property
    def unit(self) -> jax.Array:
        """[] mean depth, the unit of shifts; 1 without pixels."""
        total = jnp.sum(self.known)
        return jnp.where(total > 0, jnp.sum(self.keyframes.depth * self.known) / jnp.maximum(total, 1), 1)

    def solve(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The pose [3,4] at which the images agree best, coarse to fine, the stretch, and the information about it."""
        light = jnp.tile(jnp.asarray((1.0, 0.0)), (self.known.shape[0], 1))
        zero = jnp.zeros(())

        def iterate(turn: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            return self._iterate(turn // ITERATIONS, *carry[:3])

        start = (self.guess, zero, light, zero)
        pose, stretch, _, information = lax.fori_loop(0, ITERATIONS * self.levels.shape[0], iterate, start)
        return pose, stretch, information

    def look(self, pose: jax.Array, stretch: jax.Array) -> _Look:
        """Evaluate a pose and a stretch at the sharpest level, with the best gain and offset."""
        sharp, blurred = self._project(-1, pose, stretch), self._project(0, pose, stretch)
        there = self.keyframes.brightness
        weight = jnp.minimum(sharp.weight, blurred.weight)
        residual, correlation = _match(sharp.brightness, there[:, -1], weight)
        _, detail = _match(sharp.brightness - blurred.brightness, there[:, -1] - there[:, 0], weight)
        return _Look(residual, jnp.sum(weight) / jnp.maximum(jnp.sum(self.known), 1), correlation, detail)

    def _project(self, level: int | jax.Array, pose: jax.Array, stretch: jax.Array) -> _Projection:
        focal, keys = self.focal.length * jnp.exp(stretch), self.keyframes
        depth = keys.depth[..., None]
        there = jnp.concatenate((keys.place / focal * depth, depth), axis=-1)
        back = pose[:, :3].T
        rotation = multiply(back, keys.world_from_cam[..., :3])
        shift = rotate(back, keys.world_from_cam[..., 3] - pose[:, 3])
        here = rotate(rotation[:, None], there) + shift[:, None]
        front = here[..., 2] > 1e-3 * self.unit
        z = jnp.where(front, here[..., 2], 1)[..., None]
        pixels = here[..., :2] / z * focal + _centre(self.levels)
        brightness = sample(self.levels[level], pixels)
        seen = self.known & front & jnp.isfinite(brightness)
        corner = jnp.asarray(self.levels.shape[:-3:-1], jnp.float32) - 1
        inwards = jnp.min(jnp.minimum(pixels, corner - pixels), axis=-1)
        weight = jnp.where(seen, jnp.clip(inwards / EDGE, 0, 1), 0)
        return _Projection(rotation, there, here, weight, jnp.where(seen, brightness, 0))

    def _iterate(
        self, level: jax.Array, pose: jax.Array, stretch: jax.Array, light: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """One step of Gauss-Newton; gains and offsets are eliminated by the Schur complement."""
        at = self._project(level, pose, stretch)
        before, unit = self.keyframes.brightness[:, level], self.unit
        residual = jnp.where(at.weight > 0, at.brightness - light[:, :1] * before - light[:, 1:], 0)
        deviation = jnp.maximum(1.4826 * _median(jnp.abs(residual), at.weight), NOISE)[:, None]
        weight = jnp.minimum(1, HUBER * deviation / jnp.maximum(jnp.abs(residual), 1e-9)) / deviation**2
        weight = at.weight * weight * INFORMATION / jnp.maximum(jnp.sum(self.known), 1)
        slope, turned = self._slopes(level, at, stretch, light)
        # A longer focal length moves the pixel outwards in the image, and its point inwards in the keyframe.
        stretched = jnp.sum(turned[..., :2] * at.here[..., :2], -1) - jnp.sum(slope[..., :2] * at.there[..., :2], -1)
        lights = jnp.stack((-before, -jnp.ones_like(before)), axis=-1)
        rows = (jnp.cross(turned, at.here), -turned * unit, stretched[..., None], lights, residual[..., None])
        columns = jnp.concatenate(rows, axis=-1).swapaxes(-1, -2)
        normal = jnp.matmul(columns * weight[:, None], columns.swapaxes(-1, -2), precision="highest")
        prior = jnp.asarray((GAIN**-2, OFFSET**-2))
        own = normal[:, 7:9, 7:9] + jnp.diag(prior)
        own_side = normal[:, 7:9, 9] + prior * (light - jnp.asarray((1.0, 0.0)))
        both = jnp.linalg.solve(own, jnp.concatenate((normal[:, 7:9, :7], own_side[..., None]), axis=-1))
        mixed = jnp.matmul(normal[:, :7, 7:9], both, precision="highest")
        stiffness = jnp.concatenate((jnp.full(3, TURN**-2), jnp.full(3, SHIFT**-2), self.focal.information[None]))
        system = jnp.sum(normal[:, :7, :7] - mixed[..., :7], axis=0) + jnp.diag(stiffness)
        side = jnp.sum(normal[:, :7, 9] - mixed[..., 7], axis=0) + stiffness * self._away(pose, stretch)
        step = -jnp.linalg.solve(system, side)
        step = jnp.where(jnp.isfinite(step).all(), step, 0)
        step = step * jnp.minimum(1, LONGEST_STEP / jnp.maximum(jnp.linalg.norm(step), 1e-9))
        light = light - both[..., 7] - jnp.sum(both[..., :7] * step, axis=-1)
        light = jnp.stack((jnp.clip(light[:, 0], 0.2, 5), jnp.clip(light[:, 1], -1, 1)), axis=-1)
        shifted = pose[:, 3] + rotate(pose[:, :3], step[3:6] * unit)
        pose = jnp.concatenate((multiply(pose[:, :3], rotation_from_vector(step[:3])), shifted[:, None]), axis=-1)
        information = system[6, 6] - system[6, :6] @ jnp.linalg.solve(system[:6, :6], system[:6, 6])
        return pose, stretch + step[6], light, information

    def _slopes(
        self, level: jax.Array, at: _Projection, stretch: jax.Array, light: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Change of brightness as points move, [R,N,3] each: along the axes of the keyframes' cameras, and of the new camera."""
        focal = self.focal.length * jnp.exp(stretch)
        depth = jnp.where(self.known, self.keyframes.depth, 1)[..., None]
        flat = light[:, :1, None] * self.keyframes.gradient[:, level] * focal / depth
        along = -jnp.sum(flat * self.keyframes.place / focal, axis=-1, keepdims=True)
        slope = jnp.concatenate((flat, along), axis=-1)
        return slope, rotate(at.rotation[:, None], slope)

    def _away(self, pose: jax.Array, stretch: jax.Array) -> jax.Array:
        """[7] distance from the initial guess: rotation in radians, shift in mean depths, stretch."""
        turn = multiply(self.guess[:, :3].T, pose[:, :3])
        axis = jnp.stack((turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1])) / 2
        shift = rotate(pose[:, :3].T, pose[:, 3] - self.guess[:, 3]) / self.unit
        return jnp.concatenate((axis, shift, stretch[None]))


def _match(here: jax.Array, there: jax.Array, weight: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Compare brightness [R,N] in the image and R keyframes, after gain and offset.

    Returns the mean absolute difference, clipped at 0.1, and the correlation.
    """
    total = jnp.maximum(jnp.sum(weight, axis=-1, keepdims=True), 1)
    here, there = (x - jnp.sum(weight * x, axis=-1, keepdims=True) / total for x in (here, there))
    product, square = (jnp.sum(weight * x * there, axis=-1, keepdims=True) for x in (here, there))
    difference = jnp.minimum(jnp.abs(here - product / jnp.maximum(square, 1e-9) * there), 0.1)
    spread = jnp.sqrt(jnp.maximum(jnp.sum(weight * here**2) * jnp.sum(square), 1e-12))
    return jnp.sum(weight * difference) / jnp.maximum(jnp.sum(weight), 1), jnp.sum(product) / spread


def _centre(levels: jax.Array) -> jax.Array:
    """[2] principal point of images [level,H,W], as in pose encodings."""
    return jnp.asarray(levels.shape[:-3:-1], jnp.float32) / 2


def _median(values: jax.Array, weight: jax.Array) -> jax.Array:
    """Weighted median [R] of values [R,N] in [0,1], to a millionth; by bisection, because sorting would dominate the time."""
    half = jnp.sum(weight, axis=-1, keepdims=True) / 2

    def narrow(turn: jax.Array, low: jax.Array) -> jax.Array:
        middle = low + 0.5 ** (turn + 1.0)
        return jnp.where(jnp.sum(weight * (values > middle), axis=-1, keepdims=True) > half, middle, low)

    return lax.fori_loop(0, 20, narrow, jnp.zeros_like(half, jnp.float32))[:, 0] + 0.5**21
