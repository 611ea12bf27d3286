"""Render `examples/walk.mp4` and `examples/street.mp4`, for `ivggt examples/walk.mp4 --loops`: python examples/make_video.py

In the walk, the camera goes round a room and sees its beginning again after 200 of 240 frames. In the other it goes along a street.
"""

from functools import partial
from pathlib import Path

import av
import jax
import jax.numpy as jnp
import numpy as np

from ivggt_jax import geometry, synthetic
from ivggt_jax.evaluate.walks import FIELD_OF_VIEW

FOLDER = Path(__file__).parent
FRAMES_PER_SECOND = 15
HEIGHT, WIDTH, SUPERSAMPLE = 168, 224, 2


@jax.jit
def room() -> tuple[synthetic.Scene, jax.Array]:
    """The scene, and cam_from_world [240, 3, 4] of the walk."""
    scene = synthetic.make_scene(jax.random.key(21), "room")
    return scene, synthetic.camera_path(jax.random.key(3), scene, 240, speed=2.0, look="aside", period=200)


@jax.jit
def street() -> tuple[synthetic.Scene, jax.Array]:
    """The scene, and cam_from_world [160, 3, 4] of the way along it."""
    scene = synthetic.make_scene(jax.random.key(21), "street")
    return scene, synthetic.camera_path(jax.random.key(3), scene, 160, speed=2.0, look="ahead")


@jax.jit
def image(scene: synthetic.Scene, camera: jax.Array) -> jax.Array:
    """One frame, uint8 [HEIGHT, WIDTH, 3]."""
    intrinsics = geometry.intrinsics_from_field_of_view(jnp.deg2rad(FIELD_OF_VIEW), HEIGHT, WIDTH)
    frame = synthetic.render(scene, camera, intrinsics, HEIGHT, WIDTH, SUPERSAMPLE)
    return jnp.round(frame.image * 255).astype(jnp.uint8)


def write(path: Path, scene: synthetic.Scene, cameras: jax.Array) -> None:
    """A video of what the cameras see."""
    with av.open(path, "w") as file:
        stream = file.add_stream("libx264", rate=FRAMES_PER_SECOND, options={"crf": "20"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for picture in map(partial(image, scene), cameras):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(picture))))
        file.mux(stream.encode(None))


def main() -> None:
    write(FOLDER / "walk.mp4", *room())
    write(FOLDER / "street.mp4", *street())


if __name__ == "__main__":
    main()
