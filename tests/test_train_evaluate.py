"""What a training run measures of its students, on clips whose errors are known beforehand (float64 arithmetic, 1e-6)."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from small_training import SMALL, clips, random_model

import ivggt_jax.train.evaluate
from ivggt_jax.train.data.batches import Batch
from ivggt_jax.train.distill import Plan, StepConfig
from ivggt_jax.train.evaluate import Clip, evaluate, overall
from ivggt_jax.train.journal import Journal
from ivggt_jax.train.losses import LossConfig
from ivggt_jax.train.mesh import make_mesh
from ivggt_jax.train.pictures import depth_picture
from ivggt_jax.weights.card import MEASURED

FRAMES = 6


def perfect_clip() -> Clip:
    """One of six frames whose predictions are the truth in another unit of length."""
    clip = {name: array[0] for name, array in clips(0, count=1, frames=FRAMES).items()}
    cameras = clip["cam_from_world"] * np.array([1, 1, 1, 3], np.float32)
    return clip | {
        "predicted_depth": 3 * clip["depth"],
        "predicted_cameras": cameras,
        "predicted_intrinsics": clip["intrinsics"],
        "predicted_points": 3 * clip["points"],
    }


def measure(clip: Clip, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The errors of one clip that needs no network."""
    monkeypatch.setattr(ivggt_jax.train.evaluate, "_look", lambda plan, model, batch: iter([clip]))
    errors, first = evaluate(None, None, [None])  # type: ignore[arg-type, list-item]
    assert first is clip
    return errors


def test_the_truth_has_no_error_whatever_its_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = measure(perfect_clip(), monkeypatch)
    assert errors.keys() < MEASURED.keys()
    constant, line = errors.pop("constant_abs_rel"), errors.pop("line_path_error")
    assert 0.1 < constant < 0.4 and 0.05 < line < 0.4
    assert errors == pytest.approx(dict.fromkeys(errors, 0), abs=1e-4)
    assert errors.keys() == {
        "abs_rel", "position_error", "path_error", "rotation_error", "step_error", "step_rotation_error",
        "field_of_view_error", "point_error",
    }  # fmt: skip


def test_errors_are_relative_to_the_scene(monkeypatch: pytest.MonkeyPatch) -> None:
    """Depth that is 20 % too far in a seventh of the pixels; points moved by a tenth of their length at most."""
    clip = perfect_clip()
    clip["valid"] = np.ones_like(clip["valid"])
    clip["predicted_depth"] = clip["depth"].copy()
    clip["predicted_depth"][:, :4] *= 1.2
    clip["predicted_points"] = clip["points"] + 0.1 * np.roll(clip["points"], 1, axis=-1)
    errors = measure(clip, monkeypatch)
    assert errors["abs_rel"] == pytest.approx(0.2 / 7, rel=1e-3)
    assert 0.05 < errors["point_error"] < 0.1


def test_what_is_not_finite_is_infinitely_wrong_and_what_is_unknown_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clip = perfect_clip()
    for name in ("depth", "cameras", "intrinsics", "points"):
        clip[f"predicted_{name}"] = np.full_like(clip[f"predicted_{name}"], np.nan)
    errors = measure(clip, monkeypatch)
    assert np.isfinite([errors.pop(name) for name in ("constant_abs_rel", "line_path_error")]).all()
    assert set(errors.values()) == {np.inf}
    for name in ("depth", "points"):
        clip[f"predicted_{name}"] = np.zeros_like(clip[f"predicted_{name}"])
    errors = measure(clip, monkeypatch)
    assert errors["abs_rel"] == errors["point_error"] == np.inf
    clip["valid"] = np.zeros_like(clip["valid"])
    assert np.isnan(measure(clip, monkeypatch)["position_error"])
    clip["cam_from_world"] = np.tile(clip["cam_from_world"][:1], (FRAMES, 1, 1))
    errors = measure(clip, monkeypatch)
    assert np.isinf(errors.pop("field_of_view_error")) and np.isnan(list(errors.values())).all()
    clip["valid"] = np.ones_like(clip["valid"])
    assert np.isnan(measure(clip, monkeypatch)["position_error"]), "a camera that stands still has no path"


