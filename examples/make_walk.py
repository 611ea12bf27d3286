"""Render a long walk, for `ivggt walk --loops`: python examples/make_walk.py [FOLDER] [ROUTE]

Beside the folder's frames goes FOLDER_truth.txt, the true path as TUM has it. On the route "loop" the camera comes back to its
first frame after 400 frames; docs/synthetic.md lists the others. No training has seen the scene.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from ivggt_jax.evaluate.walks import CHUNK, HELD_OUT_SEED, ROUTES, Walk

FRAMES, HEIGHT, WIDTH = 480, 84, 112


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "walk")
    route = sys.argv[2] if len(sys.argv) > 2 else "loop"
    if route not in ROUTES:
        sys.exit(f"no route is called {route}; there are {', '.join(ROUTES)}")
    folder.mkdir(parents=True, exist_ok=True)
    walk, rows = Walk(route, HELD_OUT_SEED, HEIGHT, WIDTH), []
    for start in range(0, FRAMES, CHUNK):
        part = walk.part(start, CHUNK)
        for number, (image, pose) in enumerate(zip(part.images, part.world_from_cam, strict=True), start):
            Image.fromarray(image).save(folder / f"{number:06d}.png")
            rows.append([number, *pose[:, 3], *Rotation.from_matrix(pose[:, :3]).as_quat()])
    np.savetxt(
        f"{folder}_truth.txt", rows, fmt="%.9g", header="timestamp tx ty tz qx qy qz qw (world from camera; metres)"
    )


if __name__ == "__main__":
    main()
