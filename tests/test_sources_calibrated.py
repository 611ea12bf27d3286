"""Frames of calibrated cameras: where known points land in the model's input, masks, panoramas, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ivggt_jax.cameras.files import read_camera
from ivggt_jax.sources import Frame, SourceConfig, SourceError, open_source

FISHEYE = "fisheye:150,150,158.5,121.5,-0.01,0.003,0,0"
BROWN = "260,258,161.5,117.25,-0.28,0.09,0.0011,-0.0007"


def frames_of(folder: Path, **config) -> list[Frame]:
    with open_source(SourceConfig(frames=str(folder), size=112, **config)) as source:
        assert source.length == len(found := list(source))
        return found


def spots(folder: Path, camera: str, rays: np.ndarray, size: tuple[int, int] = (320, 240)) -> Path:
    """A picture of a lens in which each of some directions is a white spot, Gaussian, 4 pixels wide, on black."""
    folder.mkdir(exist_ok=True)
    u, v = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    image = np.zeros(size[::-1])
    for x, y in read_camera(camera).of_size(*size).project(rays):
        image += np.exp(-((u - x) ** 2 + (v - y) ** 2) / 2 / 4**2)
    Image.fromarray((255 * np.clip(image, 0, 1)).astype(np.uint8)).convert("RGB").save(folder / "0.png")
    return folder


@pytest.mark.parametrize("camera", [FISHEYE, BROWN, "260,258,171.5,113.25"])
@pytest.mark.parametrize("config", [{}, {"mode": "pad"}])
def test_a_point_is_where_the_known_camera_says(camera: str, config: dict, tmp_path: Path) -> None:
    """To a tenth of a pixel of the model's, by the project's rays: through pixel (u, v) goes ((u − W/2)/fx, (v − H/2)/fy, 1)."""
    ray = np.array([0.25, -0.2, 1.0])
    (frame,) = frames_of(spots(tmp_path / "a", camera, ray[None]), camera=camera, **config)
    height, width, _ = frame.image.shape
    light = np.where(frame.image[..., 0] < 250, frame.image[..., 0], 0 if config else 255).astype(float)
    middle = [(light.sum(axis=axis) @ np.arange(count)) / light.sum() for axis, count in ((0, width), (1, height))]
    assert frame.camera is not None
    known = frame.camera.intrinsics(height, width) @ ray
    np.testing.assert_allclose(middle, known[:2], atol=0.1)
    wanted = read_camera(camera).of_size(320, 240).project(ray)
    np.testing.assert_allclose(frame.camera.to_original(np.array(middle), height, width), wanted, atol=0.5)
    assert frame.mask is None or config


def test_the_undistorted_camera_is_that_of_the_original_pixels(tmp_path: Path) -> None:
    (frame,) = frames_of(spots(tmp_path / "a", BROWN, np.eye(3)[2:]), camera=BROWN, camera_fov=70.0)
    assert frame.camera is not None
    k = frame.fit.intrinsics_to_original(frame.camera.intrinsics(84, 112))
    np.testing.assert_allclose(k[0, 0], 160 / np.tan(np.radians(35)))
    np.testing.assert_allclose(k[0, 0], k[1, 1])
    assert frame.mask is not None, "the lens does not see 70 degrees everywhere"
    assert (frame.image[~frame.mask] > 120).all()


def test_masks_are_undistorted_too(tmp_path: Path) -> None:
    """A mask that hides what lies right of the principal point hides the right half of the frame."""
    folder = spots(tmp_path / "a", FISHEYE, np.eye(3)[2:])
    (tmp_path / "masks").mkdir()
    left = np.zeros((120, 160), np.uint8)
    left[:, :80] = 255
    Image.fromarray(left).save(tmp_path / "masks" / "0.png")
    (frame,) = frames_of(folder, camera=FISHEYE, masks=tmp_path / "masks")
    assert frame.mask is not None
    np.testing.assert_array_equal(frame.mask, np.broadcast_to(np.arange(112) < 57, (84, 112)))


def test_a_panorama_is_cut_into_views_that_come_one_after_the_other(tmp_path: Path) -> None:
    for number in range(2):
        image = np.zeros((180, 360, 3), np.uint8)
        image[..., 0], image[..., 1] = np.arange(360) / 2, 100 * number
        (tmp_path / "p").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / "p" / f"{number}.png")
    config = {"camera": "equirectangular", "camera_towards": (0.0, 90.0, -90.0), "camera_fov": 60.0}
    found = frames_of(tmp_path / "p", **config)
    names = [f"{number}.png@{degrees}" for number in (0, 1) for degrees in (0, 90, -90)]
    assert [(frame.index, frame.name) for frame in found] == list(enumerate(names))
    middles = [frame.image[42, 56].tolist() for frame in found]
    np.testing.assert_allclose(middles, [[x, g, 0] for g in (0, 100) for x in (90, 135, 45)], atol=1)
    assert all(frame.camera and frame.camera.focal == found[0].camera.focal and frame.mask is None for frame in found)
    assert found[0].camera.focal[0] == pytest.approx(56 / np.tan(np.radians(30)), rel=0.02)
    with open_source(SourceConfig(frames=str(tmp_path / "p"), size=112, **config)) as source:
        assert [frame.index for frame in source.frames(start=4)] == [4, 5], "as a resumed run asks for them"


def test_a_calibration_of_another_size_is_scaled_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    yaml = tmp_path / "half.yaml"
    yaml.write_text(
        "image_width: 640\nimage_height: 480\nK: [520, 0, 323.5, 0, 516, 235, 0, 0, 1]\nD: [-0.28, 0.09, 0.0011, -0.0007]"
    )
    ray = np.array([[0.2, 0.1, 1.0]])
    folder = spots(tmp_path / "a", BROWN, ray)
    whole, half = (frames_of(folder, camera=camera)[0] for camera in (BROWN, str(yaml)))
    assert "calibrated at 640×480, and is scaled to 320×240" in caplog.text
    assert np.abs(whole.image.astype(int) - half.image).max() < 12  # half a pixel of 0.25
    yaml.write_text(yaml.read_text().replace("480", "640"))
    with pytest.raises(
        SourceError, match="0.png: the camera was calibrated with pictures of 640×640, and this one has 320×240"
    ):
        frames_of(folder, camera=str(yaml))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"camera_fov": 60.0}, "give camera"),
        ({"camera": BROWN, "camera_fov": 179.0}, "from 5 to 150 degrees"),
        ({"camera": BROWN, "camera_towards": (90.0,)}, "is for panoramas"),
        ({"camera": "equirectangular", "camera_towards": ()}, "different directions"),
        ({"camera": "equirectangular"}, "twice as wide as high"),
        ({"camera": "0.png"}, "there is no such file"),
    ],
)
def test_what_cannot_be(config: dict, words: str, tmp_path: Path) -> None:
    folder = spots(tmp_path / "a", BROWN, np.eye(3)[2:])
    with pytest.raises(SourceError, match=words):
        frames_of(folder, **config)
