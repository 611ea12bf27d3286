"""`scene.html`: cloud, path, cameras and pictures over time, in one file that opens offline in any browser (WebGL 2).

The page is `scene.html` next to this module, with two blocks of data filled in: a description of the scene as JSON, and the
points, zlib-compressed and in base64. These are, in the order of their frames: all positions as float32 [N, 3], little-endian;
then red, green, blue and confidence percentile of each point, uint8 [N, 4]; then nearness in its own camera, uint8 [N].
"""

import base64
import io
import json
import zlib
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ivggt_jax.depth_colours import COLOURS, inverse_depth_range, nearness
from ivggt_jax.writers.drawn import MOST_POINTS, Thinned
from ivggt_jax.writers.files import replacing
from ivggt_jax.writers.frusta import frustum_depth, overview, upright
from ivggt_jax.writers.fusion import automatic_voxel
from ivggt_jax.writers.result import Result
from ivggt_jax.writers.run_json import plain
from ivggt_jax.writers.saved_run import SavedRun
from ivggt_jax.writers.writer import ExportOptions, required

PICTURE = 256
"""Longest side in pixels of the frames' pictures."""
QUALITY = 80
"""Their JPEG quality."""


def export_html(run: SavedRun, out: Path, options: ExportOptions) -> None:
    """Write `scene.html` into the folder `out`.

    Raises ValueError when no pixel becomes a point, WriteError when the disk is full.
    """
    thinned = Thinned(options, each=MOST_POINTS)
    thinned.grow(len(run))
    frames: list[dict[str, Any]] = []
    cameras, count = [], 0
    for position in range(0, len(run), thinned.stride):
        result = run[position]
        required(result.points, "scene.html", "depth or points")
        thinned.add(position, result)
        cameras.append(result.world_from_cam)
        frames.append(_described(result, count, thinned.frames[position].pyramid))
        count += len(thinned.frames[position].points)
    if count == 0:
        raise ValueError(
            f"scene.html would have no points: no pixel of {len(frames)} frames is finite and in the masks"
        )
    drawn = list(thinned.frames.values())
    points, depth = np.concatenate([frame.points for frame in drawn]), np.concatenate([frame.depth for frame in drawn])
    steps = np.rint(255 * nearness(depth, inverse_depth_range(depth, None)))
    looks = [np.column_stack((frame.colours, frame.percentile)) for frame in drawn]
    facing = np.concatenate([frame.facing for frame in drawn])
    arrays = (points.astype("<f4"), np.concatenate(looks).astype(np.uint8), steps.astype(np.uint8), facing)
    axes = upright(np.stack(cameras))
    eye, middle = overview(points, run.camera(0), axes)
    scene = {
        "name": run.out.resolve().name,
        "points": count,
        "size": options.voxel or 2 * automatic_voxel(points),
        "camera": frustum_depth(points),
        "confidence": options.confidence,
        "ramp": COLOURS,
        "axes": axes.tolist(),
        "eye": eye.tolist(),
        "middle": middle.tolist(),
        "frames": frames,
    }
    page = (files("ivggt_jax") / "writers/scene.html").read_text(encoding="utf-8")
    words = json.dumps(plain(scene), ensure_ascii=False).replace("<", "\\u003c")  # names must not start an HTML element
    packed = base64.b64encode(zlib.compress(b"".join(array.tobytes() for array in arrays))).decode()
    with replacing(out / "scene.html") as file:
        file.write(page.replace("@SCENE@", words).replace("@POINTS@", packed).encode())


def _described(result: Result, first: int, pyramid: np.ndarray) -> dict[str, Any]:
    """A frame as described in the page. `first`: number of its first point; pyramid [5, 3]: camera and corners at depth 1."""
    picture, jpeg = Image.fromarray(result.frame.image), io.BytesIO()
    picture.thumbnail((PICTURE, PICTURE))
    picture.save(jpeg, "JPEG", quality=QUALITY)
    return {
        "name": result.frame.name,
        "index": result.frame.index,
        "time": result.frame.timestamp,
        "first": first,
        "pyramid": np.round(pyramid, 6).tolist(),
        "picture": base64.b64encode(jpeg.getvalue()).decode(),
    }
