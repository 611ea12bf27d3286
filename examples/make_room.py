"""Render the frames and the ground truth in `examples/room`: python examples/make_room.py"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from ivggt_jax import geometry, synthetic

FOLDER = Path(__file__).parent / "room"
FRAMES, HEIGHT, WIDTH = 30, 294, 392
SUPERSAMPLE = 3


@jax.jit
def room() -> tuple[synthetic.Scene, jax.Array, jax.Array]:
    """The scene, cam_from_world [FRAMES, 3, 4] in its own world, and the intrinsics [3, 3] of all frames."""
    scene = synthetic.make_scene(jax.random.key(6), "room")
    cameras = synthetic.camera_path(jax.random.key(1), scene, FRAMES, speed=2.0, look="aside")
    intrinsics = geometry.intrinsics_from_field_of_view(jnp.deg2rad(66.0), HEIGHT, WIDTH)
    return scene, cameras, intrinsics


@jax.jit
def image(scene: synthetic.Scene, camera: jax.Array, intrinsics: jax.Array) -> jax.Array:
    """One frame, uint8 [HEIGHT, WIDTH, 3]."""
    frame = synthetic.render(scene, camera, intrinsics, HEIGHT, WIDTH, SUPERSAMPLE)
    return jnp.round(frame.image * 255).astype(jnp.uint8)


def ground_truth(cameras: jax.Array) -> np.ndarray:
    """TUM rows [FRAMES, 8]: frame number, position and quaternion xyzw of the camera in the first camera's frame."""
    world_from_cam = geometry.invert(geometry.relative_to_first(cameras))
    quaternions = geometry.quaternion_from_rotation(world_from_cam[..., :3])
    return np.column_stack((np.arange(FRAMES), world_from_cam[..., 3], quaternions))


def main() -> None:
    scene, cameras, intrinsics = room()
    (FOLDER / "frames").mkdir(parents=True, exist_ok=True)
    for number, camera in enumerate(cameras):
        picture = Image.fromarray(np.asarray(image(scene, camera, intrinsics)))
        picture.save(FOLDER / "frames" / f"{number:06d}.jpg", quality=88)
    header = "timestamp tx ty tz qx qy qz qw (world from camera; metres)"
    np.savetxt(
        FOLDER / "groundtruth.txt", ground_truth(cameras), fmt=["%d"] + ["%.6f"] * 3 + ["%.7f"] * 4, header=header
    )
    (fx, _, cx), (_, fy, cy), _ = np.asarray(intrinsics)
    rows = [(number, fx, fy, cx, cy, WIDTH, HEIGHT) for number in range(FRAMES)]
    header = "frame fx fy cx cy width height (pixels)"
    np.savetxt(FOLDER / "intrinsics.txt", rows, fmt=["%d"] + ["%.4f"] * 4 + ["%d"] * 2, header=header)


if __name__ == "__main__":
    main()
