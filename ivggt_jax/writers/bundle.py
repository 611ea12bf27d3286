"""Bundle adjustment with pycolmap (extra `splats`): Ceres, with Cauchy loss.

Triggs et al., "Bundle adjustment: a modern synthesis", 1999.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from ivggt_jax.writers.adjustment import Cameras, Free, Tracks, rows_by

ITERATIONS = 100


def pycolmap() -> Any:
    """The pycolmap module. Raises ValueError with installation instructions if it is missing."""
    try:
        import pycolmap as module
    except ImportError as error:
        raise ValueError("--refine-ba needs pycolmap: pip install 'ivggt_jax[splats]'") from error
    return module


def solve(tracks: Tracks, cameras: Cameras, scale: float, free: Free) -> tuple[Cameras, np.ndarray]:
    """Cameras and points, float64 [P, 3], with the least loss; the world may have rotated and changed its unit.

    scale: error in pixels from which it is down-weighted. Raises ValueError when pycolmap is missing.
    """
    colmap = pycolmap()
    model, numbers = _model(tracks, cameras)
    options = colmap.BundleAdjustmentOptions(print_summary=False)
    options.ceres.loss_function_type = colmap.LossFunctionType.CAUCHY
    options.ceres.loss_function_scale = scale
    options.ceres.solver_options.max_num_iterations = ITERATIONS
    options.refine_rig_from_world = free != "points"
    options.refine_focal_length = free == "focal"
    options.refine_principal_point = options.refine_extra_params = options.refine_sensor_from_rig = False
    config = colmap.BundleAdjustmentConfig()
    for frame in np.unique(tracks.frames).tolist():
        config.add_image(frame + 1)
    for lens in np.unique(cameras.lens[cameras.known]).tolist():
        config.set_constant_cam_intrinsics(lens + 1)
    if free != "points":
        config.fix_gauge(colmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    with _silent(colmap):
        colmap.create_default_bundle_adjuster(options, config, model).solve()
    poses, focal = cameras.cam_from_world.copy(), cameras.focal.copy()
    for number, image in model.images.items():
        poses[number - 1] = image.cam_from_world().matrix()
    for lens in np.unique(cameras.lens).tolist():
        focal[cameras.lens == lens] = model.cameras[lens + 1].params[0]
    positions = np.array([model.points3D[number].xyz for number in numbers]).reshape(-1, 3)
    return replace(cameras, cam_from_world=poses, focal=focal), positions


@contextlib.contextmanager
def _silent(colmap: Any) -> Iterator[None]:
    """Suppress Ceres' messages about failed steps."""
    level = colmap.logging.minloglevel
    colmap.logging.minloglevel = int(colmap.logging.Level.FATAL)
    try:
        yield
    finally:
        colmap.logging.minloglevel = level


def _model(tracks: Tracks, cameras: Cameras) -> tuple[Any, list[int]]:
    """A reconstruction in which frame n is image n + 1, and the numbers of its points."""
    colmap = pycolmap()
    model = colmap.Reconstruction()
    for lens, first in zip(*np.unique(cameras.lens, return_index=True), strict=True):
        # The size is required but has no effect here.
        width, height = np.ceil(2 * cameras.centre[first]).astype(int).tolist()
        values = [cameras.focal[first], *cameras.centre[first]]
        model.add_camera_with_trivial_rig(
            colmap.Camera(camera_id=int(lens) + 1, model="SIMPLE_PINHOLE", width=width, height=height, params=values)
        )
    places = np.empty(len(tracks.frames), np.int64)  # index of each observation within its frame
    for frame, own in enumerate(rows_by(tracks.frames, len(cameras.focal))):
        places[own] = np.arange(len(own))
        image = colmap.Image(
            name=f"{frame}",
            keypoints=tracks.pixels[own],
            camera_id=int(cameras.lens[frame]) + 1,
            image_id=frame + 1,
        )
        model.add_image_with_trivial_frame(image, colmap.Rigid3d(cameras.cam_from_world[frame]))
    numbers = []
    of_point = rows_by(tracks.points, len(tracks.positions))
    for position, chosen in zip(tracks.positions, of_point, strict=True):
        pairs = zip(tracks.frames[chosen].tolist(), places[chosen].tolist(), strict=True)
        track = colmap.Track([colmap.TrackElement(frame + 1, place) for frame, place in pairs])
        numbers.append(model.add_point3D(position, track))
    return model, numbers
