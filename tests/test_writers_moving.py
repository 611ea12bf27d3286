"""Masks that can be given back, and clouds of what moves: what is written of the exact scene, and of pictures that were fitted."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from writer_scene import ALL, FITS, HEIGHT, WIDTH, moving, result, saved

from ivggt_jax.runs.run import moving_masked
from ivggt_jax.sources import Frame, SourceConfig, open_source
from ivggt_jax.writers import Result, Writers
from ivggt_jax.writers.loops import LoopsWriter
from ivggt_jax.writers.ply import fuse


def result_of(frame: Frame) -> Result:
    return Result(frame, np.eye(3, 4), np.array([[90.0, 0, 56], [0, 90, 42], [0, 0, 1]]))


def write(names: list[str], out: Path, items: list[Result]) -> None:
    writers = Writers(names, out, ALL)
    for item in items:
        writers.write(item)
    writers.close()


def test_what_moves_is_masked_beside_what_the_user_masks() -> None:
    item = result(0)
    mask, moves = np.ones((2, HEIGHT, WIDTH), bool)
    mask[:, :60], moves[:50] = False, False
    both = moving_masked(replace(item, frame=replace(item.frame, mask=mask)), moves)
    np.testing.assert_array_equal(both.frame.mask, mask & ~moves)
    np.testing.assert_array_equal(both.moving, mask & moves)
    np.testing.assert_array_equal(moving_masked(item, moves).frame.mask, ~moves)


def test_clouds_of_what_moves_have_its_points_and_times(tmp_path: Path) -> None:
    items = [moving(index) for index in range(3)]
    items = [replace(item, frame=replace(item.frame, timestamp=0.1 * i)) for i, item in enumerate(items)]
    items[2] = moving_masked(result(2), np.zeros((HEIGHT, WIDTH), bool))
    write(["moving", "npz"], tmp_path, items)
    for index, item in enumerate(items):
        head, body = (tmp_path / "moving" / f"{index:06d}.ply").read_bytes().split(b"end_header\n")
        points = np.frombuffer(body, [("xyz", "<f4", 3), ("rgb", "u1", 3)])
        np.testing.assert_array_equal(points["xyz"], item.points[item.moving])
        np.testing.assert_array_equal(points["rgb"], item.frame.image[item.moving])
        assert f"comment frame {index}" in head.decode()
        assert (f"comment time {0.1 * index!r}" in head.decode()) == (index < 2)
    with pytest.raises(ValueError, match="run ivggt with --moving separate"):
        write(["moving"], tmp_path / "other", [result(0)])


def test_saved_frames_leave_out_what_moves_later_as_well(tmp_path: Path) -> None:
    """No point of the fused cloud is one of the block, and COLMAP's tracks, by the same rule, have none there."""
    items = [moving(index) for index in range(3)]
    again = saved(tmp_path, items)
    for before, after in zip(items, again, strict=True):
        np.testing.assert_array_equal(before.moving, after.moving)
        np.testing.assert_array_equal(before.frame.mask, after.frame.mask)
    cloud = fuse(again, replace(ALL, voxel=1e-3)).cloud()[0]
    of_still = np.concatenate([item.points[~item.moving] for item in items])
    assert len(cloud) <= len(of_still)
    everything = fuse([replace(item, frame=replace(item.frame, mask=None)) for item in items], replace(ALL, voxel=1e-3))
    assert len(everything) > 1.01 * len(cloud)


def test_loops_look_at_no_corner_of_what_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []
    writer = LoopsWriter(tmp_path, ALL, 0, {})
    monkeypatch.setattr(writer._maker, "feed", lambda image, depth, *others: seen.append(depth))
    item = moving(1)
    for found in (item, result(1)):
        writer.write(replace(found, map=object()))
    writer.close()
    np.testing.assert_array_equal(seen[0], np.where(item.moving, 0, item.depth))
    np.testing.assert_array_equal(seen[1], item.depth)


@pytest.mark.parametrize("fit", FITS)
def test_masks_have_the_size_of_the_originals(fit: str, tmp_path: Path) -> None:
    """Each pixel is that of the model's image in which its centre lies; what was cropped away is white."""
    item = moving(3, fit=FITS[fit])
    write(["masks"], tmp_path, [item])
    with Image.open(tmp_path / "masks" / "000003.png.png") as file:
        mask = np.asarray(file)
    width, height = FITS[fit].original_size
    assert mask.shape == (height, width) and set(np.unique(mask)) == {0, 255}
    for row, column in np.random.default_rng(0).integers(0, (height, width), (300, 2)):
        x, y = np.floor((np.array((column, row)) + 0.5) * FITS[fit].scale + FITS[fit].offset).astype(int)
        inside = 0 <= x < WIDTH and 0 <= y < HEIGHT
        assert mask[row, column] == (255 if not inside or item.frame.mask[y, x] else 0)


@pytest.mark.parametrize(
    "options", [{}, {"mode": "pad"}, {"camera": "250,250,159.5,99.5,-0.2,0.05,0,0", "camera_fov": 50}]
)
def test_masks_can_be_given_back(options: dict, tmp_path: Path) -> None:
    """Pictures in two folders, high and wide, and a lens: the masks of the second run are those of the first, to the pixel; of a
    distorted picture, whose pixels are larger here and smaller there, but for 1 % along the rims."""
    sizes = {"a/0.jpg": (320, 200), "a/1.png": (320, 200), "b/0.jpg": (320, 200 if "camera" in options else 480)}
    for name, size in sizes.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (90, 120, 150)).save(tmp_path / "in" / name)
    config = SourceConfig(frames=str(tmp_path / "in" / "**" / "*.*"), size=112, **options)
    with open_source(config) as source:
        frames = list(source)
    items = []
    for number, frame in enumerate(frames):
        moves = np.zeros(frame.image.shape[:2], bool)
        moves[20 : 40 + 5 * number, 30:70] = True
        items.append(moving_masked(result_of(frame), moves))
    write(["masks"], tmp_path / "out", items)
    assert {path.relative_to(tmp_path / "out" / "masks").as_posix() for path in (tmp_path / "out").rglob("*.png")} == {
        f"{name}.png" for name in sizes
    }
    with open_source(replace(config, masks=tmp_path / "out" / "masks")) as source:
        for before, after in zip(items, source, strict=True):
            assert (before.frame.mask != after.mask).mean() <= (0.01 if "camera" in options else 0)


def test_a_panoramas_views_have_no_mask_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.new("RGB", (120, 60)).save(tmp_path / "in" / "0.png")
    with open_source(SourceConfig(frames=str(tmp_path / "in"), size=56, camera="equirectangular")) as source:
        (frame,) = source
    with pytest.raises(ValueError, match="one mask a picture, and 0.png@0 is one of several views"):
        write(["masks"], tmp_path / "out", [result_of(frame)])
