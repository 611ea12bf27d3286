"""A map in metres, and depth without holes, from a depth sensor; without training.

The median ratio of measured to predicted depth in a frame is a reading: the length of the submap's unit in metres. (The median,
because sensor and network err differently at edges.) The unit follows the mean of the last readings. The output depth is the
sensor's where it measured and fits its surroundings. In its holes, and in frames that have no depth of their own, it is the last
measurement, carried along by the poses. Elsewhere it is the predicted depth times a ratio, which blends from that of nearby
measured pixels to that of the frame.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from ivggt_jax import geometry
from ivggt_jax.mapping.link import SPREAD, link
from ivggt_jax.mapping.pyramid import AREA

LEAST_SHARE = 0.02
"""Share of pixels that must be measured for a frame to count as a reading."""
WINDOW = 4
"""Number of readings over which the unit is averaged."""
KEPT = 2
"""After an anchor, all earlier readings together count as this many at most: the link is about as accurate as they are."""
REACH = 1.5
"""Radius, in pixels of an image of `AREA` pixels, over which measured pixels pass their ratio on to others."""
FRAME_WEIGHT = 0.005
"""Weight of the frame's own ratio in that average, where a pixel amid measured ones has weight 1."""
AGREED, NEIGHBOURS = 0.1, 3
"""A measured depth is believed if its log is within the first of the prediction's, or of at least the second of its eight
neighbours'. Isolated pixels lie between two surfaces or are noise."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Metric:
    """What is known of B streams' units."""

    measured: jax.Array
    """[B] int32: frames with enough measured depth."""
    agreed: jax.Array
    """[B] int32: those of them in which it agreed with the prediction."""
    readings: jax.Array
    """[B] int32: those of them that were used (readings)."""
    recent: jax.Array
    """[B] int32: readings that the current unit rests on, up to `WINDOW`; 0: unknown, the next reading alone sets it."""
    compared: jax.Array
    """[B] int32: readings that could be compared with the unit before them."""
    surprise: jax.Array
    """[B] float32: sum of the squared log differences found in these comparisons."""
    first: jax.Array
    """[B] int32: frame of the first reading; −1 before it. Everything before that frame is in another unit."""

    @classmethod
    def empty(cls, batch: int) -> "Metric":
        """For streams without any reading yet."""

        def zeros() -> jax.Array:  # a new buffer each time, because the state is donated
            return jnp.zeros(batch, jnp.int32)

        return cls(
            zeros(), zeros(), zeros(), zeros(), zeros(), jnp.zeros(batch, jnp.float32), jnp.full(batch, -1, jnp.int32)
        )

    def deviation(self) -> jax.Array:
        """[B] relative standard deviation of a submap's unit, estimated from differences of readings; NaN before the second."""
        return jnp.sqrt(self.surprise / self.compared / WINDOW)

    def anchored(self, broken: jax.Array) -> "Metric":
        """The state after the next submap began, with a `broken` link or not."""
        recent = jnp.where(broken, 0, jnp.minimum(self.recent, KEPT))
        return replace(self, recent=recent)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sensed:
    """The last measurement."""

    depth: jax.Array
    """[H,W] in metres; NaN where not measured."""
    world_from_cam: jax.Array
    """[3,4]"""

    @classmethod
    def empty(cls, batch: int, height: int, width: int) -> "Sensed":
        """No measurement, for a batch of streams."""
        return cls(jnp.full((batch, height, width), jnp.nan, jnp.float32), jnp.tile(jnp.eye(3, 4), (batch, 1, 1)))

    def after(self, used: jax.Array, depth: jax.Array, world_from_cam: jax.Array) -> "Sensed":
        """The new measurement where it is `used` [], else this one."""
        return Sensed(jnp.where(used, depth, self.depth), jnp.where(used, world_from_cam, self.world_from_cam))

    def seen_from(self, world_from_cam: jax.Array, intrinsics: jax.Array) -> jax.Array:
        """The measurement as seen from a camera [3,4] with intrinsics [3,3]: depth [H,W] of the nearest point, NaN without
        one."""
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
    """A frame's measured depth, evaluated."""

    metric: Metric
    """What is known of the unit after it."""
    factor: jax.Array
    """[] by which the submap's unit is longer than it was believed to be."""
    measured: jax.Array
    """[H,W] in metres; NaN where nothing was measured, and everywhere if it is not used."""
    used: jax.Array
    """bool []: the depth was measured and fits the scene."""
    grown: jax.Array
    """[] factor by which the first reading rescales everything known before it; otherwise 1."""


