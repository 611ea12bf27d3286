"""Colours of rays: surface, light, shadow, haze and sky."""

import jax
import jax.numpy as jnp

from .hashing import derive
from .primitives import BOX, CYLINDER, HOLLOW, Primitives, cast, to_local, to_world
from .scenes import Scene
from .texture import material, paint, value_noise

_SHADOW_OFFSET = 2e-3
"""Distance in metres above a surface at which shadow rays start, so that no surface shades itself."""


def shade(
    scene: Scene, primitives: Primitives, origin: jax.Array, directions: jax.Array, pixel: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Colours [..., 3], depths [...] (0 for a miss) and primitive numbers [...] along rays from origin [3].

    directions [..., 3] in the world's axes, with z = 1 in the camera; `pixel` is the size of a pixel at depth 1.
    """
    depth, index = cast(primitives, origin, directions)
    length = jnp.linalg.norm(directions, axis=-1)
    distance = depth * length
    valid = distance < scene.far
    depth = jnp.where(valid, depth, 0)
    place = origin + depth[..., None] * directions
    normal, colour = _surface(primitives, index, place, directions / length[..., None], depth * pixel)
    shaded = colour * _light(scene, primitives, place, normal)[..., None]
    fade = jnp.where(valid, jnp.clip(2.5 * distance / scene.far - 1.5, 0, 1), 1)
    if scene.kind != "room":
        shaded += fade[..., None] * (_background(scene, directions / length[..., None]) - shaded)
    return jnp.clip(shaded, 0, 1), depth, index


def _surface(
    primitives: Primitives, index: jax.Array, place: jax.Array, view: jax.Array, pixel: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Unit normals towards the viewer, and unlit colours, both [..., 3], at places on the primitives index [...].

    `view` are unit vectors from the viewer; `pixel` [...] is the size of a pixel that faces the viewer.
    """
    hit = jax.tree.map(lambda array: array[index], primitives)
    local = to_local(place - hit.centre, hit.yaw)
    normal = _local_normal(hit.shape, local, hit.half)
    # Round objects are painted like the box around them, by the axis closest to the normal.
    axis = jnp.argmax(jnp.abs(normal), axis=-1)
    positive = jnp.sum(normal * (axis[..., None] == jnp.arange(3)), axis=-1) > 0
    position = jnp.stack(
        (jnp.where(axis == 0, local[..., 2], local[..., 0]), jnp.where(axis == 1, local[..., 2], local[..., 1])),
        axis=-1,
    )
    normal = to_world(normal, hit.yaw)
    cosine = jnp.sum(normal * view, axis=-1)
    footprint = pixel / jnp.sqrt(jnp.maximum(jnp.abs(cosine), 0.02))
    # A primitive's sides, top and underside have different materials; opposite sides differ in details.
    part = jnp.where(axis == 1, 1 + positive, 0)
    materials = material(derive(primitives.seed[:, None], jnp.arange(3)), primitives.grain[:, None])
    surface = jax.tree.map(lambda array: array[index, part], materials)
    colour = paint(surface, jnp.where(axis == 0, 2, 0) + positive, position, footprint)
    return jnp.where(cosine[..., None] > 0, -normal, normal), colour


def _local_normal(shape: jax.Array, local: jax.Array, half: jax.Array) -> jax.Array:
    """Unit outward normals [..., 3], in the primitive's axes, at points local [..., 3] on its surface."""
    unit = local / half
    size = jnp.abs(unit)
    face = jnp.where(size >= jnp.max(size, axis=-1, keepdims=True), unit, 0)
    upright = unit * jnp.asarray((1.0, 0.0, 1.0))
    on_cap = size[..., 1] > jnp.hypot(unit[..., 0], unit[..., 2])
    tube = jnp.where(on_cap[..., None], unit - upright, upright)
    shape = shape[..., None]
    gradient = jnp.where((shape == BOX) | (shape == HOLLOW), face, jnp.where(shape == CYLINDER, tube, unit)) / half
    return gradient / jnp.maximum(jnp.linalg.norm(gradient, axis=-1, keepdims=True), 1e-12)


def _light(scene: Scene, primitives: Primitives, place: jax.Array, normal: jax.Array) -> jax.Array:
    """Brightness [...] of places [..., 3] with these normals: ambient and direct light, shadow, darker near the floor."""
    ambient, direct, shadow_share = scene.lighting
    towards = scene.light[:3] - scene.light[3] * place
    distance = jnp.linalg.norm(towards, axis=-1)
    cosine = jnp.clip(jnp.sum(normal * towards, axis=-1) / jnp.maximum(distance, 1e-6), 0, 1)
    strength = direct * cosine
    if scene.kind == "room":
        strength *= 1.3 / (1 + (distance / 2.5) ** 2)
    if scene.kind in ("room", "street"):
        blocked = cast(primitives, place + _SHADOW_OFFSET * normal, towards)[0]
        reach = 1 if scene.kind == "room" else jnp.inf
        strength *= jnp.where(blocked < reach, 1 - shadow_share, 1)
    upright = 1 - jnp.abs(normal[..., 1])
    corner = 1 - 0.3 * upright * jnp.clip(1 + place[..., 1] / 0.4, 0, 1) ** 2
    return corner * (ambient * (1 - 0.12 * normal[..., 1]) + strength)


def _background(scene: Scene, view: jax.Array) -> jax.Array:
    """Background colours [..., 3] along unit vectors [..., 3]: plain haze indoors, a cloudy sky outdoors."""
    if scene.kind != "street":
        return jnp.broadcast_to(scene.haze, view.shape)
    rise = jnp.clip(-view[..., 1], 0, 1)
    above = view[..., ::2] / (rise[..., None] + 0.15)
    cloud = value_noise(scene.seed, 1.3 * above) + 0.5 * value_noise(scene.seed + jnp.uint32(1), 3.1 * above)
    cloud = jnp.clip(0.5 + 1.2 * cloud, 0, 1) * jnp.clip(4 * rise, 0, 1)
    blue = scene.haze * jnp.asarray((0.55, 0.75, 1.0))
    colour = scene.haze + (blue - scene.haze) * jnp.sqrt(rise)[..., None]
    return colour + (0.95 - colour) * (0.8 * cloud)[..., None]
