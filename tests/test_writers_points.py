"""Which pixels make points, how they are fused, and the PLY file."""

import dataclasses

import numpy as np
import pytest
from writer_scene import HIGH, LOW, result

from ivggt_jax.writers import ExportOptions, Writers
from ivggt_jax.writers.fusion import VoxelGrid, automatic_voxel
from ivggt_jax.writers.pixels import point_mask, sky_mask
from ivggt_jax.writers.ply import write_ply


def random_frames(seed: int, count: int, points: int) -> list[tuple[np.ndarray, np.ndarray]]:
    random = np.random.default_rng(seed)
    return [
        (random.normal(size=(points, 3)).astype(np.float32), random.integers(0, 256, (points, 3)).astype(np.uint8))
        for _ in range(count)
    ]


def plain_fusion(frames, voxel: float) -> dict[tuple[int, ...], np.ndarray]:
    """The same averages by a dictionary."""
    groups: dict[tuple[int, ...], list[np.ndarray]] = {}
    for points, colours in frames:
        for point, colour in zip(points, colours, strict=True):
            groups.setdefault(tuple(np.floor(point / voxel).astype(int)), []).append(np.concatenate((point, colour)))
    return {key: np.mean(values, axis=0, dtype=np.float64) for key, values in groups.items()}


@pytest.mark.parametrize("limit", [5000, 500, 100, 8])
def test_fusion_averages_in_cubes_that_double_until_they_fit(limit):
    frames = random_frames(0, 6, 300)
    grid = VoxelGrid(0.25, limit)
    for points, colours in frames:
        grid.add(points, colours)
        assert len(grid) <= limit
    voxel = 0.25
    while len(expected := plain_fusion(frames, voxel)) > limit:
        voxel *= 2
    assert grid.voxel == voxel
    points, colours = grid.cloud()
    keys = [tuple(np.floor(point / grid.voxel).astype(int)) for point in points]
    assert sorted(keys) == sorted(expected)
    np.testing.assert_allclose(points, [expected[key][:3] for key in keys], atol=1e-5)
    np.testing.assert_allclose(colours, [expected[key][3:] for key in keys], atol=0.51)


def test_fusion_continues_exactly_from_its_state():
    frames = random_frames(1, 8, 400)
    whole, resumed = VoxelGrid(None, 700), VoxelGrid(None, 700)
    for number, frame in enumerate(frames):
        whole.add(*frame)
        resumed.add(*frame)
        if number in (0, 4):
            state, resumed = resumed.state(), VoxelGrid(None, 700)
            resumed.restore(state)
    np.testing.assert_array_equal(whole.cloud()[0], resumed.cloud()[0])
    np.testing.assert_array_equal(whole.cloud()[1], resumed.cloud()[1])
    with pytest.raises(ValueError, match="more than --max-points 10"):
        VoxelGrid(None, 10).restore(whole.state())


def test_fusion_leaves_out_points_too_far_to_number():
    grid = VoxelGrid(0.001, 10)
    grid.add(np.array([[0, 0, 1], [0, 1e30, 0]], np.float32), np.zeros((2, 3), np.uint8))
    np.testing.assert_array_equal(grid.cloud()[0], [[0, 0, 1]])


def test_fusion_of_one_point_seen_forever_stays_that_point():
    grid = VoxelGrid(None, 10)
    for _ in range(1000):
        grid.add(np.full((5, 3), 0.3, np.float32), np.full((5, 3), 200, np.uint8))
    points, colours = grid.cloud()
    np.testing.assert_array_equal(points, np.full((1, 3), 0.3, np.float32))
    np.testing.assert_array_equal(colours, [[200, 200, 200]])


def test_automatic_voxel_is_near_the_distance_of_pixels():
    u, v = np.meshgrid(np.arange(518), np.arange(392))
    wall = np.stack((u, v, np.zeros_like(u)), axis=-1).reshape(-1, 3)
    assert 0.5 < automatic_voxel(wall) < 2


