"""Camera poses and depth of a folder of images, all seen at once: python examples/01_poses_and_depth.py"""

from itertools import islice
from pathlib import Path

import numpy as np

from ivggt_jax import cameras_from_pose, infer_clip, load
from ivggt_jax.sources import SourceConfig, open_source

FRAMES = Path(__file__).parent / "room" / "frames"


def main() -> None:
    model = load("demo")
    with open_source(SourceConfig(frames=str(FRAMES), size=model.config.image_size, stride=4)) as source:
        images = np.stack([frame.image for frame in islice(source, 6)])  # uint8 [S, H, W, 3]
    predictions = infer_clip(model, images[None], mode="offline", heads=("camera", "depth"))
    cam_from_world, intrinsics = cameras_from_pose(predictions.pose_encoding[0], *images.shape[1:3])
    for number, depth in enumerate(predictions.depth[0]):
        rotation, translation = cam_from_world[number, :, :3], cam_from_world[number, :, 3]
        position = -rotation.T @ translation
        print(
            f"frame {number}: camera at {np.round(position, 3)}, focal length {intrinsics[number, 0, 0]:.1f} pixels, "
            f"depth {depth.min():.2f} to {depth.max():.2f}"
        )


if __name__ == "__main__":
    main()
