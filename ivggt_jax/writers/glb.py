"""`scene.glb`: the fused cloud, and the cameras as pyramids, for any 3-D viewer; OpenGL axes (x right, y up, z backward).

Where the world of a run is not y down, as often after `--align-to`, the axis closest to its vertical becomes y.
"""

from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from trimesh.exchange.gltf import export_glb as export_glb_file

from ivggt_jax.writers.files import replacing
from ivggt_jax.writers.frusta import drawn_cameras, frustum_corners, frustum_depth, upright_along_axes
from ivggt_jax.writers.saved_run import SavedRun
from ivggt_jax.writers.writer import ExportOptions

FACES = np.array(((0, 2, 1), (0, 3, 2), (0, 4, 3), (0, 1, 4)))
"""Sides of a pyramid with its apex at vertex 0, counter-clockwise from outside."""
FIRST, LAST = np.array((40, 90, 220, 255)), np.array((240, 120, 30, 255))
"""Colours of the first and the last camera."""


def export_glb(run: SavedRun, out: Path, options: ExportOptions) -> None:
    """Write `scene.glb` into the folder `out`.

    Raises ValueError when no pixel becomes a point, WriteError when the disk is full.
    """
    points, colours = run.cloud(options).cloud()
    cameras = drawn_cameras(run)
    axes = upright_along_axes(np.stack([camera.world_from_cam for camera in cameras]))
    from_world = (axes * ((1,), (-1,), (-1,))).T.astype(np.float32)
    depth = frustum_depth(points)
    vertices = np.concatenate([frustum_corners(camera, depth) for camera in cameras])
    faces = np.concatenate([FACES + 5 * number for number in range(len(cameras))])
    age = np.linspace(0, 1, len(cameras)).repeat(5)[:, None]
    mesh = trimesh.Trimesh(
        vertices @ from_world,
        faces,
        vertex_colors=_linear(FIRST + age * (LAST - FIRST)),
        process=False,
    )
    scene = trimesh.Scene()
    scene.add_geometry(trimesh.PointCloud(points @ from_world, _linear(colours)), geom_name="points")
    scene.add_geometry(mesh, geom_name="cameras")
    with replacing(out / "scene.glb") as file:
        file.write(export_glb_file(scene, tree_postprocessor=_paint))


def _paint(tree: dict[str, Any]) -> None:
    """Give the pyramids a material: glTF's default is a metal, dark where nothing is reflected, and seen from outside only."""
    tree["materials"] = [{"pbrMetallicRoughness": {"metallicFactor": 0}, "doubleSided": True}]
    for mesh in tree["meshes"]:
        if mesh["name"] == "cameras":
            mesh["primitives"][0]["material"] = 0


def _linear(colours: np.ndarray) -> np.ndarray:
    """Colours of the screen (sRGB, 0 to 255) as uint8 in linear light, which vertices have in glTF (IEC 61966-2-1)."""
    share = colours / 255
    light = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return np.rint(255 * light).astype(np.uint8)
