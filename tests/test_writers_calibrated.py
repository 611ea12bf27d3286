"""COLMAP and nerfstudio models of a calibrated run: known points at known pixels of the distorted originals, by pycolmap."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image  # before pycolmap: the zlib in pycolmap breaks Pillow's when it is loaded first
from writer_scene import ALL, HEIGHT, HIGH, LOW, WIDTH, invert, originals, result, saved

from ivggt_jax.cameras.known import KnownCamera
from ivggt_jax.cameras.models import Camera
from ivggt_jax.sources.frame import Fit
from ivggt_jax.writers.colmap import export_colmap
from ivggt_jax.writers.nerfstudio import export_nerfstudio
from ivggt_jax.writers.result import Result

pycolmap = pytest.importorskip("pycolmap")
FIT = Fit((336, 224), (0.5, 0.5), (0.0, 0.0))
LENSES = {
    "OPENCV": Camera("brown", (310.0, 305.0), (166.0, 113.5), (-0.2, 0.05, 0.001, -0.002, 0, 0, 0, 0), (336, 224)),
    "FULL_OPENCV": Camera("brown", (310.0, 305.0), (166.0, 113.5), (0.3, -0.1, 0.001, 0, 0.01, 0.5, 0, 0), (336, 224)),
    "OPENCV_FISHEYE": Camera("fisheye", (300.0, 301.0), (166.0, 113.5), (-0.02, 0.004, 0, 0), (336, 224)),
}


def items(lens: Camera, count: int) -> list[Result]:
    """Exact frames of the test scene whose originals a lens has taken."""
    found = []
    for index in range(count):
        item = result(index, FIT)
        known = KnownCamera(lens, (item.intrinsics[0, 0], item.intrinsics[1, 1]))
        found.append(dataclasses.replace(item, frame=dataclasses.replace(item.frame, camera=known)))
    return found


def seen(item: Result) -> tuple[np.ndarray, np.ndarray]:
    """World points [N,3] and the pixels [N,2] of the distorted original that they are at, counted from the corner."""
    assert item.depth is not None and item.frame.camera is not None
    v, u = np.mgrid[3:HEIGHT:20, 5:WIDTH:26].reshape(2, -1)
    pixels = np.stack((u, v), axis=-1)
    rays = np.concatenate(((pixels - (WIDTH / 2, HEIGHT / 2)) / item.frame.camera.focal, np.ones((len(u), 1))), axis=-1)
    pose = invert(item.cam_from_world)
    points = rays * item.depth[v, u, None].astype(np.float64) @ pose[:, :3].T + pose[:, 3]
    return points, item.frame.camera.original.project(rays) + 0.5


@pytest.mark.parametrize("model", LENSES)
def test_colmap_has_the_distorted_camera_of_the_original_pictures(model: str, tmp_path: Path) -> None:
    run = items(LENSES[model], 3)
    folder = originals(tmp_path / "photos", run)
    export_colmap(saved(tmp_path, run), tmp_path, dataclasses.replace(ALL, images=folder))
    written = pycolmap.Reconstruction(str(tmp_path / "sparse" / "0"))
    assert [camera.model.name for camera in written.cameras.values()] == [model], "one camera for all"
    for number, item in enumerate(run, start=1):
        points, pixels = seen(item)
        found = np.array([written.images[number].project_point(point) for point in points])
        np.testing.assert_allclose(found, pixels, atol=1e-6)


def test_without_originals_colmap_has_the_pinhole_that_the_model_saw(tmp_path: Path) -> None:
    run = items(LENSES["OPENCV"], 2)
    export_colmap(saved(tmp_path, run), tmp_path, ALL)
    (camera,) = pycolmap.Reconstruction(str(tmp_path / "sparse" / "0")).cameras.values()
    assert (camera.model.name, camera.width, camera.height) == ("PINHOLE", WIDTH, HEIGHT)
    np.testing.assert_allclose(camera.params, [*run[0].frame.camera.focal, WIDTH / 2 + 0.5, HEIGHT / 2 + 0.5])


@pytest.mark.parametrize("model", ["OPENCV", "OPENCV_FISHEYE"])
def test_a_distorted_model_bundle_adjusts_to_the_truth(model: str, tmp_path: Path) -> None:
    """Tracks found in undistorted frames, poses shaken by 1 cm and 0.2 degrees (seed 0), cameras kept as calibrated."""
    run = items(LENSES[model], 6)
    folder = originals(tmp_path / "photos", run)
    export_colmap(saved(tmp_path, run), tmp_path, dataclasses.replace(ALL, images=folder, dense=0))
    written = pycolmap.Reconstruction(str(tmp_path / "sparse" / "0"))
    rng = np.random.default_rng(0)
    for number in range(3, 7):
        pose = written.images[number].cam_from_world()
        turned = pose.rotation * pycolmap.Rotation3d(rng.normal(0, 0.0035, 3))
        written.frames[written.images[number].frame_id].set_cam_from_world(
            written.images[number].camera_id, pycolmap.Rigid3d(turned, pose.translation + rng.normal(0, 0.01, 3))
        )
    config = pycolmap.BundleAdjustmentConfig()
    for number in range(1, 7):
        config.add_image(number)
    config.set_constant_cam_intrinsics(1)
    for number in (1, 2):
        config.set_constant_rig_from_world_pose(written.images[number].frame_id)
    before = written.compute_mean_reprojection_error() if not written.update_point_3d_errors() else 0
    options = pycolmap.BundleAdjustmentOptions()
    options.print_summary = False
    pycolmap.create_default_bundle_adjuster(options, config, written).solve()
    written.update_point_3d_errors()
    after = written.compute_mean_reprojection_error()
    assert after < 0.5 < before, "pixels of the originals"
    for number, item in enumerate(run, start=1):
        np.testing.assert_allclose(written.images[number].projection_center(), item.world_from_cam[:, 3], atol=0.004)
    assert len(written.points3D) > 100
    walls = np.array([point.xyz for point in written.points3D.values()])
    off = np.minimum(np.abs(walls - LOW), np.abs(walls - HIGH)).min(axis=1)
    assert np.median(off) < 0.02


@pytest.mark.parametrize("model", ["OPENCV", "OPENCV_FISHEYE"])
def test_nerfstudio_has_it_too_and_depth_lies_on_the_pictures_pixels(model: str, tmp_path: Path) -> None:
    run = items(LENSES[model], 2)
    folder = originals(tmp_path / "photos", run)
    export_nerfstudio(saved(tmp_path, run), tmp_path, dataclasses.replace(ALL, images=folder))
    scene = json.loads((tmp_path / "transforms.json").read_text())
    lens = LENSES[model]
    names = ("k1", "k2", "k3", "k4") if model == "OPENCV_FISHEYE" else ("k1", "k2", "p1", "p2", "k3")
    assert scene["camera_model"] == model
    assert [scene[name] for name in names] == list(lens.distortion[: len(names)])
    assert (scene["cx"], scene["fl_y"]) == (lens.centre[0] + 0.5, lens.focal[1])
    depth = np.asarray(Image.open(tmp_path / scene["frames"][1]["depth_file_path"])) / 1000
    points, pixels = seen(run[1])
    inside = ((pixels > 4) & (pixels < (332, 220))).all(axis=1)
    column, row = (pixels[inside] * 0.5).astype(int).T
    there = (points @ run[1].cam_from_world[:, :3].T + run[1].cam_from_world[:, 3])[inside, 2]
    assert np.median(np.abs(depth[row, column] - there)) < 0.02 and inside.sum() > 20


def test_a_rational_lens_is_refused_by_nerfstudio(tmp_path: Path) -> None:
    run = items(LENSES["FULL_OPENCV"], 2)
    folder = originals(tmp_path / "photos", run)
    with pytest.raises(ValueError, match="nerfstudio has no rational distortion"):
        export_nerfstudio(saved(tmp_path, run), tmp_path, dataclasses.replace(ALL, images=folder))


def test_a_saved_frame_gives_back_its_calibration(tmp_path: Path) -> None:
    run = items(LENSES["OPENCV_FISHEYE"], 1)
    assert saved(tmp_path, run)[0].frame.camera == run[0].frame.camera