def test_confidence_is_a_percentile_of_the_frames_own_valid_pixels():
    item = result(0)
    confidence = np.arange(112 * 168, dtype=np.float32).reshape(112, 168)
    mask = confidence >= 112 * 168 / 2  # only the upper half of the confidences counts
    frame = dataclasses.replace(item.frame, mask=mask)
    item = dataclasses.replace(item, frame=frame, points_confidence=confidence)
    keep = point_mask(item, ExportOptions(confidence=75))
    np.testing.assert_array_equal(keep, confidence > 112 * 168 * 7 / 8 - 1)
    equal = dataclasses.replace(item, points_confidence=np.full_like(confidence, 3))
    np.testing.assert_array_equal(point_mask(equal, ExportOptions(confidence=75)), mask)


def test_pixels_that_are_not_finite_make_no_points():
    item = result(0)
    item.points[3, 4, 1] = np.nan
    item.points_confidence[5, 6] = np.inf
    keep = point_mask(item, ExportOptions(confidence=0))
    assert keep.sum() == keep.size - 2
    assert not keep[3, 4] and not keep[5, 6]
    with pytest.raises(ValueError, match="--heads"):
        point_mask(dataclasses.replace(item, points=None), ExportOptions())


def test_sky_is_bright_blue_or_grey_unsure_and_joined_to_the_top():
    image = np.full((20, 30, 3), (120, 90, 60), np.uint8)  # brown
    image[:8] = (150, 180, 220)  # sky
    image[2:4, 10:14] = (225, 230, 230)  # a cloud
    image[15:18, 5:9] = (150, 180, 220)  # a puddle that mirrors it
    image[:8, 25:] = (30, 40, 60)  # a dark tower
    confidence = np.where(np.arange(20)[:, None] < 8, 1.0, 5.0) * np.ones((20, 30))
    expected = np.zeros((20, 30), bool)
    expected[:8, :25] = True
    np.testing.assert_array_equal(sky_mask(image, confidence.astype(np.float32)), expected)
    assert not sky_mask(image, np.full((20, 30), 2, np.float32)).any()
    # Padded to a square, with white, of which the model is sure.
    padded, sure, mask = (
        np.pad(x, ((5, 5), *((0, 0),) * (x.ndim - 1)), constant_values=value)
        for x, value in ((image, 255), (confidence, 9), (np.ones((20, 30), bool), False))
    )
    np.testing.assert_array_equal(sky_mask(padded, sure, mask), np.pad(expected, ((5, 5), (0, 0))))
    assert not sky_mask(padded, sure, np.zeros_like(mask)).any()
    keep = point_mask(dataclasses.replace(result(0)), ExportOptions(confidence=0, sky="drop"))
    assert keep.sum() == keep.size - sky_mask(result(0).frame.image, result(0).points_confidence).sum()


def test_ply_is_read_by_trimesh(tmp_path):
    trimesh = pytest.importorskip("trimesh")
    points, colours = random_frames(2, 1, 50)[0]
    write_ply(tmp_path / "points.ply", points, colours)
    cloud = trimesh.load(tmp_path / "points.ply")
    np.testing.assert_array_equal(cloud.vertices, points)
    np.testing.assert_array_equal(cloud.colors[:, :3], colours)


def test_ply_points_lie_on_the_scenes_walls(tmp_path):
    trimesh = pytest.importorskip("trimesh")
    writers = Writers(["ply"], tmp_path, ExportOptions(voxel=0.01))
    for index in range(5):
        writers.write(result(index))
    writers.close()
    vertices = trimesh.load(tmp_path / "points.ply").vertices
    # The mean of a cube that holds an edge of the room lies inside by less than the cube's diagonal.
    distance = np.minimum(np.abs(vertices - LOW), np.abs(vertices - HIGH)).min(axis=1)
    assert len(vertices) > 5000
    assert distance.max() < 0.02
    assert np.mean(distance < 1e-5) > 0.95


def test_ply_is_rewritten_at_powers_of_two(tmp_path):
    writers = Writers(["ply"], tmp_path, ExportOptions())
    sizes = []
    for index in range(9):
        writers.write(result(index))
        sizes.append((tmp_path / "points.ply").stat().st_size)
    writers.close()
    assert [later > earlier for earlier, later in zip(sizes, sizes[1:], strict=False)] == [
        index in (2, 4, 8) for index in range(2, 10)
    ]