def read(
    metric: Metric, measured: jax.Array, predicted: jax.Array, before: jax.Array, still: jax.Array, frame: jax.Array
) -> Reading:
    """The reading of frame number `frame` [] of one stream.

    measured [H,W] in metres, not positive or not finite where nothing was measured; predicted [H,W] in what so far is believed
    to be metres; before [H,W] the last measurement that was used, seen from this frame, NaN where there is none; still [H,W]
    bool: pixels of the static scene. A measurement is used if it agrees with the prediction. Because the network's depth may be of
    no use in parts of a scene, it is also used if it agrees with the measurement before it, as long as most so far agreed with the
    predictions: a sensor that is not registered, or whose clock is wrong, agrees with itself, too.
    """
    seen = jnp.isfinite(measured) & (measured > 0)
    measured = jnp.where(seen, measured, jnp.nan)
    found = link(measured, predicted, still)
    same = link(measured, before, still)
    itself = (same.share >= LEAST_SHARE) & (same.spread <= SPREAD) & (jnp.abs(jnp.log(same.scale)) <= AGREED)
    enough = found.share >= LEAST_SHARE
    agrees = enough & (found.spread <= SPREAD)
    used = agrees | (enough & itself & (metric.readings >= WINDOW) & (2 * metric.agreed >= metric.measured))
    away = jnp.where(used, jnp.log(found.scale), 0)
    factor = jnp.exp(away / (jnp.minimum(metric.recent, WINDOW - 1) + 1))
    first, compared = used & (metric.readings == 0), used & (metric.recent > 0)
    known = Metric(
        measured=metric.measured + enough,
        agreed=metric.agreed + agrees,
        readings=metric.readings + used,
        recent=jnp.minimum(metric.recent + used, WINDOW),
        compared=metric.compared + compared,
        surprise=metric.surprise + jnp.where(compared, away**2, 0),
        first=jnp.where(first, frame, metric.first),
    )
    return Reading(known, factor, jnp.where(used, measured, jnp.nan), used, jnp.where(first, factor, 1))


def combine(reading: Reading, before: jax.Array, predicted: jax.Array, still: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Depth [H,W] of a frame in metres: this measurement, else the one before it, else the prediction.

    before [H,W] as for `read`; predicted [H,W] in the unit after the reading; still [H,W] bool: pixels of the static scene.
    Also returns the part of this frame's measurement that is believed and stands still, NaN elsewhere.
    """
    sensed = jnp.where(jnp.isfinite(reading.measured), reading.measured, before)
    found = link(sensed, predicted, still)
    depth, believed = fuse(sensed, jnp.where(found.share >= LEAST_SHARE, found.scale, 1) * predicted)
    return depth, jnp.where(believed & still, reading.measured, jnp.nan)


def fuse(measured: jax.Array, predicted: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Fused depth [H,W] in metres: measured depth where it is believed, elsewhere predicted depth scaled to match it nearby.

    Also returns where measured depth is believed, bool [H,W].
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
    """[H,W] how many of a pixel's eight neighbours differ by at most `AGREED`; NaN matches nothing."""
    height, width = logarithm.shape
    framed = jnp.pad(logarithm, 1, constant_values=jnp.nan)
    around = [framed[y : y + height, x : x + width] for y in range(3) for x in range(3) if (y, x) != (1, 1)]
    return jnp.sum(jnp.abs(jnp.stack(around) - logarithm) <= AGREED, axis=0)


def _gaussian(size: int, deviation: float) -> np.ndarray:
    """Float32 [size,size]: the matrix that blurs along an axis. Rows sum to 1 where the blur does not cross the border."""
    apart = np.arange(size) - np.arange(size)[:, None]
    weights = np.exp(-0.5 * (apart / deviation) ** 2)
    return (weights / weights.sum(axis=-1).max()).astype(np.float32)
