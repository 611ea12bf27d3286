"""Render a long walk round a room, for `ivggt walk --loops`: python examples/make_walk.py [FOLDER]

The camera comes back to its first frame after 400 frames. No training has seen the room.
"""

import sys
from pathlib import Path

from PIL import Image

from ivggt_jax.evaluate.walks import CHUNK, HELD_OUT_SEED, Walk

FRAMES, HEIGHT, WIDTH = 480, 84, 112


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "walk")
    folder.mkdir(parents=True, exist_ok=True)
    walk = Walk("loop", HELD_OUT_SEED, HEIGHT, WIDTH)
    for start in range(0, FRAMES, CHUNK):
        for number, image in enumerate(walk.part(start, CHUNK).images, start):
            Image.fromarray(image).save(folder / f"{number:06d}.png")


if __name__ == "__main__":
    main()
