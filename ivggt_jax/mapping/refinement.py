"""A camera's pose refined by direct image alignment against keyframes, from the pose that the network gave.

Pixels of the keyframes, with the depths predicted there, are put into the new frame. The pose that makes their brightness
agree is found by Gauss-Newton over 6 unknowns, from blurred images to sharp ones, with Huber weights about a robust
scale. A gain and an offset for each keyframe are eliminated; a prior keeps the network's pose where the images say
nothing. Gradients are the keyframes', as in the inverse compositional method (Baker and Matthews, IJCV 2004). See also
Engel, Koltun and Cremers, "Direct Sparse Odometry", PAMI 2018.

Shapes and iterations are fixed, and whatever comes in the result is finite: what cannot be refined is refused.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax

from ivggt_jax.mapping.pyramid import gradient, pyramid, sample
from ivggt_jax.transforms import multiply, rotate, rotation_from_vector

SAMPLES = 800
"""Pixels of a keyframe, about: the one with the strongest gradient of each of so many cells."""
ITERATIONS = 6
"""On each level."""
NOISE = 1 / 255
"""Least standard deviation of brightness that is believed."""
HUBER = 1.345
"""Residuals beyond so many standard deviations count less."""
INFORMATION = 100.0
"""Independent pixels that all pixels together are worth: neighbours, and keyframes, err together."""
TURN, SHIFT = 0.03, 0.05
"""Standard deviations of the network's pose: radians, and a share of the mean depth."""
GAIN, OFFSET = 0.3, 0.1
"""The same of the change of brightness from frame to frame: factor and sum."""
LEAST_SEEN = 0.1
"""Share of the keyframes' pixels that must lie in the new image."""
LEAST_CORRELATION = 0.3
"""Correlation of the keyframes with the image, at the pose found, below which the two do not show one scene."""
LONGEST_STEP = 0.1
"""Of one iteration, in radians and in mean depths."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Keyframe:
    """What is kept of a frame for aligning others to it: N of its pixels."""

    points: jax.Array
    """[N,3] in the camera's frame."""
    brightness: jax.Array
    """[level,N]"""
    slope: jax.Array
    """[level,N,3]: change of brightness as the point moves."""
    known: jax.Array
    """bool [N]"""
    world_from_cam: jax.Array
    """[3,4]"""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Refined:
    """A pose, and how far to trust it."""

    world_from_cam: jax.Array
    """[3,4]: the refined pose, or the given one."""
    accepted: jax.Array
    """bool []: it is a refined one."""
    before: jax.Array
    """[] mean absolute difference of brightness, cut at 0.1, at the given pose..."""
    after: jax.Array
    """[] ... and at the one found."""
    seen: jax.Array
    """[] share of the keyframes' pixels that lie in the new image."""
    correlation: jax.Array
    """[] of their brightness there and here, at the pose returned; 0 where none is seen."""


def keyframe(
    levels: jax.Array,
    depth: jax.Array,
    intrinsics: jax.Array,
    world_from_cam: jax.Array,
    mask: jax.Array | None = None,
) -> Keyframe:
    """The keyframe of an image, levels [level,H,W] (`pyramid`), with its depth [H,W], intrinsics [3,3] and camera [3,4].

    `mask` [H,W] bool: pixels of the still scene; None: all.
    """
    known = jnp.isfinite(depth) & (depth > 0)
    if mask is not None:
        known &= mask
    pixels = _strongest(levels[-1], known)
    row, column = pixels[:, 1], pixels[:, 0]
    place = pixels.astype(jnp.float32)
    focal, centre = jnp.stack((intrinsics[0, 0], intrinsics[1, 1])), intrinsics[:2, 2]
    usable = known[row, column]
    z = jnp.where(usable, depth[row, column], 1)[:, None]
    across = (place - centre) / focal
    points = jnp.concatenate((across, jnp.ones_like(z)), axis=-1) * z
    brightness = jax.vmap(sample, (0, None))(levels, place)
    per_length = jax.vmap(gradient, (0, None))(levels, place) * focal / z
    slope = jnp.concatenate((per_length, -jnp.sum(per_length * across, axis=-1, keepdims=True)), axis=-1)
    finite = (jnp.isfinite(x).all(axes) for x, axes in ((brightness, 0), (slope, (0, 2)), (points, 1)))
    for condition in (*finite, jnp.isfinite(world_from_cam).all()):
        usable &= condition
    return Keyframe(
        points=jnp.where(usable[:, None], points, 0),
        brightness=jnp.where(usable, brightness, 0),
        slope=jnp.where(usable[:, None], slope, 0),
        known=usable,
        world_from_cam=world_from_cam,
    )


