"""A map in metres, and depth without holes, by a depth sensor; no training.

The ratio of measured to predicted depth of a frame is what a unit of the present submap is worth: its median, for a sensor and the
network err differently at edges. The unit follows the mean of the last readings. Depth is the sensor's where it has measured
and fits what is around it. In its holes, and in frames that have no depth of their own, what was measured last is carried along
by the poses. Elsewhere depth is the network's, by a ratio that goes over from that of the measured pixels nearby to that of the
frame.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from ivggt_jax import geometry
from ivggt_jax.mapping.link import SPREAD, link
from ivggt_jax.mapping.pyramid import AREA

LEAST_SHARE = 0.02
"""Share of the pixels that must be measured for a frame to be a reading."""
WINDOW = 4
"""Readings whose mean the unit follows."""
KEPT = 2
"""Readings that what came before an anchor is worth after it: the link is as good as those."""
REACH = 1.5
"""Pixels, of an image of `AREA`, over which measured pixels lend their ratio to others..."""
FRAME_WEIGHT = 0.005
"""... and the weight of the frame's own ratio there, where a pixel amid measured ones has 1."""
AGREED, NEIGHBOURS = 0.1, 3
"""A measured depth is believed where its logarithm is no further than this from so many of its eight neighbours', or from what the
network predicts: alone stand pixels between two surfaces, and specks."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Metric:
    """What B streams know of their units."""

    readings: jax.Array
    """[B] int32: frames whose depth was measured and used."""
    recent: jax.Array
    """[B] int32: how many of them the present unit is worth, up to `WINDOW`; 0: unknown, the next one decides."""
    compared: jax.Array
    """[B] int32: readings that were compared with the unit before them..."""
    surprise: jax.Array
    """[B] float32: ... and the sum of the squares of the logarithm by which they differed."""
    first: jax.Array
    """[B] int32: the frame of the first reading; −1 before it. What came before that is in a unit of its own."""

    @classmethod
    def empty(cls, batch: int) -> "Metric":
        """Of streams that have measured nothing yet."""

        def zeros() -> jax.Array:  # no buffer twice: the state is donated
            return jnp.zeros(batch, jnp.int32)

        return cls(zeros(), zeros(), zeros(), jnp.zeros(batch, jnp.float32), jnp.full(batch, -1, jnp.int32))

    def deviation(self) -> jax.Array:
        """[B] relative standard deviation of a submap's unit, by how much readings differ; NaN before two of them."""
        return jnp.sqrt(self.surprise / self.compared / WINDOW)

    def anchored(self, broken: jax.Array) -> "Metric":
        """After the next submap began, and its link was `broken` or not."""
        recent = jnp.where(broken, 0, jnp.minimum(self.recent, KEPT))
        return Metric(self.readings, recent, self.compared, self.surprise, self.first)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sensed:
    """What was measured last."""

    depth: jax.Array
    """[H,W] in metres; NaN where nothing was."""
    world_from_cam: jax.Array
    """[3,4]"""

    @classmethod
    def empty(cls, batch: int, height: int, width: int) -> "Sensed":
        """Nothing, of a batch of streams."""
        return cls(jnp.full((batch, height, width), jnp.nan), jnp.tile(jnp.eye(3, 4), (batch, 1, 1)))

    def after(self, used: jax.Array, depth: jax.Array, world_from_cam: jax.Array) -> "Sensed":
        """The newer of both, where that is `used` []."""
        return Sensed(jnp.where(used, depth, self.depth), jnp.where(used, world_from_cam, self.world_from_cam))

    def seen_from(self, world_from_cam: jax.Array, intrinsics: jax.Array) -> jax.Array:
        """Depth [H,W] of a camera [3,4] with intrinsics [3,3]: the nearest point in each pixel; NaN where there is none."""
        height, width = self.depth.shape
        points = geometry.unproject(self.depth, geometry.invert(self.world_from_cam), intrinsics).reshape(-1, 3)
        pixels, depth = geometry.project(points, geometry.invert(world_from_cam), intrinsics)
        inside = (depth > 0) & jnp.all((pixels > -0.5) & (pixels < jnp.asarray((width, height)) - 0.5), axis=-1)
        column, row = jnp.moveaxis(jnp.where(inside[:, None], jnp.round(pixels), 0).astype(jnp.int32), -1, 0)
        place = jnp.where(inside, row * width + column, height * width)
        nearest = jnp.full(height * width, jnp.inf).at[place].min(depth, mode="drop").reshape(height, width)
        return jnp.where(jnp.isfinite(nearest), nearest, jnp.nan)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Reading:
    """What a frame's measured depth says."""

    metric: Metric
    """What is known after it."""
    factor: jax.Array
    """[] by what the submap's unit is longer than it was believed to be."""
    measured: jax.Array
    """[H,W] in metres; NaN where nothing was, and everywhere if it is not used."""
    used: jax.Array
    """bool []: the depth was measured and is of this scene."""
    grown: jax.Array
    """[] by what the first reading multiplies everything that was known before it; else 1."""


