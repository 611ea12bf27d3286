"""Cameras against OpenCV's own projection, forward and back, to 0.01 pixels; 400 directions of seed 0."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from ivggt_jax.cameras.known import KnownCamera
from ivggt_jax.cameras.models import Camera, CameraError, pinhole
from ivggt_jax.cameras.undistortion import Undistortion, fill, focal_of

SIZE = (640, 480)
MATRIX = np.array([[410.0, 0, 322.5], [0, 405.0, 236.25], [0, 0, 1]])
LENSES = {
    "pinhole": (),
    "brown": (-0.28, 0.09, 0.0011, -0.0007, -0.013, 0.0, 0.0, 0.0),
    "rational": (0.31, -0.12, -0.0009, 0.0013, 0.004, 0.62, -0.05, 0.002),
    "pincushion": (0.12, 0.04, 0.002, 0.001, 0.0, 0.0, 0.0, 0.0),
    "fisheye": (-0.012, 0.004, -0.003, 0.0007),
}


def camera(name: str) -> Camera:
    kind = name if name in ("pinhole", "fisheye") else "brown"
    return Camera(kind, (410.0, 405.0), (322.5, 236.25), LENSES[name], SIZE)


def rays(name: str) -> np.ndarray:
    """Directions [400,3] of length 1, up to 35 degrees off the axis, of a fisheye up to 85."""
    rng = np.random.default_rng(0)
    angle, round_ = rng.uniform(0, np.radians(85 if name == "fisheye" else 35), 400), rng.uniform(0, 2 * np.pi, 400)
    return np.stack((np.sin(angle) * np.cos(round_), np.sin(angle) * np.sin(round_), np.cos(angle)), axis=-1)


def by_opencv(name: str, points: np.ndarray) -> np.ndarray:
    still = np.zeros(3)
    if name == "fisheye":
        return cv2.fisheye.projectPoints(points[:, None], still, still, MATRIX, np.array(LENSES[name]))[0][:, 0]
    return cv2.projectPoints(points, still, still, MATRIX, np.array(LENSES[name] or np.zeros(4)))[0][:, 0]


@pytest.mark.parametrize("name", LENSES)
def test_projection_is_opencvs_and_goes_back(name: str) -> None:
    directions = rays(name)
    pixels = camera(name).project(3 * directions)
    np.testing.assert_allclose(pixels, by_opencv(name, directions), atol=1e-6)
    back = camera(name).unproject(pixels)
    np.testing.assert_allclose(back, directions, atol=1e-7)
    np.testing.assert_allclose(camera(name).project(back), pixels, atol=1e-4)


def test_unprojection_is_opencvs() -> None:
    """Brown's of pixels of the whole picture, whose inverse OpenCV iterates."""
    pixels = np.stack(np.meshgrid(np.arange(0, 640, 30.0), np.arange(0, 480, 30.0)), axis=-1).reshape(-1, 2)
    end = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 100, 1e-12)
    undistort = getattr(cv2, "undistortPointsIter", cv2.undistortPoints)  # before OpenCV 5 the latter took no end
    wanted = undistort(pixels[:, None], MATRIX, np.array(LENSES["brown"]), R=None, P=None, criteria=end)[:, 0]
    found = camera("brown").unproject(pixels)
    np.testing.assert_allclose(410 * found[:, :2] / found[:, 2:], 410 * wanted, atol=0.01)


def test_what_a_lens_cannot_see_is_not_a_number() -> None:
    behind = np.array([[0.1, 0.2, -1.0], [0.0, 0.0, 1.0]])
    assert np.isnan(camera("brown").project(behind)).any(axis=1).tolist() == [True, False]
    folded = Camera(
        "brown", (400.0, 400.0), (320.0, 240.0), (-0.3, *(0.0,) * 7), SIZE
    )  # its radius turns back at 1.054
    assert np.isfinite(folded.project(np.array([1.05, 0, 1]))).all()
    assert np.isnan(folded.project(np.array([1.06, 0, 1]))).all()
    assert np.isnan(folded.unproject(np.array([320.0 + 400 * 0.75, 240]))).any()
    assert np.isfinite(camera("fisheye").project(np.array([1.0, 0, -0.1]))).all(), "more than half a sphere"


def test_a_panorama_is_longitude_and_latitude() -> None:
    whole = Camera("equirectangular", (1, 1), (0, 0)).of_size(720, 360)
    ahead, right, down = np.eye(3)[[2, 0, 1]]
    np.testing.assert_allclose(whole.project(np.stack((ahead, right))), [[359.5, 179.5], [539.5, 179.5]])
    assert whole.project(down)[1] == 359.5
    pixels = np.array([[3.0, 4.0], [700.0, 100.0]])
    np.testing.assert_allclose(whole.project(whole.unproject(pixels)), pixels)
    with pytest.raises(CameraError, match="twice as wide"):
        whole.of_size(720, 400)