def test_a_tripod_that_trembles_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A path of a thousandth of the distance to the scene is no measure of an error; a tenth is."""
    clip = perfect_clip()
    still = np.tile(clip["cam_from_world"][:1], (FRAMES, 1, 1))
    distance = np.median(clip["depth"][clip["valid"]])
    for moved, judged in ((0.001, False), (0.1, True)):
        clip["cam_from_world"] = still.copy()
        clip["cam_from_world"][1::2, 0, 3] += moved * distance / (FRAMES - 1)
        assert np.isfinite(measure(clip, monkeypatch)["position_error"]) == judged


def test_positions_are_wrong_where_depth_has_no_scale_or_they_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    clip = perfect_clip()
    clip["predicted_depth"] = np.zeros_like(clip["depth"])
    assert np.isinf(measure(clip, monkeypatch)["position_error"])
    clip = perfect_clip()
    clip["predicted_cameras"][2, 1, 3] = np.inf
    errors = measure(clip, monkeypatch)
    assert np.isinf(errors["position_error"]) and np.isfinite(errors["abs_rel"])


def test_a_straight_line_is_no_good_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six frames on a tenth of a circle: the similarity turns a line ahead into its chord; where the camera is it cannot say."""
    clip, angle = perfect_clip(), np.linspace(0, 0.2 * np.pi, FRAMES)
    clip["cam_from_world"] = np.tile(np.eye(3, 4, dtype=np.float32), (FRAMES, 1, 1))
    clip["cam_from_world"][:, :, 3] = -np.stack([np.sin(angle), 0 * angle, 1 - np.cos(angle)], axis=1)
    clip["predicted_cameras"] = np.tile(np.eye(3, 4, dtype=np.float32), (FRAMES, 1, 1))
    clip["predicted_cameras"][:, 2, 3] = -np.arange(FRAMES)
    errors = measure(clip, monkeypatch)
    assert errors["path_error"] == pytest.approx(errors["line_path_error"])
    assert errors["path_error"] < 0.04 and errors["position_error"] > 0.5


def test_positions_have_the_scale_of_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    """A path that is a tenth too long for its depth, which the similarity does not see."""
    clip = perfect_clip()
    clip["predicted_cameras"][:, :, 3] *= 1.1
    positions = clip["cam_from_world"][:, :, 3]
    length = np.linalg.norm(np.diff(positions, axis=0), axis=1).sum()
    errors = measure(clip, monkeypatch)
    expected = 0.1 * np.sqrt(np.mean(np.sum(np.square(positions), axis=1))) / length
    assert errors["position_error"] == pytest.approx(expected, rel=1e-4)
    assert errors["path_error"] == pytest.approx(0, abs=1e-4)


def test_fields_of_view_are_compared_in_degrees(monkeypatch: pytest.MonkeyPatch) -> None:
    """True is 2·atan(14/30); two frames of six say 90°, one says nothing, which is an infinite focal length."""
    clip, true = perfect_clip(), 2 * np.degrees(np.arctan(14 / 30))
    clip["predicted_intrinsics"] = clip["intrinsics"].copy()
    clip["predicted_intrinsics"][:2, 0, 0], clip["predicted_intrinsics"][2, 0, 0] = 14, np.inf
    expected = (2 * (90 - true) + true) / 6
    assert measure(clip, monkeypatch)["field_of_view_error"] == pytest.approx(expected, rel=1e-5)


