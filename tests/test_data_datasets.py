"""Readers, each on a small folder in its layout, with damaged members."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from ivggt_jax.train.__main__ import held_out_batches
from ivggt_jax.train.data.batches import Batch, ClipBatches, ClipConfig
from ivggt_jax.train.data.datasets import DATASETS
from ivggt_jax.train.data.datasets.co3d import co3d
from ivggt_jax.train.data.datasets.tum import held_out, tum
from ivggt_jax.train.data.scene import Dataset
from ivggt_jax.train.presets import PRESETS

WIDTH, HEIGHT, FRAMES = 64, 48, 6
INTRINSICS = np.array([[60.0, 0, 32], [0, 61, 24], [0, 0, 1]])


def pose(position: int) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("y", 3 * position, degrees=True).as_matrix()
    matrix[:3, 3] = 0.1 * position, 0.2, 0.3
    return matrix


def metres(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return 1 + np.arange(height)[:, None] / 100 + np.arange(width)[None] / 200


def save_image(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(value).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def save_depth(path: Path, units: float, depth: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.round((metres() if depth is None else depth) * units).astype(np.uint16)
    values[: len(values) // 10 + 1] = 0
    Image.fromarray(values).save(path)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def make_scannet(root: Path) -> None:
    for scene in ("scene0000_00", "scene0001_00"):
        folder = root / "scans_train" / scene
        for i in range(FRAMES):
            save_image(folder / "color" / f"{i:05d}.jpg", i)
            save_depth(folder / "depth" / f"{i:05d}.png", 1000)
            (folder / "cam").mkdir(exist_ok=True)
            np.savez(folder / "cam" / f"{i:05d}.npz", pose=pose(i), intrinsics=INTRINSICS)
    (root / "scans_train" / "scene0002_00" / "color").mkdir(parents=True)
    truncate(root / "scans_train/scene0001_00/depth/00002.png")
    np.savez(root / "scans_train/scene0001_00/cam/00003.npz", pose=np.full((4, 4), -np.inf), intrinsics=INTRINSICS)


def make_arkitscenes(root: Path) -> None:
    for scene in ("40753679", "40753686", "40777060"):
        folder = root / "Training" / scene
        for i in range(FRAMES):
            save_image(folder / "vga_wide" / f"{scene}_{i}.jpg", i)
            save_depth(folder / "lowres_depth" / f"{scene}_{i}.png", 1000, metres()[::2, ::2])
        np.savez(
            folder / "new_scene_metadata.npz",
            images=[f"{scene}_{i}.png" for i in range(FRAMES)],
            trajectories=np.stack([pose(i) for i in range(FRAMES)]),
            intrinsics=np.array([[WIDTH, HEIGHT, 60.0, 61, 32, 24]] * FRAMES),
        )
    (root / "Training/40753686/vga_wide/40753686_2.jpg").unlink()
    truncate(root / "Training/40777060/new_scene_metadata.npz")


def make_co3d(root: Path) -> None:
    selected = {"apple": {"110_13051_23361": list(range(FRAMES)), "189_20393_38136": list(range(FRAMES)), "gone": [0]}}
    for sequence in ("110_13051_23361", "189_20393_38136"):
        folder = root / "apple" / sequence
        for i in range(FRAMES):
            save_image(folder / "images" / f"frame{i:06d}.jpg", i)
            save_depth(folder / "depths" / f"frame{i:06d}.jpg.geometric.png", 65535 / 4)
            np.savez(
                folder / "images" / f"frame{i:06d}.npz",
                camera_pose=pose(i), camera_intrinsics=INTRINSICS, maximum_depth=4.0,
            )  # fmt: skip
    truncate(root / "apple/189_20393_38136/images/frame000001.npz")
    (root / "selected_seqs_train.json").write_text(json.dumps(selected))


def make_seven_scenes(root: Path) -> None:
    for number in (1, 2):
        folder = root / "chess" / f"seq-{number:02d}"
        for i in range(FRAMES):
            save_image(folder / f"frame-{i:06d}.color.png", i)
            save_depth(folder / f"frame-{i:06d}.depth.proj.png", 1000)
            save_depth(folder / f"frame-{i:06d}.depth.png", 500)
            np.savetxt(folder / f"frame-{i:06d}.pose.txt", pose(i))
    (root / "chess/seq-02/frame-000001.pose.txt").write_text("1 0 0\n")
    (root / "chess/TrainSplit.txt").write_text("sequence1\nsequence2\nsequence3\n")


def make_tum(root: Path) -> None:
    """Of the three that can be used, that of the third camera is held out."""
    for sequence in (*(f"rgbd_dataset_freiburg{name}" for name in ("1_xyz", "2_desk", "3_desk")), "living_room"):
        folder = root / sequence
        rows = []
        for i in range(FRAMES):
            time = 1_305_031_102 + i / 30
            save_image(folder / "rgb_6" / f"{time:.6f}.png", i)
            save_depth(folder / "depth_6" / f"{time + 0.01:.6f}.png", 5000)
            rows.append([time - 0.005, *pose(i)[:3, 3], *Rotation.from_matrix(pose(i)[:3, :3]).as_quat()])
        save_image(folder / "rgb_6" / f"{1_305_031_102 + 9:.6f}.png")
        np.savetxt(folder / "groundtruth_6.txt", rows, header="timestamp tx ty tz qx qy qz qw", fmt="%.6f")
    truncate(root / "rgbd_dataset_freiburg1_xyz" / "rgb_6" / f"{1_305_031_102:.6f}.png")


LAYOUTS = {
    "arkitscenes": (make_arkitscenes, "40777060", INTRINSICS),
    "co3d": (make_co3d, "gone", INTRINSICS),
    "scannet": (make_scannet, "scene0002_00", INTRINSICS),
    "7scenes": (make_seven_scenes, "seq-03", None),
    "tum": (make_tum, "living_room", None),
}


def clips_of(dataset: Dataset, intrinsics: np.ndarray | None, monkeypatch: pytest.MonkeyPatch) -> list[Batch]:
    """Twenty clips. Published cameras are for 640×480 images, so these small ones are declared centred."""
    if intrinsics is None:
        for scene in dataset.scenes:
            read = scene.frame
            monkeypatch.setattr(scene, "frame", lambda i, read=read: replace(read(i), intrinsics=INTRINSICS))
    config = ClipConfig(frames=(3, 3), resolutions=((28, 28),), weights=(1,))
    batches = ClipBatches(config, [(dataset, 1.0)], steps=20)
    return [batches[step] for step in range(20)]


@pytest.mark.parametrize("name", LAYOUTS)
def test_labels_are_read_as_they_were_written(name: str, tmp_path: Path) -> None:
    make, broken, intrinsics = LAYOUTS[name]
    make(tmp_path)
    dataset = DATASETS[name](tmp_path, "train")
    assert len(dataset.scenes) == 2
    assert len(dataset.broken) == 1 and broken in dataset.broken[0]
    scene = next(scene for scene in dataset.scenes if "freiburg1" not in scene.name)
    assert len(scene) == FRAMES
    for position in (0, 4):
        frame = scene.frame(position)
        assert frame.image.size == (WIDTH, HEIGHT) and frame.image.mode == "RGB"
        np.testing.assert_allclose(frame.world_from_cam, pose(position), atol=2e-6)
        tolerance = 0.016 if name == "arkitscenes" else 1e-3
        np.testing.assert_allclose(frame.depth[6:], metres()[6:], atol=tolerance)
        assert (frame.depth[:4] == 0).all()
        if intrinsics is not None:
            np.testing.assert_allclose(frame.intrinsics, intrinsics)
    if intrinsics is None:
        focal = {"7scenes": 525.0, "tum": 520.90862}[name]
        assert frame.intrinsics[0, 0] == focal


@pytest.mark.parametrize("name", LAYOUTS)
def test_damaged_clips_are_skipped_and_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, _, intrinsics = LAYOUTS[name]
    make(tmp_path)
    dataset = DATASETS[name](tmp_path, "train")
    batches = clips_of(dataset, intrinsics, monkeypatch)
    skipped = [message for batch in batches for message in batch.skipped]
    damaged = next(scene.name for scene in dataset.scenes if scene.name in "".join(skipped))
    assert all(damaged in message for message in skipped)
    for batch in batches:
        assert batch.arrays["images"].shape == (1, 3, 28, 28, 3)
        assert np.isfinite(batch.arrays["points"]).all()
        assert batch.arrays["valid"].mean() > 0.5


def test_what_is_held_out_is_not_trained_on(tmp_path: Path) -> None:
    """Of one sequence alone none is."""
    make_tum(tmp_path)
    training, held = ({scene.name for scene in tum(tmp_path, split).scenes} for split in ("train", "test"))
    assert held == {"rgbd_dataset_freiburg3_desk"} and len(training) == 2 and not training & held
    for name in ("1_xyz", "2_desk"):
        shutil.rmtree(tmp_path / f"rgbd_dataset_freiburg{name}")
    assert len(tum(tmp_path, "train").scenes) == 1
    with pytest.raises(ValueError, match="its only usable sequence, rgbd_dataset_freiburg3_desk, is for training"):
        tum(tmp_path, "test")


def test_a_tenth_of_many_sequences_is_held_out_whatever_the_others() -> None:
    names = [f"rgbd_dataset_freiburg3_{number}" for number in range(200)]
    kept = held_out(names)
    assert 10 <= len(kept) <= 30 and held_out(names[::-1]) == kept
    assert held_out(names[:100]) == kept & set(names[:100])
    assert len(held_out(names[:2])) == 1 and not held_out(names[:1])


def test_held_out_clips_are_in_order(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Errors from frame to frame need frames that follow each other; training shuffles two of five clips of this dataset.

    Those that cannot be read are named.
    """
    make_scannet(tmp_path)
    (tmp_path / "scans_train").rename(tmp_path / "scans_test")
    small = ClipConfig(frames=(3, 3), resolutions=((28, 28),), weights=(1,))
    config = replace(PRESETS["supervised"]["published"][1], data=(f"scannet={tmp_path}",), recorded=small)
    clips = [
        name.rpartition(" ")[2].split(",") for batch in held_out_batches(config, slice(None)) for name in batch.names
    ]
    assert len(clips) == 16 and all(clip == sorted(clip) for clip in clips)
    assert any(line.startswith("held-out clip skipped: scannet") for line in caplog.messages)


def test_raw_seven_scenes_depth_is_taken_where_none_is_registered(tmp_path: Path) -> None:
    make_seven_scenes(tmp_path)
    folder = tmp_path / "chess" / "seq-01"
    (folder / "frame-000000.depth.proj.png").unlink()
    save_depth(folder / "frame-000000.depth.png", 1000, np.where(metres() > 1.5, 65.535, metres()))
    frame = DATASETS["7scenes"](tmp_path, "train").scenes[0].frame(0)
    np.testing.assert_allclose(frame.depth[6:], np.where(metres() > 1.5, 0, metres())[6:], atol=1e-3)


@pytest.mark.parametrize(
    "text",
    ["[]", "null", "3", "[" * 100_000, "x", '{"apple": ["1"]}', '{"apple": {"1": 3}}', '{"apple": {"1": ["x"]}}'],
)
def test_a_list_of_sequences_that_is_something_else_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "selected_seqs_train.json").write_text(text)
    with pytest.raises(ValueError, match="selected_seqs_train.json|not listed by number") as failure:
        co3d(tmp_path)
    assert "\n" not in str(failure.value)
