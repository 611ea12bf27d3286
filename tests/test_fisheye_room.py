"""A rendered room through a fisheye, undistorted, is as good for the demo model as the same room through a pinhole."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ivggt_jax import CacheConfig, SubmapConfig, cameras_from_pose, geometry, load, stream
from ivggt_jax.cameras.models import Camera, pinhole
from ivggt_jax.cameras.undistortion import focal_of
from ivggt_jax.evaluate.records import path_errors
from ivggt_jax.evaluate.walks import HELD_OUT_SEED, depth_errors
from ivggt_jax.sources import SourceConfig, open_source
from ivggt_jax.synthetic import camera_path, each_camera, make_scene
from ivggt_jax.synthetic.scenes import visible_primitives
from ivggt_jax.synthetic.shading import shade
from ivggt_jax.trajectories.alignment import inverse
from ivggt_jax.transforms import rotate

SIZE, DEGREES, FRAMES = (320, 240), 62.0, 40
FISHEYE = Camera("fisheye", (150.0, 150.0), (161.0, 117.5), (-0.01, 0.004, 0.0, 0.0), SIZE)
"""122 degrees across."""
SEEDS = (1048676, 1048679)


def rendered(lens: Camera, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images uint8 [T,H,W,3], depth [T,H,W] and world_from_cam [T,3,4] of a walk around a room, as the lens takes it."""
    scene_key, path_key = jax.random.split(jax.random.key(seed))
    scene = make_scene(scene_key, "room")
    cameras = camera_path(path_key, scene, FRAMES, speed=2.0, look="aside")
    pixels = np.stack(np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1])), axis=-1)
    rays = lens.unproject(pixels)
    rays = jnp.asarray(rays / rays[..., 2:], jnp.float32)

    def one(camera: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        world_from_cam = geometry.invert(camera)
        origin, directions = world_from_cam[:, 3], rotate(world_from_cam[:, :3], rays)
        return shade(
            scene, visible_primitives(scene, origin, directions), origin, directions, jnp.asarray(1 / lens.focal[0])
        )

    images, depth, _ = jax.jit(lambda cameras: each_camera(one, cameras, SIZE[0] * SIZE[1]))(cameras)
    return (
        np.round(255 * np.asarray(images)).astype(np.uint8),
        np.asarray(depth),
        inverse(np.asarray(cameras, np.float64)),
    )


@pytest.mark.slow
def test_an_undistorted_fisheye_is_as_good_as_a_pinhole(tmp_path) -> None:
    """Path error and depth error of the demo model within 15 %, means of two walks of 40 frames on tuning seeds."""
    assert min(SEEDS) > HELD_OUT_SEED
    model, errors = load("demo"), {}
    straight = pinhole(focal_of(DEGREES, SIZE[0]), (159.5 + 320 / 224, 119.5 + 320 / 224), SIZE)
    for name, lens in (("pinhole", straight), ("fisheye", FISHEYE)):
        camera = ("fisheye:" if name == "fisheye" else "") + ",".join(
            map(str, (*lens.focal, *lens.centre, *lens.distortion))
        )
        for seed in SEEDS:
            images, own_depth, truth = rendered(lens, seed)
            true_depth = rendered(straight, seed)[1] if name == "fisheye" else own_depth
            folder = tmp_path / f"{name}{seed}"
            folder.mkdir()
            for number, image in enumerate(images):
                Image.fromarray(image).save(folder / f"{number}.png")
            config = SourceConfig(frames=str(folder), size=112, camera=camera, camera_fov=DEGREES)
            with open_source(config) as source:
                frames = list(source)
            assert all(frame.mask is None for frame in frames) or name == "pinhole"
            focal = np.array(frames[0].camera.focal)
            cache = replace(CacheConfig(), total_budget=20_000)
            found = list(stream(model, [f.image for f in frames], cache, submaps=SubmapConfig(), focal=focal))
            poses = [np.asarray(cameras_from_pose(p.pose_encoding, 84, 112)[0], np.float64) for p in found]
            columns = np.round((np.arange(112) + 0.5) * 320 / 112 - 0.5).astype(int)
            rows = np.round((np.arange(84) + 0.5) * 240 / 84 - 0.5).astype(int)
            depth = np.stack([p.depth for p in found])
            path = path_errors(inverse(np.stack(poses)), truth).over_length
            error = depth_errors(depth, true_depth[:, rows][:, :, columns]).abs_rel.mean()
            errors.setdefault(name, []).append((path, error))
    means = {name: np.mean(values, axis=0) for name, values in errors.items()}
    print(means, errors)
    assert (means["fisheye"] < 1.15 * means["pinhole"]).all()