def test_a_network_is_measured_on_all_clips_by_what_it_trains() -> None:
    """Two batches of noise: the errors are the mean of the clips'."""
    step = StepConfig(heads=("points",), precision="float32", loss=LossConfig(task_weight=1.0, distillation_weight=0.0))
    plan = Plan(step=step, model=SMALL, mesh=make_mesh(), updates=1)
    batches = [Batch(clips(seed, count=2), ("", "")) for seed in (1, 2)]
    model = random_model(0)
    errors, clip = evaluate(plan, model, batches)
    parts = [evaluate(plan, model, [batch])[0] for batch in batches]
    assert errors == pytest.approx({name: (parts[0][name] + parts[1][name]) / 2 for name in errors}, rel=1e-6)
    assert clip["predicted_points"].shape == clip["points"].shape
    assert overall(plan, errors) == errors["point_error"]
    with_depth = dataclasses.replace(plan, step=dataclasses.replace(step, heads=("camera", "depth")))
    known = {"abs_rel": 0.25, "position_error": 0.5, "path_error": 4.0, "point_error": 1.0}
    assert overall(with_depth, known) == 0.75 and overall(with_depth, known | {"position_error": np.nan}) == 0.25
    motion = dataclasses.replace(plan, step=dataclasses.replace(step, heads=("depth", "motion")))
    assert overall(motion, known) == 0.25, "held-out clips in which nothing moves do not judge motion"
    tracks = dataclasses.replace(plan, step=dataclasses.replace(step, heads=("tracks",)))
    assert overall(tracks, known) == overall(plan, known | {"point_error": np.nan}) == np.inf
    found = jax.eval_shape(
        lambda model, batch: ivggt_jax.train.evaluate._predict(with_depth, model, batch), model, clips(1)
    )
    assert "predicted_points" not in found


def test_the_best_is_the_lowest_and_while_none_is_known_the_newest(tmp_path: Path) -> None:
    with Journal(tmp_path, begin=0, steps=9, every=1, tensorboard=False) as journal:
        found = [
            journal.evaluated(step, {"error": e}, None) for step, e in enumerate((np.inf, np.inf, 0.5, np.inf, 0.4))
        ]
    assert found == [True, True, True, False, True]


def test_a_picture_shows_image_truth_prediction_and_error() -> None:
    """Four frames of the six: the error of the truth is black, and blue where nothing is known."""
    clip = perfect_clip()
    picture = depth_picture(clip)
    assert picture.shape == (4 * 28, 4 * 28, 3) and picture.dtype == np.uint8
    np.testing.assert_array_equal(picture[:28, :28], clip["images"][0])
    valid = clip["valid"][0]
    np.testing.assert_allclose(picture[28:56, :28][valid].astype(int), picture[56:84, :28][valid], atol=2)
    assert (picture[84:, :28][valid] <= 1).all()
    np.testing.assert_array_equal(picture[84:, :28][~valid], np.tile((0, 0, 96), (np.sum(~valid), 1)))


def test_depth_of_a_told_clip_is_judged_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 % too large everywhere is a metric error of 0.1 and none after a scale; untold clips have no part in it."""
    clip = perfect_clip() | {"sensor_depth": np.zeros((FRAMES, 28, 28), np.float32)}
    clip["predicted_depth"] = 1.1 * clip["depth"]
    assert np.isnan(measure(clip, monkeypatch)["metric_abs_rel"])
    clip["sensor_depth"][0, 5, 5] = 2
    errors = measure(clip, monkeypatch)
    assert errors["metric_abs_rel"] == pytest.approx(0.1, rel=1e-4) and errors["abs_rel"] == pytest.approx(0, abs=1e-4)
    clip["predicted_depth"][0, 0, 0], clip["valid"][0, 0, 0] = np.nan, True
    assert np.isinf(measure(clip, monkeypatch)["metric_abs_rel"])


def test_motion_is_judged_by_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows 0 to 7 move, rows 4 to 11 are said to: four of twelve agree. A clip in which nothing moves has no part."""
    clip = perfect_clip() | {
        "moving": np.zeros((FRAMES, 28, 28), bool),
        "predicted_motion": np.full((FRAMES, 28, 28), 0.4),
    }
    clip["valid"] = np.ones_like(clip["valid"])
    assert np.isnan(measure(clip, monkeypatch)["motion_error"])
    clip["moving"][:, :8], clip["predicted_motion"][:, 4:12] = True, 0.6
    assert measure(clip, monkeypatch)["motion_error"] == pytest.approx(1 - 4 / 12)
    clip["predicted_motion"][0, 0, 0] = np.nan
    assert np.isinf(measure(clip, monkeypatch)["motion_error"])
