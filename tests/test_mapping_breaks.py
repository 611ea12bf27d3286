"""What breaks a map is said, and what only looks like it does not: the demo model on rendered rooms, 84×112, 16-frame submaps.

Seeds 0 to 5, which no accuracy is reported on. Where a map cannot go on, a new part begins; where it can, the camera is kept.
"""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from ivggt_jax import CacheConfig, Model, Predictions, SubmapConfig, geometry, init_stream, load, scan, stream
from ivggt_jax.evaluate.walks import FIELD_OF_VIEW, Walk
from ivggt_jax.synthetic import make_scene, render
from ivggt_jax.trajectories.alignment import inverse
from ivggt_jax.transforms import rotation_angle

pytestmark = pytest.mark.slow
SIZE = 84, 112
SUBMAPS = SubmapConfig()
CACHE = CacheConfig(total_budget=5088)


@pytest.fixture(scope="module")
def demo() -> Model:
    return load("demo")


@pytest.fixture(scope="module")
def rooms() -> list[tuple[np.ndarray, np.ndarray]]:
    """Images uint8 [200,H,W,3] and world_from_cam [200,3,4] of two rooms."""
    walks = [Walk("return", seed, *SIZE) for seed in (0, 1)]
    parts = [[walk.part(first, 10) for first in range(0, 200, 10)] for walk in walks]
    return [
        (np.concatenate([p.images for p in each]), np.concatenate([p.world_from_cam for p in each])) for each in parts
    ]


def follow(demo: Model, images: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """world_from_cam [T,3,4] and the part of the map [T] of every frame."""
    found = list(stream(demo, images, CACHE, heads=("camera", "depth"), submaps=SUBMAPS, chunk=10))
    encodings = jnp.asarray(np.stack([x.pose_encoding for x in found]))
    cameras, _ = geometry.cameras_from_pose(encodings, *SIZE)
    return inverse(np.asarray(cameras, np.float64)), np.array([int(x.map.part) for x in found])


def test_a_cut_begins_a_new_part(demo: Model, rooms: list[tuple[np.ndarray, np.ndarray]]):
    """Within 12 frames, once, and not before."""
    _, parts = follow(demo, np.concatenate((rooms[0][0][:100], rooms[1][0][:60])))
    assert not parts[:100].any()
    assert (parts[112:] == 1).all()


@pytest.mark.parametrize("seed", range(6))
def test_the_room_in_a_mirror_is_another_room(demo: Model, seed: int):
    images = np.concatenate([Walk("return", seed, *SIZE).part(first, 10).images for first in range(0, 100, 10)])
    _, parts = follow(demo, np.concatenate((images, images[:60, :, ::-1])))
    assert not parts[:100].any()
    assert (parts[112:] == 1).all()


def test_a_lens_that_is_covered_while_the_camera_moves_on(demo: Model, rooms: list[tuple[np.ndarray, np.ndarray]]):
    """30 dark noisy frames: nothing is found in them, and what follows is a new part, for the way was not seen."""
    images = rooms[0][0].copy()
    dark = np.random.default_rng(0).normal(3, 1.5, images[60:90].shape)
    images[60:90] = np.clip(dark, 0, 255).astype(np.uint8)
    _, parts = follow(demo, images[:150])
    assert not parts[:90].any()
    assert (parts[102:] == 1).all()


def test_a_camera_that_stands_still(demo: Model, rooms: list[tuple[np.ndarray, np.ndarray]]):
    """500 frames of one view with noise (σ 2 of 255), sixteen anchors among them: it moves by less than 1 % of its way before,
    and turns by less than 0.2 degrees."""
    images, _ = rooms[0]
    random = np.random.default_rng(0)
    noisy = (np.clip(images[99] + random.normal(0, 2, images[99].shape), 0, 255).astype(np.uint8) for _ in range(500))
    found, parts = follow(demo, (*images[:100], *noisy))
    assert not parts.any()
    way = np.linalg.norm(np.diff(found[:100, :, 3], axis=0), axis=1).sum()
    still = found[99:]
    assert np.linalg.norm(still[:, :, 3] - still[0, :, 3], axis=1).max() < 0.01 * way
    turned = rotation_angle(still[0, :, :3].T @ still[:, :, :3])
    assert np.degrees(turned.max()) < 0.2


def test_a_camera_that_turns_on_the_spot(demo: Model, rooms: list[tuple[np.ndarray, np.ndarray]]):
    """Two turns of 3 degrees a frame: one map, and all that it turned is found to 3 %."""
    scene = make_scene(jax.random.split(jax.random.key(0))[0], "room")
    intrinsics = geometry.intrinsics_from_field_of_view(jnp.deg2rad(FIELD_OF_VIEW), *SIZE)
    start = rooms[0][1][0]
    picture = jax.jit(lambda camera: render(scene, camera, intrinsics, *SIZE).image)

    def view(frame: int) -> np.ndarray:
        turned = start[:, :3] @ Rotation.from_euler("y", 3 * frame, degrees=True).as_matrix()
        camera = inverse(np.concatenate((turned, start[:, 3:]), axis=1)[None])[0]
        return np.round(255 * np.clip(picture(jnp.asarray(camera, jnp.float32)), 0, 1)).astype(np.uint8)

    found, parts = follow(demo, map(view, range(241)))
    assert not parts.any()
    steps = found[:-1, :, :3].swapaxes(1, 2) @ found[1:, :, :3]
    assert np.degrees(Rotation.from_matrix(steps).as_rotvec()[:, 1].sum()) == pytest.approx(720, rel=0.03)


def test_a_batch_of_four_is_four_streams(demo: Model, rooms: list[tuple[np.ndarray, np.ndarray]]):
    """80 frames, one stream with a cut: poses to 5e-5, depth to 3e-5 but for one pixel in 10,000, at an edge of the seam."""
    images = [rooms[0][0][:80], rooms[1][0][:80], rooms[0][0][100:180], rooms[1][0][100:180]]
    images[3] = np.concatenate((images[3][:40], images[0][:40]))
    config = SubmapConfig(frames=16)

    def run(videos: np.ndarray) -> Predictions:
        options = {"height": SIZE[0], "width": SIZE[1], "heads": ("camera", "depth"), "submaps": config}
        state = init_stream(demo, CACHE, batch=videos.shape[1], **options)
        return jax.device_get(scan(demo, state, videos)[1])

    together = run(np.stack(images, axis=1))
    assert together.map.anchor.sum() >= 16
    assert together.map.part[-1, 3] == 1
    for i, video in enumerate(images):
        alone = run(video[:, None])
        np.testing.assert_allclose(together.pose_encoding[:, i], alone.pose_encoding[:, 0], rtol=5e-5, atol=5e-5)
        assert np.quantile(np.abs(together.depth[:, i] / alone.depth[:, 0] - 1), 0.9999) < 3e-5
