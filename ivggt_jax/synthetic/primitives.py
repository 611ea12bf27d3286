"""Ray casting against convex primitives: a unit box, cylinder or ball, scaled, rotated about the vertical and moved."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

BOX, CYLINDER, BALL, HOLLOW = range(4)
"""Shapes. A cylinder is upright; a hollow box is seen from inside (the walls of a room)."""


Coordinates = tuple[jax.Array, jax.Array, jax.Array]
"""x, y and z of vectors, each [...]."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Primitives:
    """The K primitives of a scene, as arrays."""

    shape: jax.Array
    """int32 [K]: BOX, CYLINDER, BALL or HOLLOW."""
    centre: jax.Array
    """[K, 3] in the world; y points down."""
    half: jax.Array
    """[K, 3]: half the extent along the primitive's own axes."""
    yaw: jax.Array
    """[K]: angle in radians that rotates the primitive's z axis towards the world's x axis."""
    seed: jax.Array
    """uint32 [K]: seed of its material."""
    grain: jax.Array
    """[K]: size of the material's patterns; 1 suits the walls of a room."""


def concatenate(parts: list[Primitives]) -> Primitives:
    """Several sets of primitives as one."""
    return jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *parts)


def to_local(vectors: jax.Array, yaw: jax.Array) -> jax.Array:
    """World vectors [..., 3] in the axes of a primitive rotated by yaw [...]."""
    cosine, sine = jnp.cos(yaw), jnp.sin(yaw)
    x, y, z = vectors[..., 0], vectors[..., 1], vectors[..., 2]
    return jnp.stack((cosine * x - sine * z, y, sine * x + cosine * z), axis=-1)


def to_world(vectors: jax.Array, yaw: jax.Array) -> jax.Array:
    """Vectors [..., 3] in a primitive's axes, converted to the world's."""
    return to_local(vectors, -yaw)


def cast(primitives: Primitives, origin: jax.Array, directions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """First hits of rays.

    directions [..., 3] of any length; origin [3], or [..., 3] for a separate one per ray. Returns the distance [...] in units of
    each direction's length (inf without a hit) and the index [...] of the primitive. A scan over primitives keeps the working set
    at a few numbers per ray.
    """

    # Split here, because on a CPU loops over contiguous coordinates are several times faster than over interleaved ones.
    origins, rays = (tuple(vectors[..., i] for i in range(3)) for vectors in (origin, directions))

    def nearest(
        carry: tuple[jax.Array, jax.Array], item: tuple[jax.Array, ...]
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        distance, index = carry
        number, shape, centre, cosine, sine, scale = item

        def unit(x: jax.Array, y: jax.Array, z: jax.Array) -> Coordinates:
            return (cosine * x - sine * z) * scale[0], y * scale[1], (sine * x + cosine * z) * scale[2]

        start = unit(*(origins[i] - centre[i] for i in range(3)))
        hit = _unit_hit(shape, start, unit(*rays))
        closer = hit < distance
        return (jnp.where(closer, hit, distance), jnp.where(closer, number, index)), None

    numbers = jnp.arange(primitives.shape.shape[0], dtype=jnp.int32)
    cosine, sine = jnp.cos(primitives.yaw), jnp.sin(primitives.yaw)
    items = (numbers, primitives.shape, primitives.centre, cosine, sine, 1 / primitives.half)
    nothing = (jnp.full_like(rays[0], jnp.inf), jnp.zeros(rays[0].shape, jnp.int32))
    return jax.lax.scan(nearest, nothing, items)[0]


def _unit_hit(shape: jax.Array, start: Coordinates, direction: Coordinates) -> jax.Array:
    """Distance [...] to one unit shape (inf for a miss), from start along direction.

    Every shape is an intersection of intervals on the ray: of slabs, and of a quadric. The quadric's interval is computed from
    the point of closest approach, because the textbook discriminant suffers from cancellation far away.
    """
    near, far = zip(*(_slab(start[i], direction[i]) for i in range(3)), strict=True)
    ball = (shape == BALL).astype(jnp.float32)
    dx, dy, dz = direction[0], ball * direction[1], direction[2]
    inverse = 1 / jnp.maximum(dx * dx + dy * dy + dz * dz, 1e-20)
    closest = -(start[0] * dx + ball * start[1] * dy + start[2] * dz) * inverse
    px, py, pz = start[0] + closest * dx, ball * start[1] + closest * dy, start[2] + closest * dz
    room = 1 - (px * px + py * py + pz * pz)
    reach = jnp.sqrt(jnp.maximum(room, 0) * inverse)
    round_near, round_far = jnp.where(room > 0, closest - reach, jnp.inf), closest + reach
    is_round = (shape == CYLINDER) | (shape == BALL)
    wide_near = jnp.where(is_round, round_near, jnp.maximum(near[0], near[2]))
    wide_far = jnp.where(is_round, round_far, jnp.minimum(far[0], far[2]))
    enter = jnp.where(shape == BALL, wide_near, jnp.maximum(wide_near, near[1]))
    leave = jnp.where(shape == BALL, wide_far, jnp.minimum(wide_far, far[1]))
    hit = jnp.where(shape == HOLLOW, leave, enter)
    return jnp.where((hit > 0) & (enter < leave), hit, jnp.inf)


def _slab(start: jax.Array, direction: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Interval of a ray inside |coordinate| ≤ 1."""
    inverse = 1 / jnp.where(jnp.abs(direction) < 1e-12, 1e-12, direction)
    middle, reach = -start * inverse, jnp.abs(inverse)
    return middle - reach, middle + reach
