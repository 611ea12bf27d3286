"""`infer` with a calibrated camera and with a depth sensor: what it writes, says and refuses; frames of 70×56."""

import json
from pathlib import Path

import numpy as np
import pytest
from commands import FRAMES, read_npz, run
from PIL import Image

from ivggt_jax import export
from ivggt_jax.infer import main

CAMERA = "80,82,34.5,27.5,-0.1,0.02,0.001,0"


@pytest.fixture
def calibrated(checkpoint: Path, folder: Path, tmp_path: Path) -> Path:
    out = tmp_path / "out"
    options = ("--camera", CAMERA, "--submaps", 3, "--export", "npz", "intrinsics", "colmap", "--confidence", 0)
    assert run(main, "--frames", folder, "--checkpoint", checkpoint, "--out", out, *options) == 0
    return out


def test_a_calibrated_run_has_one_camera_everywhere(calibrated: Path, tmp_path: Path) -> None:
    saved = [read_npz(path) for path in sorted((calibrated / "frames").iterdir())]
    assert len(saved) == FRAMES
    for frame in saved:
        np.testing.assert_array_equal(frame["intrinsics"], saved[0]["intrinsics"])
        np.testing.assert_allclose(frame["intrinsics"][:2, 2], (35, 28))
        k = frame["intrinsics"]
        v, u = np.mgrid[:56, :70]
        rays = np.stack(((u - 35) / k[0, 0], (v - 28) / k[1, 1], np.ones(u.shape)), axis=-1) * frame["depth"][..., None]
        pose = frame["cam_from_world"]
        np.testing.assert_allclose(frame["points"] @ pose[:, :3].T + pose[:, 3], rays, atol=1e-3 * np.abs(rays).max())
    rows = np.loadtxt(calibrated / "intrinsics.txt")
    assert np.ptp(rows[:, 1:], axis=0).max() == 0 and rows[0, 1] == pytest.approx(rows[0, 2])
    record = json.loads((calibrated / "run.json").read_text())["camera"]
    assert record["calibration"] == CAMERA
    assert record["field_of_view_degrees"]["horizontal"] == pytest.approx(np.degrees(2 * np.arctan(35 / rows[0, 1])))
    assert set(record) == {"calibration", "field_of_view_degrees", "predicted_field_of_view_degrees"}
    data = (calibrated / "sparse" / "0" / "cameras.bin").read_bytes()
    assert data[:8] == (1).to_bytes(8, "little") and data[12:16] == (4).to_bytes(4, "little"), "one OPENCV camera"
    assert run(export.main, calibrated, "--to", "nerfstudio", "--into", tmp_path / "n", "--confidence", 0) == 0
    assert json.loads((tmp_path / "n" / "transforms.json").read_text())["k1"] == -0.1


@pytest.mark.slow
def test_a_panoramas_views_are_one_stream_without_submaps(checkpoint: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "p").mkdir()
    for number in range(2):
        noise = np.random.default_rng(number).integers(0, 256, (60, 120, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / "p" / f"{number}.png")
    options = ("--camera", "equirectangular", "--camera-towards", 0, 120, "--checkpoint", checkpoint)
    assert run(main, "--frames", tmp_path / "p", "--out", tmp_path / "o", "--export", "tum", *options) == 0
    assert len((tmp_path / "o" / "trajectory.txt").read_text().splitlines()) == 5, "a heading and four cameras"
    assert run(main, "--frames", tmp_path / "p", "--out", tmp_path / "q", "--submaps", 4, *options) == 1
    assert "views of a panorama do not follow one another" in capsys.readouterr().err


def test_depth_makes_a_run_metric(checkpoint: Path, folder: Path, tmp_path: Path, capsys) -> None:
    """Depth of the frames two to five as an earlier run saved it, times two, in millimetres."""
    options = ("--frames", folder, "--checkpoint", checkpoint, "--submaps", 3, "--no-refine", "--export", "npz", "tum")
    assert run(main, *options, "--out", tmp_path / "plain") == 0
    plain = [read_npz(path)["depth"] for path in sorted((tmp_path / "plain" / "frames").iterdir())]
    (tmp_path / "d").mkdir()
    for number, depth in enumerate(plain[1:], 2):
        Image.fromarray(np.round(2000 * depth).astype(np.uint16)).save(tmp_path / "d" / f"img{number}.png")
    assert run(main, *options, "--out", tmp_path / "metric", "--depth", tmp_path / "d") == 0
    metric = [read_npz(path)["depth"] for path in sorted((tmp_path / "metric" / "frames").iterdir())]
    np.testing.assert_allclose(metric[0], plain[0], rtol=1e-4)
    for depth, wanted in zip(metric[1:], plain[1:], strict=True):
        np.testing.assert_allclose(depth, 2 * wanted, rtol=0.01, atol=1e-3)
    assert "lengths are metres from frame 1 on: measured depth of 4 of 5 frames was used" in capsys.readouterr().err
    record = json.loads((tmp_path / "metric" / "run.json").read_text())["metric"]
    assert (record["unit"], record["from_frame"], record["frames_with_depth"]) == ("metres", 1, 4)
    assert 0 <= record["relative_standard_deviation"] < 0.05
    for path in (tmp_path / "d").iterdir():
        Image.fromarray(np.zeros((56, 70), np.uint16)).save(path)
    assert run(main, *options, "--out", tmp_path / "zero", "--depth", tmp_path / "d") == 0
    assert "no frame's measured depth could be used" in capsys.readouterr().err
    assert run(main, *options[:4], "--out", tmp_path / "o", "--depth", tmp_path / "d", "--submaps", "off") == 1
    assert "needs --heads depth, and no --submaps off" in capsys.readouterr().err
