"""What `evaluate stream` says of a whole map: the distance of its cloud, and whether its loops are true."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from ivggt_jax.evaluate import loops
from ivggt_jax.evaluate.loops import _is_true
from ivggt_jax.evaluate.walk_cloud import WalkCloud, camera_points
from ivggt_jax.mapping.judge import Loop
from ivggt_jax.mapping.map_files import SubmapRecord
from ivggt_jax.transforms import Similarity

FRAMES = 40


def path() -> np.ndarray:
    """world_from_cam [S,3,4] along a curve, turning."""
    angle = np.linspace(0, 2, FRAMES)
    cameras = np.zeros((FRAMES, 3, 4))
    cameras[..., :3] = Rotation.from_euler("y", angle[:, None]).as_matrix()
    cameras[..., 3] = np.stack((3 * np.cos(angle), 0.2 * angle, 3 * np.sin(angle)), axis=1)
    return cameras


def cloud() -> WalkCloud:
    """Every tenth frame sees 500 points of its own, default_rng(0), at 1 to 4 m; in a unit of 2 m for the prediction."""
    points = np.random.default_rng(0).uniform((-1, -1, 1), (1, 1, 4), (4, 500, 3)).astype(np.float32)
    return WalkCloud(np.arange(0, FRAMES, 10), points / 2, points)


def elsewhere(cameras: np.ndarray) -> np.ndarray:
    """The path in another world, in a unit of 2 m."""
    turn = Rotation.from_rotvec([0.3, -0.2, 0.5]).as_matrix()
    return Similarity(0.5, turn, np.array([1.0, 2, 3])).poses(cameras)


def test_a_cloud_in_another_world_and_unit_has_no_distance():
    truth = path()
    assert cloud().distance(elsewhere(truth), np.ones(FRAMES), truth) == pytest.approx(0, abs=1e-4)


def test_a_map_that_drifts_has_a_distance_and_a_corrected_unit_has_none():
    truth = path()
    found = elsewhere(truth)
    bent = found.copy()
    bent[20:, :, 3] += 0.2 * np.linspace(0, 1, 20)[:, None]
    assert 0.02 < cloud().distance(bent, np.ones(FRAMES), truth) < 0.2
    scales = np.where(np.arange(FRAMES) < 20, 1, 1.3)
    grown = replace(cloud(), found=(cloud().found * scales[::10, None, None]).astype(np.float32))
    assert grown.distance(found, 1 / scales, truth) == pytest.approx(0, abs=1e-4)
    assert grown.distance(found, np.ones(FRAMES), truth) > 0.02
    assert cloud().distance(np.full_like(found, np.nan), np.ones(FRAMES), truth) == np.inf


def test_points_of_a_depth_map_lie_on_their_rays():
    depth = np.full((4, 6), 2.0, np.float32)
    points = camera_points(depth, np.array([[3.0, 0, 3], [0, 3, 2], [0, 0, 1]], np.float32))
    np.testing.assert_allclose(points[0], (-2, -4 / 3, 2))
    np.testing.assert_allclose(points[-1], (2 * 1 / 3, 0, 2), atol=1e-6)
    assert points.shape == (6, 3)


def test_a_frame_of_the_map_has_the_size_of_its_image(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = []
    monkeypatch.setattr(loops, "make_result", lambda frame, *_: frames.append(frame))
    monkeypatch.setattr(loops.Writers, "write", lambda *_: None)
    follower = loops.MapFollower()
    follower.add(np.zeros((2, 42, 56, 3), np.uint8), np.zeros(2))
    assert not follower.finish().submaps
    assert [frame.fit.original_size for frame in frames] == [(56, 42)] * 2


@pytest.mark.parametrize(("shift", "turn", "true"), [(0, 0, True), (0.6, 0, True), (0.9, 0, False), (0, 25, False)])
def test_loops_are_true_within_a_metre_and_a_half_and_twenty_degrees(shift: float, turn: float, true: bool):
    """The world's unit is 2 m, so that a shift of 0.6 is 1.2 m."""
    truth = path()
    found = elsewhere(truth)
    placed = [Similarity(1.0, found[i, :, :3], found[i, :, 3]) for i in (0, 30)]
    submaps = [SubmapRecord(i, 0, 30 * i, 30 * i, placed[i], 1.0, 0.1) for i in range(2)]
    wrong = Similarity(1.0, Rotation.from_euler("y", turn, degrees=True).as_matrix(), np.array([shift, 0.0, 0.0]))
    loop = Loop(0, 1, placed[0].inverse().after(placed[1]).after(wrong))
    assert _is_true(loop, submaps, found, truth, np.full(FRAMES, 2.0)) == true
