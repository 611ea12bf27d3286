"""`transforms.json`: cameras for nerfstudio and for Gaussian splatting tools that read its format.

world_from_cam 4×4 with OpenGL camera axes (x right, y up, z backward); pixels counted from the corner. Pictures are in `images/`,
depth in `nerfstudio_depth/` (16-bit, thousandths of the model's unit, 0 unknown), masks, if any picture has one, in
`nerfstudio_masks/` (black is left out), and points in the file named by `ply_file_path`.
https://docs.nerf.studio/quickstart/data_conventions.html
"""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from ivggt_jax.cameras.models import Camera
from ivggt_jax.writers.depth import depth_to_16_bit, write_depth_png
from ivggt_jax.writers.files import replacing
from ivggt_jax.writers.images import Pictures, View, lenses
from ivggt_jax.writers.masks import OriginalMasks, write_mask
from ivggt_jax.writers.ply import write_ply
from ivggt_jax.writers.result import Result
from ivggt_jax.writers.saved_run import SavedRun
from ivggt_jax.writers.writer import ExportOptions

logger = logging.getLogger(__name__)

OPENGL_FROM_OPENCV = np.diag((1.0, -1.0, -1.0))
"""Converts camera axes: flips y and z."""
DEPTH_UNIT = 0.001
"""nerfstudio reads 16-bit depth as thousandths of its unit."""
FARTHEST = 65535 * DEPTH_UNIT


def export_nerfstudio(run: SavedRun, out: Path, options: ExportOptions) -> None:
    """Write `transforms.json` and the files it refers to into the folder `out`.

    Raises ValueError when no pixel becomes a point, WriteError when the disk is full.
    """
    views, frames, masks = list[View](), list[dict[str, Any]](), _Masks(out)
    far = 0
    pictures = Pictures(out / "images", options.images, run.source)
    for result in run:
        view = pictures.place(result)
        frame: dict[str, Any] = {"file_path": f"images/{view.name}", "transform_matrix": _transform(result).tolist()}
        if result.depth is not None:
            frame["depth_file_path"] = f"nerfstudio_depth/{result.frame.index:06d}.png"
            write_depth_png(out / frame["depth_file_path"], _depth_of_picture(result, view))
            far += int(np.count_nonzero(result.depth > FARTHEST))
        masks.add(frame, result, view)
        views.append(view)
        frames.append(frame)
    pictures.check()
    masks.complete(frames, views)
    if far:
        logger.warning(
            "%d pixels are farther than %.1f, more than nerfstudio's depth maps hold: they are 0 there", far, FARTHEST
        )
    if len(run) == 1:
        logger.warning(
            "thin: nerfstudio measures a scene by the distances of its cameras, and opens none of one picture"
        )
    write_ply(out / "nerfstudio.ply", *run.cloud(options).cloud())
    cameras = lenses(views, options)
    scene: dict[str, Any] = {"camera_model": _model(cameras), "ply_file_path": "nerfstudio.ply"}
    if len(set(cameras)) == 1 and (options.shared_camera or cameras[0].distortion or not views[0].of_file):
        scene |= _camera(cameras[0])
    else:
        frames = [_camera(lens) | frame for lens, frame in zip(cameras, frames, strict=True)]
    pieces = json.JSONEncoder(indent=1).iterencode({**scene, "frames": frames})  # all at once would take much memory
    with replacing(out / "transforms.json") as file:
        file.writelines(piece.encode() for piece in pieces)


class _Masks:
    """Masks of the pictures: for all or for none of them, as nerfstudio requires."""

    def __init__(self, out: Path):
        self._out, self._originals = out, OriginalMasks()

    def add(self, frame: dict[str, Any], result: Result, view: View) -> None:
        """Write the mask of a frame if any pixel is masked, and add its name to the record."""
        if result.frame.mask is None:
            return
        mask = self._originals.of(result.frame.mask, view.fit, view.camera)
        if not mask.all():  # padding is not part of the picture
            frame["mask_path"] = f"nerfstudio_masks/{result.frame.index:06d}.png"
            write_mask(self._out / frame["mask_path"], mask)

    def complete(self, frames: list[dict[str, Any]], views: list[View]) -> None:
        """Write white masks for all other frames, if there are any masks."""
        if not any("mask_path" in frame for frame in frames):
            return
        for frame, view in zip(frames, views, strict=True):
            if "mask_path" not in frame:
                frame["mask_path"] = f"nerfstudio_masks/white-{view.size[0]}x{view.size[1]}.png"
                write_mask(self._out / frame["mask_path"], np.ones(view.size[::-1], bool))


def _transform(result: Result) -> np.ndarray:
    """world_from_cam [4, 4] with OpenGL camera axes."""
    pose = result.world_from_cam
    top = np.concatenate((pose[:, :3] @ OPENGL_FROM_OPENCV, pose[:, 3:]), axis=1)
    return np.concatenate((top, [[0.0, 0.0, 0.0, 1.0]]))


def _model(cameras: list[Camera]) -> str:
    """nerfstudio's name for the type of all cameras; it supports one per scene. Raises ValueError for two types."""
    fisheyes = {lens.kind == "fisheye" for lens in cameras}
    if len(fisheyes) > 1:
        raise ValueError(
            "some pictures are a fisheye's originals, others are as the model saw them: --images names their folder"
        )
    return "OPENCV_FISHEYE" if fisheyes == {True} else "OPENCV"


def _camera(lens: Camera) -> dict[str, float]:
    """A camera in nerfstudio's terms. Raises ValueError for distortion that it does not support."""
    assert lens.size is not None
    (width, height), (fx, fy), (cx, cy) = lens.size, lens.focal, lens.centre
    if any(lens.distortion[5:]):
        raise ValueError("nerfstudio has no rational distortion (k4, k5, k6); colmap has it")
    names = ("k1", "k2", "k3", "k4") if lens.kind == "fisheye" else ("k1", "k2", "p1", "p2", "k3")
    camera = {"w": width, "h": height, "fl_x": fx, "fl_y": fy, "cx": cx + 0.5, "cy": cy + 0.5}
    return camera | dict(zip(names, lens.distortion, strict=False))


def _depth_of_picture(result: Result, view: View) -> np.ndarray:
    """16-bit depth of the whole picture at the model's resolution: nearest pixel, 0 where the model saw nothing."""
    assert result.depth is not None
    size, scale = np.array(view.size), np.array(view.fit.scale)
    counts = np.maximum(1, np.rint(size * scale)).astype(int)
    along = [(np.arange(count) + 0.5) * whole / count for count, whole in zip(counts, size, strict=True)]
    place = np.floor(view.to_model(np.stack(np.meshgrid(*along), axis=-1)))
    height, width = result.depth.shape
    seen = ((place >= 0) & (place < (width, height))).all(axis=-1)
    columns, rows = np.moveaxis(np.where(seen[..., None], place, 0).astype(int), -1, 0)
    steps = depth_to_16_bit(result.depth, DEPTH_UNIT, result.frame.mask)
    return np.where(seen, steps[rows, columns], 0)
