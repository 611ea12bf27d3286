"""`evaluate sensing`: its errors on depths that are known, and a run on a model whose branch and head are random."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from small_training import random_model

from ivggt_jax import CacheConfig, save
from ivggt_jax.evaluate.__main__ import main
from ivggt_jax.evaluate.clouds import tree
from ivggt_jax.evaluate.ghosts import _cloud, _in_world, count_ghosts, overlap
from ivggt_jax.evaluate.sensing import SensorOptions, _chunk_errors, _errors
from ivggt_jax.evaluate.walks import Walk, WalkPart
from ivggt_jax.runs.run import moving_masked
from ivggt_jax.sources.frame import Fit, Frame
from ivggt_jax.train.start import extended
from ivggt_jax.writers import Result


def part(frames: int = 10) -> WalkPart:
    """Depth of 2 m on the left and 4 m on the right, of which the left moves."""
    depth = np.broadcast_to(np.repeat([2.0, 4.0], 4), (frames, 6, 8)).astype(np.float32)
    cameras = np.broadcast_to(np.eye(3, 4), (frames, 3, 4))
    return WalkPart(np.zeros((frames, 6, 8, 3), np.uint8), depth, cameras, moving=depth == 2)


def test_errors_of_known_depth() -> None:
    """10 % too far everywhere, 30 % on the right, where the sensor has nothing but in one frame that has no depth at all."""
    truth = part()
    depth = truth.depth * np.repeat([1.1, 1.3], 4).astype(np.float32)
    told = np.where(truth.depth == 2, truth.depth, 0)
    told[3] = 0
    errors = _chunk_errors(truth, depth, told)
    assert errors["metric_error"] == pytest.approx(0.2, rel=1e-5)
    assert errors["metric_error_in_holes"] == pytest.approx(0.3, rel=1e-5)
    assert errors["scale_error"] == pytest.approx(0.2, rel=1e-5)
    assert _chunk_errors(truth, 7 * truth.depth, None) == pytest.approx({"depth_error": 0}, abs=1e-6)
    assert np.isnan(_chunk_errors(truth, depth, truth.depth)["metric_error_in_holes"]), "a sensor without holes"


def test_overlap_of_known_motion() -> None:
    """Half of the left and half of the right are said to move: a third of either is both."""
    motion = np.full((10, 6, 8), 0.2, np.float32)
    motion[:, :, 2:6] = 0.7
    assert overlap(np.asarray(part().moving), motion > 0.5) == pytest.approx(1 / 3)
    assert np.isnan(overlap(motion > 1, motion > 1))


def test_ghosts_of_a_known_cloud() -> None:
    """A wall at 4 m, a body at 2 m on the left, and depth that is off by a tenth, which its scale takes out: the body's points are
    ghosts, the wall's are none; without what moves none are left."""
    truth = part()
    frame = Frame(np.zeros((6, 8, 3), np.uint8), 0, None, "0", Fit((8, 6), (1.0, 1.0), (0.0, 0.0)))
    depth = (1.1 * truth.depth[0]).astype(np.float32)
    result = Result(frame, np.eye(3, 4), np.eye(3), depth, points=np.zeros((6, 8, 3), np.float32))
    surfaces = tree(_in_world(np.full((1, 6, 8), 4.0), truth.world_from_cam[:1], np.ones((1, 6, 8), bool)))
    kept = _cloud([result] * 10, truth)
    assert len(kept) == 48 and count_ghosts(kept, surfaces) == 24
    np.testing.assert_allclose(np.sort(np.unique(kept[:, 2].round(3))), [2, 4], atol=1e-3)
    without = _cloud([moving_masked(result, np.asarray(truth.moving)[0])] * 10, truth)
    assert len(without) == 24 and count_ghosts(without, surfaces) == 0


def test_a_sensor_is_the_same_for_a_part_of_a_walk_and_its_first_frame_has_depth() -> None:
    sensor, depth = SensorOptions(frames=0.0, holes=0.5), part().depth
    first, later = sensor.measured(5, 0, depth), sensor.measured(5, 10, depth)
    assert first[0].any() and not first[1:].any() and not later.any()
    np.testing.assert_array_equal(first, sensor.measured(5, 0, depth))
    with pytest.raises(ValueError, match="holes is a share in"):
        SensorOptions(holes=1.2)


class Ruined(Walk):
    """From frame 52 on nothing is a metre away, and everything moves."""

    def part(self, start: int, frames: int) -> WalkPart:
        found = super().part(start, frames)
        beyond = (start + np.arange(frames) >= 52)[:, None, None]
        return replace(found, depth=np.where(beyond, 0.01, found.depth), moving=found.moving | beyond)


def test_frames_beyond_the_end_of_a_walk_do_not_count() -> None:
    model = extended(random_model(0), ("motion",), False, jax.random.key(0))
    cache = CacheConfig(total_budget=1_000, max_frames=60)
    whole, ruined = (_errors(model, cache, kind("crowd", 7, 28, 28), 7, None, 52) for kind in (Walk, Ruined))
    assert whole == ruined


@pytest.mark.slow
def test_a_walk_with_a_sensor_and_without(tmp_path: Path) -> None:
    """Fifty frames of 28×28 pixels among bodies; with a sensor lengths are metres, and the motion head is measured either way."""
    save(extended(random_model(0), ("motion",), True, jax.random.key(0)), tmp_path / "model")
    arguments = [
        "--checkpoint",
        str(tmp_path / "model"),
        "--routes",
        "crowd",
        "--frames",
        "50",
        "--out",
        str(tmp_path / "a.json"),
    ]
    with pytest.raises(SystemExit) as stopped:
        main(["sensing", *arguments])
    assert not stopped.value.code
    plain, told = json.loads((tmp_path / "a.json").read_text())["walks"]
    assert (plain["told"], told["told"]) == ("none", "sensor") and plain["walk"] == told["walk"] == "crowd-1048576"
    assert told.keys() - plain.keys() == {"metric_error", "metric_error_in_holes", "scale_error"}
    assert {f"ghosts_{way}" for way in ("keep", "drop", "known_masks", "no_bodies")} <= plain.keys()
    assert 0 <= told["motion_overlap"] <= 1 and np.isfinite(list(told.values())[2:]).all()