def empty_keyframes(leading: tuple[int, ...], height: int, width: int) -> Keyframe:
    """Keyframes [*leading,…] of frames height×width that hold nothing."""

    def one() -> Keyframe:
        image = jnp.zeros((height, width, 3))
        return keyframe(pyramid(image), image[..., 0], jnp.eye(3), jnp.eye(3, 4))

    return jax.tree.map(lambda x: jnp.zeros((*leading, *x.shape), x.dtype), jax.eval_shape(one))


def refine(
    keyframes: Keyframe,
    valid: jax.Array,
    levels: jax.Array,
    intrinsics: jax.Array,
    world_from_cam: jax.Array,
) -> Refined:
    """The pose of a new image, levels [level,H,W] (`pyramid`), with intrinsics [3,3], near world_from_cam [3,4].

    Keyframes [R,…] count where `valid` [R]. The result is refused, and the pose stays, where too few of their pixels lie
    in the image, where those do not correlate or the residual does not fall, and where anything is not finite.
    """
    keyframes = jax.tree.map(lambda x: x, keyframes)
    problem = _Problem(keyframes, keyframes.known & valid[:, None], levels, intrinsics, world_from_cam)
    pose = problem.solve()
    before, after = problem.look(world_from_cam), problem.look(pose)
    sound = (after.seen >= LEAST_SEEN) & (after.correlation >= LEAST_CORRELATION) & jnp.isfinite(pose).all()
    accepted = sound & (after.residual < before.residual)
    return Refined(
        world_from_cam=jnp.where(accepted, pose, world_from_cam),
        accepted=accepted,
        before=before.residual,
        after=after.residual,
        seen=jnp.where(accepted, after.seen, before.seen),
        correlation=jnp.where(accepted, after.correlation, before.correlation),
    )


@dataclass(frozen=True)
class _Look:
    """How well the image and the keyframes agree."""

    residual: jax.Array
    seen: jax.Array
    correlation: jax.Array