def read(
    metric: Metric, measured: jax.Array, predicted: jax.Array, before: jax.Array, still: jax.Array, frame: jax.Array
) -> Reading:
    """The reading of a frame of one stream, the `frame` [] -th.

    measured [H,W] in metres, not positive or not finite where nothing was; predicted [H,W] in what metres were believed to be;
    before [H,W] what was measured and used last, seen from here, NaN where nothing; still [H,W] bool: pixels of the still scene.
    A sensor is believed that agrees with the network or, for where the network's depth is of no use, with itself.
    """
    seen = jnp.isfinite(measured) & (measured > 0)
    measured = jnp.where(seen, measured, jnp.nan)
    found = link(measured, predicted, still)
    same = link(measured, before, still)
    itself = (same.share >= LEAST_SHARE) & (same.spread <= SPREAD) & (jnp.abs(jnp.log(same.scale)) <= AGREED)
    used = (found.share >= LEAST_SHARE) & ((found.spread <= SPREAD) | itself)
    away = jnp.where(used, jnp.log(found.scale), 0)
    factor = jnp.exp(away / (jnp.minimum(metric.recent, WINDOW - 1) + 1))
    first, compared = used & (metric.readings == 0), used & (metric.recent > 0)
    known = Metric(
        readings=metric.readings + used,
        recent=jnp.minimum(metric.recent + used, WINDOW),
        compared=metric.compared + compared,
        surprise=metric.surprise + jnp.where(compared, away**2, 0),
        first=jnp.where(first, frame, metric.first),
    )
    return Reading(known, factor, jnp.where(used, measured, jnp.nan), used, jnp.where(first, factor, 1))


def combine(reading: Reading, before: jax.Array, predicted: jax.Array, still: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Depth [H,W] of a frame in metres: what was measured, what was measured before, elsewhere what is predicted.

    before [H,W] as in `read`; predicted [H,W] in the unit of after the reading; still [H,W] bool: pixels of the still scene.
    Returns what is believed of the frame's own measured depth, too, NaN elsewhere.
    """
    sensed = jnp.where(jnp.isfinite(reading.measured), reading.measured, before)
    found = link(sensed, predicted, still)
    depth, believed = fuse(sensed, jnp.where(found.share >= LEAST_SHARE, found.scale, 1) * predicted)
    return depth, jnp.where(believed, reading.measured, jnp.nan)


def fuse(measured: jax.Array, predicted: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Depth [H,W] of both, in metres: what was measured and is believed, and elsewhere what is predicted, brought to it.

    Returns bool [H,W], too: where measured depth is believed.
    """
    seen = jnp.isfinite(measured) & (measured > 0) & jnp.isfinite(predicted) & (predicted > 0)
    logarithm = jnp.where(seen, jnp.log(jnp.where(seen, measured, 1)), jnp.nan)
    ratio = jnp.where(seen, logarithm - jnp.log(jnp.where(seen, predicted, 1)), 0)
    believed = seen & ((jnp.abs(ratio) <= AGREED) | (_alike(logarithm) >= NEIGHBOURS))
    height, width = predicted.shape
    unit = (height * width / AREA) ** 0.5
    both = jnp.stack((jnp.where(believed, ratio, 0), believed.astype(jnp.float32)))
    down, across = _gaussian(height, REACH * unit), _gaussian(width, REACH * unit)
    total, weight = jnp.einsum("ih,chw,jw->cij", down, both, across, precision="highest")
    return jnp.where(believed, measured, predicted * jnp.exp(total / (weight + FRAME_WEIGHT))), believed


def _alike(logarithm: jax.Array) -> jax.Array:
    """[H,W] how many of a pixel's eight neighbours are within `AGREED` of it; NaN is like nothing."""
    height, width = logarithm.shape
    framed = jnp.pad(logarithm, 1, constant_values=jnp.nan)
    around = [framed[y : y + height, x : x + width] for y in range(3) for x in range(3) if (y, x) != (1, 1)]
    return jnp.sum(jnp.abs(jnp.stack(around) - logarithm) <= AGREED, axis=0)


def _gaussian(size: int, deviation: float) -> np.ndarray:
    """Float32 [size,size]: the matrix that blurs an axis, each row of sum 1 where it does not reach over the edge."""
    apart = np.arange(size) - np.arange(size)[:, None]
    weights = np.exp(-0.5 * (apart / deviation) ** 2)
    return (weights / weights.sum(axis=-1).max()).astype(np.float32)
