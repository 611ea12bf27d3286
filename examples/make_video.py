"""Render `examples/walk.mp4`, for `ivggt examples/walk.mp4 --loops`: python examples/make_video.py

The camera goes round a room and sees its beginning again after 200 of 240 frames.
"""

from pathlib import Path

import av
import jax
import jax.numpy as jnp
import numpy as np

from ivggt_jax import geometry, synthetic
from ivggt_jax.evaluate.walks import FIELD_OF_VIEW

FILE = Path(__file__).parent / "walk.mp4"
FRAMES, PERIOD, FRAMES_PER_SECOND = 240, 200, 15
HEIGHT, WIDTH, SUPERSAMPLE = 168, 224, 2


@jax.jit
def room() -> tuple[synthetic.Scene, jax.Array]:
    """The scene, and cam_from_world [FRAMES, 3, 4] of the walk."""
    scene = synthetic.make_scene(jax.random.key(21), "room")
    path = synthetic.camera_path(jax.random.key(3), scene, FRAMES, speed=2.0, look="aside", period=PERIOD)
    return scene, path


@jax.jit
def image(scene: synthetic.Scene, camera: jax.Array) -> jax.Array:
    """One frame, uint8 [HEIGHT, WIDTH, 3]."""
    intrinsics = geometry.intrinsics_from_field_of_view(jnp.deg2rad(FIELD_OF_VIEW), HEIGHT, WIDTH)
    frame = synthetic.render(scene, camera, intrinsics, HEIGHT, WIDTH, SUPERSAMPLE)
    return jnp.round(frame.image * 255).astype(jnp.uint8)


def main() -> None:
    scene, cameras = room()
    with av.open(FILE, "w") as file:
        stream = file.add_stream("libx264", rate=FRAMES_PER_SECOND, options={"crf": "20"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for camera in cameras:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(image(scene, camera)))))
        file.mux(stream.encode(None))


if __name__ == "__main__":
    main()
