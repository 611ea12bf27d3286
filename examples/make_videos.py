"""Render the videos in `examples`, for `ivggt examples/walk.mp4 --loops`: python examples/make_videos.py

In walk.mp4 the camera goes round a room and sees its beginning again after 200 frames of 240; street.mp4 leads along a street.
"""

from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import jax
import jax.numpy as jnp
import numpy as np

from ivggt_jax import geometry, synthetic
from ivggt_jax.evaluate.walks import FIELD_OF_VIEW

FOLDER = Path(__file__).parent
HEIGHT, WIDTH, SUPERSAMPLE = 168, 224, 2
FRAMES_PER_SECOND = 15


@partial(jax.jit, static_argnums=(2, 3, 4))
def world(
    scene_key: int, path_key: int, frames: int, kind: synthetic.Kind, period: int | None
) -> tuple[synthetic.Scene, jax.Array]:
    """A scene, and cam_from_world [frames, 3, 4] of a walk through it."""
    scene = synthetic.make_scene(jax.random.key(scene_key), kind)
    look: synthetic.Look = "aside" if kind == "room" else "ahead"
    return scene, synthetic.camera_path(jax.random.key(path_key), scene, frames, speed=2.0, look=look, period=period)


@jax.jit
def image(scene: synthetic.Scene, camera: jax.Array) -> jax.Array:
    """One frame, uint8 [HEIGHT, WIDTH, 3]."""
    intrinsics = geometry.intrinsics_from_field_of_view(jnp.deg2rad(FIELD_OF_VIEW), HEIGHT, WIDTH)
    frame = synthetic.render(scene, camera, intrinsics, HEIGHT, WIDTH, SUPERSAMPLE)
    return jnp.round(frame.image * 255).astype(jnp.uint8)


def main() -> None:
    videos = {
        "walk.mp4": world(21, 3, 240, "room", 200),
        "street.mp4": world(22, 4, 120, "street", None),
    }
    for name, (scene, cameras) in videos.items():
        with av.open(FOLDER / name, "w") as file:
            stream = file.add_stream("libx264", rate=Fraction(FRAMES_PER_SECOND), options={"crf": "20"})
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            for camera in cameras:
                file.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(image(scene, camera)))))
            file.mux(stream.encode(None))


if __name__ == "__main__":
    main()