@dataclass(frozen=True)
class _Problem:
    """Keyframes [R,…] against one image."""

    keyframes: Keyframe
    known: jax.Array
    levels: jax.Array
    intrinsics: jax.Array
    guess: jax.Array

    @property
    def unit(self) -> jax.Array:
        """[] the mean depth, in which shifts are measured; 1 without pixels."""
        total = jnp.sum(self.known)
        return jnp.where(total > 0, jnp.sum(self.keyframes.points[..., 2] * self.known) / jnp.maximum(total, 1), 1)

    def solve(self) -> jax.Array:
        """The pose [3,4] that makes the images agree, coarse to fine."""
        light = jnp.tile(jnp.asarray((1.0, 0.0)), (self.known.shape[0], 1))

        def iterate(turn: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            return self._iterate(turn // ITERATIONS, *carry)

        return lax.fori_loop(0, ITERATIONS * self.levels.shape[0], iterate, (self.guess, light))[0]

    def look(self, pose: jax.Array) -> _Look:
        """What the sharpest level says of a pose, with the gain and offset that fit best."""
        _, _, seen, here = self._project(-1, pose)
        there = self.keyframes.brightness[:, -1]
        count = jnp.maximum(jnp.sum(seen, axis=-1, keepdims=True), 1)
        here, there = (
            jnp.where(seen, x - jnp.sum(jnp.where(seen, x, 0), axis=-1, keepdims=True) / count, 0)
            for x in (here, there)
        )
        product, square = (jnp.sum(x * there, axis=-1, keepdims=True) for x in (here, there))
        difference = jnp.abs(here - product / jnp.maximum(square, 1e-9) * there)
        spread = jnp.sqrt(jnp.maximum(jnp.sum(here**2) * jnp.sum(square), 1e-12))
        return _Look(
            residual=jnp.sum(jnp.minimum(difference, 0.1)) / jnp.maximum(jnp.sum(seen), 1),
            seen=jnp.sum(seen) / jnp.maximum(jnp.sum(self.known), 1),
            correlation=jnp.sum(product) / spread,
        )

    def _project(self, level: int | jax.Array, pose: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """Keyframes' rotations into the camera [R,3,3], points there [R,N,3], which of them are seen, and brightness there."""
        back = pose[:, :3].T
        rotation = multiply(back, self.keyframes.world_from_cam[..., :3])
        shift = rotate(back, self.keyframes.world_from_cam[..., 3] - pose[:, 3])
        points = rotate(rotation[:, None], self.keyframes.points) + shift[:, None]
        front = points[..., 2] > 1e-3 * self.unit
        z = jnp.where(front, points[..., 2], 1)[..., None]
        focal = jnp.stack((self.intrinsics[0, 0], self.intrinsics[1, 1]))
        here = sample(self.levels[level], points[..., :2] / z * focal + self.intrinsics[:2, 2])
        seen = self.known & front & jnp.isfinite(here)
        return rotation, points, seen, jnp.where(seen, here, 0)

    def _iterate(self, level: jax.Array, pose: jax.Array, light: jax.Array) -> tuple[jax.Array, jax.Array]:
        """One step of Gauss-Newton; the lights are eliminated by the Schur complement."""
        rotation, points, seen, here = self._project(level, pose)
        there, unit = self.keyframes.brightness[:, level], self.unit
        residual = jnp.where(seen, here - light[:, :1] * there - light[:, 1:], 0)
        deviation = jnp.maximum(1.4826 * _median(jnp.abs(residual), seen), NOISE)[:, None]
        weight = jnp.minimum(1, HUBER * deviation / jnp.maximum(jnp.abs(residual), 1e-9)) / deviation**2
        weight = jnp.where(seen, weight, 0) * INFORMATION / jnp.maximum(jnp.sum(self.known), 1)
        slope = light[:, :1, None] * rotate(rotation[:, None], self.keyframes.slope[:, level])
        rows = jnp.concatenate(
            (jnp.cross(slope, points), -slope * unit, -there[..., None], -jnp.ones_like(there)[..., None],
             residual[..., None]), axis=-1,
        ).swapaxes(-1, -2)  # fmt: skip
        normal = jnp.matmul(rows * weight[:, None], rows.swapaxes(-1, -2), precision="highest")
        prior = jnp.asarray((GAIN**-2, OFFSET**-2))
        own = normal[:, 6:8, 6:8] + jnp.diag(prior)
        own_side = normal[:, 6:8, 8] + prior * (light - jnp.asarray((1.0, 0.0)))
        both = jnp.linalg.solve(own, jnp.concatenate((normal[:, 6:8, :6], own_side[..., None]), axis=-1))
        mixed = jnp.matmul(normal[:, :6, 6:8], both, precision="highest")
        system = jnp.sum(normal[:, :6, :6] - mixed[..., :6], axis=0)
        side = jnp.sum(normal[:, :6, 8] - mixed[..., 6], axis=0)
        stiffness = jnp.repeat(jnp.asarray((TURN**-2, SHIFT**-2)), 3)
        side = side + stiffness * self._away(pose)
        step = -jnp.linalg.solve(system + jnp.diag(stiffness), side)
        step = jnp.where(jnp.isfinite(step).all(), step, 0)
        step = step * jnp.minimum(1, LONGEST_STEP / jnp.maximum(jnp.linalg.norm(step), 1e-9))
        light = light - both[..., 6] - _rows_times(both[..., :6], step)
        light = jnp.stack((jnp.clip(light[:, 0], 0.2, 5), jnp.clip(light[:, 1], -1, 1)), axis=-1)
        shifted = pose[:, 3] + rotate(pose[:, :3], step[3:] * unit)
        return jnp.concatenate(
            (multiply(pose[:, :3], rotation_from_vector(step[:3])), shifted[:, None]), axis=-1
        ), light

    def _away(self, pose: jax.Array) -> jax.Array:
        """[6] how far a pose is from the given one: turn in radians, shift in mean depths."""
        turn = multiply(self.guess[:, :3].T, pose[:, :3])
        axis = jnp.stack((turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1])) / 2
        return jnp.concatenate((axis, rotate(pose[:, :3].T, pose[:, 3] - self.guess[:, 3]) / self.unit))


def _rows_times(matrices: jax.Array, vector: jax.Array) -> jax.Array:
    """[R,2] from matrices [R,2,6] and a vector [6], in full precision."""
    return jnp.sum(matrices * vector, axis=-1)


def _strongest(brightness: jax.Array, known: jax.Array) -> jax.Array:
    """Pixels (u, v) [N,2] of an image [H,W]: of each of about `SAMPLES` cells the known one with the strongest gradient."""
    height, width = brightness.shape
    side = max(1, round((height * width / SAMPLES) ** 0.5))
    rows, columns = height // side, width // side
    v, u = jnp.gradient(brightness)
    strength = jnp.where(known & jnp.isfinite(u + v), u**2 + v**2, -1)[: rows * side, : columns * side]
    cells = strength.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(rows, columns, side**2)
    best = jnp.argmax(cells, axis=-1)
    corner = jnp.stack(jnp.meshgrid(jnp.arange(columns) * side, jnp.arange(rows) * side), axis=-1)
    return (corner + jnp.stack((best % side, best // side), axis=-1)).reshape(-1, 2)


def _median(values: jax.Array, counted: jax.Array) -> jax.Array:
    """Median [R] of values [R,N] in [0, 1], of those counted, to 1/4096: bisected, since sorting costs more than the rest."""
    half = jnp.sum(counted, axis=-1, keepdims=True) / 2

    def narrow(turn: jax.Array, low: jax.Array) -> jax.Array:
        middle = low + 0.5 ** (turn + 1.0)
        return jnp.where(jnp.sum(counted & (values > middle), axis=-1, keepdims=True) > half, middle, low)

    return lax.fori_loop(0, 12, narrow, jnp.zeros_like(half, jnp.float32))[:, 0] + 0.5**13
