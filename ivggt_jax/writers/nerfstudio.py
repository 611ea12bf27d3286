"""`transforms.json`: cameras for nerfstudio and for Gaussian splatting tools that read its format.

World-from-camera 4×4 with OpenGL camera axes (x right, y up, z backward); pixels counted from the corner; pictures in
`images/`, depth in `nerfstudio_depth/` (16-bit, thousandths of the model's unit, 0 unknown), points in the file that
`ply_file_path` names. https://docs.nerf.studio/quickstart/data_conventions.html
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from ivggt_jax.writers.depth import depth_to_16_bit, write_depth_png
from ivggt_jax.writers.files import replacing
from ivggt_jax.writers.images import Pictures, View, shared_intrinsics
from ivggt_jax.writers.ply import write_ply
from ivggt_jax.writers.result import Result
from ivggt_jax.writers.saved_run import SavedRun
from ivggt_jax.writers.writer import ExportOptions

OPENGL_FROM_OPENCV = np.diag((1.0, -1.0, -1.0))
"""Camera axes: y and z turned round."""
DEPTH_UNIT = 0.001
"""nerfstudio reads 16-bit depth as millimetres of its unit."""


def export_nerfstudio(run: SavedRun, out: Path, options: ExportOptions) -> None:
    """Writes `transforms.json` and what it refers to into the folder `out`.

    Raises ValueError when no pixel makes a point, WriteError when the disk is full.
    """
    views, frames = [], []
    pictures = Pictures(out / "images", options.images)
    for result in run:
        view = pictures.place(result)
        frame = {"file_path": f"images/{view.name}", "transform_matrix": _transform(result).tolist()}
        if result.depth is not None:
            frame["depth_file_path"] = f"nerfstudio_depth/{result.frame.index:06d}.png"
            write_depth_png(out / frame["depth_file_path"], _depth_of_picture(result, view))
        views.append(view)
        frames.append(frame)
    pictures.check()
    write_ply(out / "nerfstudio.ply", *run.cloud(options).cloud())
    scene: dict[str, Any] = {"camera_model": "OPENCV", "ply_file_path": "nerfstudio.ply"}
    if options.shared_camera:
        scene |= _camera(views[0], shared_intrinsics(views))
    else:
        frames = [_camera(view, view.intrinsics) | frame for view, frame in zip(views, frames, strict=True)]
    pieces = json.JSONEncoder(indent=1).iterencode({**scene, "frames": frames})  # all at once would take much memory
    with replacing(out / "transforms.json") as file:
        file.writelines(piece.encode() for piece in pieces)


def _transform(result: Result) -> np.ndarray:
    """World-from-camera [4, 4] with OpenGL camera axes."""
    pose = result.world_from_cam
    top = np.concatenate((pose[:, :3] @ OPENGL_FROM_OPENCV, pose[:, 3:]), axis=1)
    return np.concatenate((top, [[0.0, 0.0, 0.0, 1.0]]))


def _camera(view: View, k: np.ndarray) -> dict[str, float]:
    """A camera in nerfstudio's words."""
    width, height = view.size
    return {"w": width, "h": height, "fl_x": k[0, 0], "fl_y": k[1, 1], "cx": k[0, 2], "cy": k[1, 2]}


def _depth_of_picture(result: Result, view: View) -> np.ndarray:
    """16-bit depth of the whole picture at the model's resolution: the nearest pixel, 0 where the model saw nothing."""
    assert result.depth is not None
    size = np.array(view.size)
    scale, offset = np.array(view.fit.scale), np.array(view.fit.offset)
    columns, rows = (
        np.floor((np.arange(count) + 0.5) * whole / count * scale_ + offset_).astype(int)
        for count, whole, scale_, offset_ in zip(
            np.maximum(1, np.rint(size * scale)).astype(int), size, scale, offset, strict=True
        )
    )
    height, width = result.depth.shape
    steps = depth_to_16_bit(result.depth, DEPTH_UNIT, result.frame.mask)
    seen = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))
    return np.where(seen, steps[np.clip(rows, 0, height - 1)[:, None], np.clip(columns, 0, width - 1)], 0)