def test_of_another_size_and_shape() -> None:
    half = camera("brown").of_size(320, 240)
    directions = rays("brown")
    np.testing.assert_allclose((half.project(directions) + 0.5) * 2 - 0.5, camera("brown").project(directions))
    with pytest.raises(CameraError, match="calibrated with pictures of 640×480, and this one has 480×640"):
        camera("brown").of_size(480, 640)
    unsized = replace(camera("brown"), size=None)
    assert unsized.of_size(640, 480) == camera("brown")
    for size in ((320, 640), (640, 200), (200, 100)):
        with pytest.raises(CameraError, match=f"principal point .* lies outside a picture of {size[0]}×{size[1]}"):
            unsized.of_size(*size)
    with pytest.raises(CameraError, match=r"principal point \(1000, 240\) lies outside a picture of 640×480"):
        replace(camera("brown"), centre=(1000.0, 240.0)).of_size(320, 240)


@pytest.mark.parametrize("name", ["brown", "rational", "pincushion", "fisheye"])
def test_an_undistorted_picture_is_opencvs(name: str) -> None:
    """Of smooth waves, to 1 of 255 grey levels, for both interpolate between the same pixels; and it has no gaps."""
    u, v = np.meshgrid(np.arange(640), np.arange(480))
    image = np.stack([127 + 100 * np.sin(u / 19 + shift) * np.cos(v / 23) for shift in range(3)], axis=-1).astype(
        np.uint8
    )
    centre = (319.5, 239.5)
    focal = fill(camera(name), centre)
    undo = Undistortion(camera(name), pinhole(focal, centre, SIZE))
    assert undo.known.all() and focal >= focal_of(90, 640)
    if focal > focal_of(90, 640):
        assert not Undistortion(camera(name), pinhole(0.99 * focal, centre, SIZE)).known.all()
    matrix = np.array([[focal, 0, centre[0]], [0, focal, centre[1]], [0, 0, 1]])
    maps = (cv2.fisheye if name == "fisheye" else cv2).initUndistortRectifyMap(
        MATRIX, np.array(LENSES[name]), np.eye(3), matrix, SIZE, cv2.CV_32FC1
    )
    wanted = cv2.remap(image, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    assert np.abs(undo.picture(image).astype(int) - wanted).max() <= 3  # OpenCV rounds places to 1/32 pixel
    assert np.abs(undo.picture(image).astype(int) - wanted).mean() < 0.3


def test_gaps_are_white_and_known_as_such() -> None:
    undo = Undistortion(camera("brown"), pinhole(200.0, (319.5, 239.5), SIZE))
    picture = undo.picture(np.zeros((480, 640, 3), np.uint8))
    assert 0.1 < undo.known.mean() < 0.9
    np.testing.assert_array_equal(picture == 255, np.repeat(~undo.known[..., None], 3, axis=2))
    np.testing.assert_array_equal(undo.mask(np.ones((480, 640), np.uint8)) > 0, undo.known)


def test_a_view_of_a_panorama_looks_where_it_says() -> None:
    """A panorama whose red is the longitude: the middle of a view towards 60 degrees sees that, across the seam too."""
    whole = Camera("equirectangular", (1, 1), (0, 0)).of_size(720, 360)
    image = np.zeros((360, 720, 3), np.uint8)
    image[..., 0] = np.arange(720) / 3
    for degrees in (0, 60, 170):
        undo = Undistortion(whole, pinhole(50.0, (50.0, 37.0), (101, 75)), degrees)
        assert undo.known.all()
        assert undo.picture(image)[37, 50, 0] == pytest.approx((359.5 + 2 * degrees) / 3, abs=1.1)


def test_pixels_of_the_model_and_of_the_original_go_back_and_forth() -> None:
    known = KnownCamera(camera("fisheye"), (60.0, 61.0))
    pixels = np.stack(np.meshgrid(np.arange(0.0, 112, 10), np.arange(0.0, 84, 10)), axis=-1)
    there = known.to_original(pixels, 84, 112)
    np.testing.assert_allclose(known.from_original(there, 84, 112), pixels, atol=1e-6)
    assert np.abs(there[4, 5] - (322.5, 236.25)).max() < 60
    np.testing.assert_allclose(known.intrinsics(84, 112), [[60, 0, 56], [0, 61, 42], [0, 0, 1]])
