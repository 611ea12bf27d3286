"""`scene.html`: the fused cloud, the path and the cameras in one file that opens offline in any browser (viser)."""

import contextlib
import io
from pathlib import Path

import numpy as np
import viser
from PIL import Image
from scipy.spatial.transform import Rotation

from ivggt_jax.writers.files import replacing
from ivggt_jax.writers.frusta import drawn_cameras, first_look, frustum_depth
from ivggt_jax.writers.fusion import VoxelGrid
from ivggt_jax.writers.saved_run import SavedRun
from ivggt_jax.writers.writer import ExportOptions

MOST_POINTS = 1_000_000
"""More would make a browser slow; the cubes double until there are no more."""
MOST_CAMERAS = 20
"""More would hide each other."""
COLOUR = (220, 60, 30)
"""Colour of the path and the cameras."""
THUMBNAIL = 96
"""Longer side in pixels of the pictures in the cameras."""


def export_html(run: SavedRun, out: Path, options: ExportOptions) -> None:
    """Writes `scene.html` into the folder `out`.

    Raises ValueError when no pixel makes a point, WriteError when the disk is full.
    """
    grid = VoxelGrid(run.cloud(options).voxel, min(MOST_POINTS, options.max_points))
    grid.add(*run.cloud(options).cloud())
    # viser has no scene without a server; this one listens on this machine only, and only while the file is made.
    # What it prints about itself is of no use here.
    with contextlib.redirect_stdout(io.StringIO()):
        server = viser.ViserServer(host="127.0.0.1", port=0, verbose=False)
        try:
            _fill(server.scene, run, grid)
            camera = server.initial_camera
            camera.position, camera.look_at = first_look(grid.cloud()[0], run.camera(0))
            page = server.get_scene_serializer().as_html()
        finally:
            server.stop()
    with replacing(out / "scene.html") as file:
        file.write(page.encode())


def _fill(scene: viser.SceneApi, run: SavedRun, grid: VoxelGrid) -> None:
    """Adds the cloud, the path and the cameras."""
    points, colours = grid.cloud()
    assert grid.voxel is not None
    scene.set_up_direction("-y")
    scene.add_point_cloud("/points", points, colours, point_size=grid.voxel, precision="float32")
    positions = np.stack([camera.world_from_cam[:, 3] for camera in run.cameras()])
    size = frustum_depth(points)
    if len(positions) > 1:
        segments = np.stack((positions[:-1], positions[1:]), axis=1)
        scene.add_line_segments("/path", segments, COLOUR, thickness=size / 20)
    for result in drawn_cameras(run, MOST_CAMERAS):
        pose, image = result.world_from_cam, Image.fromarray(result.frame.image)
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        height, width = result.frame.image.shape[:2]
        scene.add_camera_frustum(
            f"/cameras/{result.frame.index:06d}",
            fov=2 * np.arctan(height / 2 / result.intrinsics[1, 1]),
            aspect=width / height * result.intrinsics[1, 1] / result.intrinsics[0, 0],
            scale=size,
            color=COLOUR,
            image=np.asarray(image),
            wxyz=Rotation.from_matrix(pose[:, :3]).as_quat(scalar_first=True),
            position=pose[:, 3],
        )
