"""A calibrated camera, and what the network would have thought of it: python examples/06_calibrated_camera.py"""

from pathlib import Path

import numpy as np

from ivggt_jax import CacheConfig, SubmapConfig, cameras_from_pose, load, stream, unproject
from ivggt_jax.sources import SourceConfig, open_source

FRAMES = Path(__file__).parent / "room" / "frames"
CAMERA = "301.8,301.8,196,147"  # fx, fy, cx, cy of these pictures; or a file, as docs/sensors.md says


def main() -> None:
    model, cache = load("demo"), CacheConfig(total_budget=2_000)
    with open_source(SourceConfig(frames=str(FRAMES), size=model.config.image_size, camera=CAMERA)) as source:
        frames = list(source)
    images, known = [frame.image for frame in frames], frames[0].camera
    assert known is not None
    height, width, _ = images[0].shape
    for name, focal in (("predicted", None), ("known", np.array(known.focal))):
        for found in stream(model, images, cache, submaps=SubmapConfig(), focal=focal):
            camera, intrinsics = cameras_from_pose(found.pose_encoding, height, width)
            points = unproject(found.depth, camera, intrinsics)
        degrees = 2 * np.degrees(np.arctan(width / 2 / intrinsics[0, 0]))
        print(f"{name}: {degrees:.1f} degrees across, a scene {np.ptp(points[..., 0]):.2f} wide in the last frame")


if __name__ == "__main__":
    main()
