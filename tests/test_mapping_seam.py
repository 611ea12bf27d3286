"""The step in depth where two submaps meet; a slanted wall 20×30, exact cameras, seed 0."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from ivggt_jax import SubmapConfig, geometry
from ivggt_jax.mapping.seam import FADE, Seam
from ivggt_jax.mapping.state import MapState
from ivggt_jax.mapping.submaps import _grown

SIZE = 20, 30
INTRINSICS = geometry.intrinsics_from_field_of_view(jnp.deg2rad(60.0), *SIZE)


def wall(world_from_cam: np.ndarray) -> np.ndarray:
    """Depth of the plane z = 2 + x/4 in the world, for a camera that looks along z."""
    x, _, z = world_from_cam[:, 3]
    rays = np.asarray(geometry.pixel_rays(INTRINSICS, *SIZE))
    return (2 + x / 4 - z) / (1 - rays[..., 0] / 4)


def camera(x: float) -> np.ndarray:
    return np.concatenate((np.eye(3), [[x], [0.0], [0.0]]), axis=1).astype(np.float32)


def test_the_step_goes_with_the_scene_and_fades():
    """The old submap saw the scene a tenth further away on the right of x = 0; the camera moves by 0.05 a frame."""
    places = np.asarray(geometry.unproject(jnp.asarray(wall(camera(0)), jnp.float32), jnp.eye(3, 4), INTRINSICS))
    old = wall(camera(0)) * np.where(places[..., 0] > 0, 1.1, 1.0)
    seam = Seam.between(jnp.asarray(old), jnp.asarray(wall(camera(0))), jnp.asarray(camera(0)))
    for age in range(1, FADE + 2):
        pose = camera(0.05 * age)
        depth = jnp.asarray(wall(pose), jnp.float32)
        closed, seam = seam.close(depth, jnp.asarray(pose), INTRINSICS)
        where = np.asarray(geometry.unproject(depth, geometry.invert(jnp.asarray(pose)), INTRINSICS))[..., 0]
        known = (np.abs(where) > 0.2) & (where < 0.9)  # a pixel is 0.08 wide there
        wanted = np.where(where > 0, 1.1 ** max(1 - age / FADE, 0), 1)
        np.testing.assert_allclose((closed / depth)[known], wanted[known], atol=1e-4)


def test_what_is_not_known_or_another_thing_makes_no_seam():
    new = np.full(SIZE, 2.0, np.float32)
    old = new.copy()
    old[0], old[1], old[2] = np.nan, 0, 4
    seam = Seam.between(jnp.asarray(old), jnp.asarray(new), jnp.eye(3, 4))
    assert not seam.step.any()
    nothing = Seam.none(1, *SIZE)
    assert nothing.step.shape == (1, *SIZE)
    assert nothing.age[0] >= FADE


def test_the_step_stays_in_its_place_when_the_unit_changes():
    """A depth sensor says that all lengths are three times as long: so are the depths without the step."""
    anchor, pose = camera(0.7), camera(0.75)
    depth = jnp.asarray(wall(pose), jnp.float32)
    seam = Seam.between(
        jnp.asarray(wall(anchor)) * jnp.linspace(1, 1.1, SIZE[1]), jnp.asarray(wall(anchor)), jnp.asarray(anchor)
    )
    position = replace(jax.tree.map(lambda x: x[0], MapState.empty(SubmapConfig(), 1, *SIZE, None)), seam=seam)
    wanted, _ = seam.close(depth, jnp.asarray(pose), INTRINSICS)
    longer = jnp.asarray(pose).at[:, 3].multiply(3)
    found, _ = _grown(position, jnp.asarray(3.0)).seam.close(3 * depth, longer, INTRINSICS)
    assert float(jnp.max(wanted / depth)) > 1.05
    np.testing.assert_allclose(found, 3 * wanted, rtol=1e-5)
