"""Endless videos, what is measured on them, and the commands that do it: `evaluate stream` and `evaluate study`.

The tiny model at its native 56×70 pixels has 25 tokens a frame; all runs here share one compiled program of 20 frames.
"""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import get_args
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from ivggt_jax import CacheConfig, Model, save, stream
from ivggt_jax.config import PolicyName
from ivggt_jax.evaluate import study
from ivggt_jax.evaluate.__main__ import main
from ivggt_jax.evaluate.loops import Loops
from ivggt_jax.evaluate.options import MemoryOptions
from ivggt_jax.evaluate.records import Record, curves, measures, path_errors, run_walks, turning_factor
from ivggt_jax.evaluate.sensing import Sensing
from ivggt_jax.evaluate.stream import Stream, report_record
from ivggt_jax.evaluate.study_report import tables, write_study
from ivggt_jax.evaluate.trajectory import straight_line
from ivggt_jax.evaluate.walks import CHUNK, HELD_OUT_SEED, ROUTES, Walk, WalkPart, depth_errors
from ivggt_jax.geometry import cameras_from_pose
from ivggt_jax.memory.policies import POLICIES
from ivggt_jax.train import presets
from ivggt_jax.trajectories.alignment import inverse

CACHE = CacheConfig(total_budget=3 * 25 * 4, max_frames=20)


@pytest.fixture(scope="module")
def checkpoint(tiny: Model, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    save(tiny, folder)
    return str(folder)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    return exit.value.code


@pytest.mark.parametrize("route", ROUTES)
def test_parts_of_a_walk_join(route):
    """Frames 15 to 19 are the same from two parts; truth is finite, and there is depth where something stands."""
    walk = Walk(route, 3, 28, 42)
    first, second = walk.part(10, 10), walk.part(15, 10)
    np.testing.assert_allclose(second.world_from_cam[:5], first.world_from_cam[5:], rtol=0, atol=1e-5)
    assert np.abs(second.images[:5].astype(int) - first.images[5:]).mean() < 0.5
    assert first.images.dtype == np.uint8
    assert np.isfinite(first.world_from_cam).all()
    assert (first.depth > 0).mean() > 0.5
    assert first.images.std() > 5


def test_a_loop_comes_back_and_a_corridor_does_not():
    period = ROUTES["loop"].period
    loop, corridor = Walk("loop", 0, 28, 42), Walk("corridor", 0, 28, 42)
    np.testing.assert_allclose(
        loop.part(0, 10).world_from_cam, loop.part(25 * period, 10).world_from_cam, rtol=0, atol=1e-5
    )
    positions = [corridor.part(start, 10).world_from_cam[0, :, 3] for start in (0, 1000, 10_000)]
    assert np.linalg.norm(positions[1] - positions[0]) > 10
    assert np.linalg.norm(positions[2] - positions[0]) > 100


def test_a_remembered_part_is_not_rendered_again():
    walk = Walk("loop", 0, 28, 42, remember=True)
    assert walk.part(0, 10) is walk.part(0, 10)
    assert walk.part(0, 10) is not Walk("loop", 0, 28, 42).part(0, 10)


def camera_path(frames: int) -> np.ndarray:
    """world_from_cam [S,3,4] on a spiral, turning."""
    angle = np.linspace(0, 7, frames)
    path = np.zeros((frames, 3, 4))
    path[..., :3] = Rotation.from_euler("y", angle[:, None]).as_matrix()
    path[..., 3] = np.stack((np.cos(angle) * angle, np.sin(angle), 0.3 * angle), axis=1)
    return path


def record(found: np.ndarray, truth: np.ndarray) -> Record:
    frames = len(truth)
    return Record(
        name="loop-0", truth=truth, found=found, depth_error=np.full(frames, 0.25),
        constant_depth_error=np.full(frames, 0.5), depth_scale=np.full(frames, 2.0),
        milliseconds=np.where(np.arange(frames) < CHUNK, np.nan, 5.0), tokens=np.full(frames, 75),
        host_megabytes=np.full(frames, 100.0), state_bytes=3_000_000, clipped=0, cloud=None, loops=None,
        metric=None, parts=1, depth_delta=np.full(frames, 0.875), boundary_f1=np.full(frames, 0.125),
    )  # fmt: skip


def test_a_path_in_another_world_and_unit_has_no_error():
    truth = camera_path(150)
    turn = Rotation.from_euler("xyz", [0.3, 0.4, 0.5]).as_matrix()
    found = np.concatenate((turn @ truth[..., :3], 0.2 * (truth[..., 3] @ turn.T + 1)[..., None]), axis=-1)
    assert path_errors(found, truth) == pytest.approx((0, 0, 0), abs=1e-5)
    numbers = measures(record(found, truth), 150)
    assert numbers["position_error"] == pytest.approx(0, abs=1e-5)
    assert numbers["path_error_percent"] == pytest.approx(0, abs=1e-5)
    assert numbers["line_error_percent"] == 100 * path_errors(straight_line(100), truth[:100]).over_length > 5
    assert numbers["turning_factor"] == pytest.approx(1)
    assert (numbers["depth_error"], numbers["constant_depth_error"]) == (0.25, 0.5)
    assert (numbers["depth_delta"], numbers["boundary_f1"]) == (0.875, 0.125)
    assert (numbers["milliseconds"], numbers["state_megabytes"]) == (5, 3)
    assert "late_over_early" not in numbers


def test_known_errors():
    """Standing still is an error of 1; noise of a tenth of the spread is one of about 0.1 (seed 0); NaN is infinite."""
    truth = camera_path(500)
    still = np.tile(np.eye(3, 4), (500, 1, 1))
    assert path_errors(still, truth).over_spread == pytest.approx(1)
    spread = np.sqrt(np.sum(np.var(truth[..., 3], axis=0)))
    noisy = truth.copy()
    noisy[..., 3] += np.random.default_rng(0).normal(0, 0.1 * spread / np.sqrt(3), (500, 3))
    errors, length = path_errors(noisy, truth), np.linalg.norm(np.diff(truth[..., 3], axis=0), axis=1).sum()
    assert errors.over_spread == pytest.approx(0.1, rel=0.05)
    assert errors.over_length == pytest.approx(errors.over_spread * spread / length)
    noisy[7, 0, 0] = np.nan
    assert path_errors(noisy, truth) == (np.inf, np.inf, np.inf)


@pytest.mark.parametrize("factor", [1.0, 1.2, 0.9])
def test_turning_by_a_wrong_factor(factor: float):
    """A camera that turns about one axis, seen in a world that is turned itself."""
    angles = np.linspace(0, 2, 50)[:, None]
    truth, found = (np.tile(np.eye(3, 4), (50, 1, 1)) for _ in range(2))
    truth[..., :3] = Rotation.from_euler("y", angles).as_matrix()
    world = Rotation.from_euler("xyz", [0.3, 0.4, 0.5])
    found[..., :3] = (world * Rotation.from_euler("y", factor * angles)).as_matrix()
    assert turning_factor(found, truth) == pytest.approx(factor)
    assert np.isnan(turning_factor(found[:3], truth[:3]))
    assert np.isnan(turning_factor(found, np.tile(truth[:1], (50, 1, 1))))
    found[7, 0, 0] = np.nan
    assert np.isinf(turning_factor(found, truth))


def test_late_errors_over_early_ones():
    """Depth errors of 0.2 at frames 50 to 99, 0.3 from 1,000 on; a unit that halves between is a drift of ln(2)/2."""
    truth = camera_path(1100)
    frame = np.arange(1100)
    changed = replace(
        record(truth, truth),
        depth_error=np.where(frame < 1000, np.where((frame >= 50) & (frame < 100), 0.2, 0.9), 0.3),
        depth_scale=np.where(frame < 550, 2.0, 4.0),
    )
    numbers = measures(changed, 1100)
    assert numbers["late_over_early"] == pytest.approx(1.5)
    assert numbers["scale_drift"] == pytest.approx(np.log(2) / 2)


def test_depth_after_one_scale_for_ten_frames():
    """Truth of 1 and 3 metres, in equal parts. Predicted 20 times too small in the first ten frames, 5 in the next two.

    The best constant is anything from 1 to 3 by absolute error, by AbsRel at least a third; without truth it is unknown.
    """
    truth = np.tile(np.array([[1.0, 3.0]], np.float32), (12, 4, 5))
    truth[11] = 0
    depth = np.concatenate((truth[:10] / 20, np.tile(truth[:1], (2, 1, 1)) / 5))
    errors = depth_errors(depth, truth)
    np.testing.assert_allclose(errors.abs_rel[:11], 0, atol=1e-6)
    np.testing.assert_allclose(errors.scale, [20] * 10 + [5] * 2, rtol=1e-6)
    np.testing.assert_array_equal(errors.delta[:11], 1)
    assert np.isnan([errors.abs_rel[11], errors.delta[11]]).all()
    part = WalkPart(np.zeros((12, 4, 10, 3), np.uint8), truth, np.zeros((12, 3, 4)))
    assert (part.constant_depth_error[:11] >= 1 / 3 - 1e-6).all()
    depth[0, 0, 0] = np.nan
    broken = depth_errors(depth, truth)
    assert np.isinf(broken.abs_rel[:10]).all() and not broken.delta[:10].any()
    assert np.isnan(depth_errors(depth[:5], np.zeros_like(truth[:5])).abs_rel).all()


def test_frames_of_a_walk_may_be_spoilt():
    """Colours change, whichever part is rendered; truth does not, and the name tells."""
    clean, dark = (Walk("loop", 3, 28, 42, defect=defect) for defect in ("none", "dark"))
    whole, spoilt = clean.part(0, 10), dark.part(0, 10)
    assert (clean.name, dark.name) == ("loop-3", "loop-3-dark")
    assert spoilt.images.mean() == pytest.approx(0.4 * whole.images.mean(), rel=0.02)
    np.testing.assert_array_equal(spoilt.depth, whole.depth)
    noisy = Walk("loop", 3, 28, 42, defect="noise")
    first, second = noisy.part(0, 10).images, noisy.part(5, 10).images
    assert np.abs(first[5:].astype(int) - second[:5]).mean() < 0.5 < np.abs(first.astype(int) - whole.images).mean()


def test_drift_shows_in_all_frames_and_not_in_the_last_hundred():
    """The predicted path bends slowly away; a break in the middle shows locally only while it is among the last hundred."""
    truth = camera_path(600)
    found = truth.copy()
    found[300:, :, 3] += 5
    drawn = curves(record(found, truth))
    so_far, local = (drawn[name] for name in list(drawn)[:2])
    assert all(len(values) == 600 for values in drawn.values())
    assert so_far[:300].max() < 1e-6
    assert so_far[320:].min() > 0.1
    assert local[350] > 0.1
    assert local[420:].max() < 1e-6
    assert measures(record(found, truth), 300)["position_error"] < 1e-6


def test_records_of_streams(tiny: Model):
    """15 frames of a walk, fed in two chunks, equal the public `stream`; budgets hold; a clock ran from the second chunk on."""
    walk = Walk("loop", 0, 56, 70)
    (found,) = run_walks(tiny, CACHE, [walk], 15)
    part = walk.part(0, 10)
    expected = [p.pose_encoding for p in stream(tiny, part.images[:5], CACHE, heads=("camera", "depth"))]
    cameras = np.asarray(cameras_from_pose(np.stack(expected), 56, 70)[0], np.float64)
    np.testing.assert_allclose(found.found[:5], inverse(cameras), rtol=0, atol=1e-4)
    np.testing.assert_array_equal(found.truth[:10], part.world_from_cam)
    assert len(found.truth) == len(found.depth_error) == len(found.tokens) == 15
    assert found.tokens.max() <= CACHE.total_budget
    assert np.isnan(found.milliseconds[:CHUNK]).all()
    assert (found.milliseconds[CHUNK:] > 0).all()
    assert np.isfinite(found.depth_error).all()


def test_the_stream_command(checkpoint, tmp_path, capsys):
    options = ("--cache.total-budget", str(CACHE.total_budget), "--out", str(tmp_path))
    arguments = ("--checkpoint", checkpoint, "--routes", "loop", "--seeds", "0", "--frames", "20", *options)
    assert run("stream", *arguments) == 0
    table = capsys.readouterr().out
    assert "alignment sim3 of paths, one scale for every 10 frames of depth" in table
    assert re.search(r"loop-0 .*\d\.\d{4}", table)
    written = json.loads((tmp_path / "loop-0.json").read_text())
    assert written["settings"]["total budget"] == CACHE.total_budget
    assert all(len(values) == 20 for values in written["curves"].values())
    assert "<svg" in (tmp_path / "report.html").read_text()


def test_a_camera_that_is_lost_for_good_is_reported(tiny: Model):
    """Without the picture of its path; its errors are infinite."""
    (record,) = run_walks(tiny, CACHE, [Walk("loop", 0, 56, 70)], 10)
    lost = record.found.copy()
    lost[7] = np.nan
    assert "camera path" in report_record(record, CACHE).figures
    report = report_record(replace(record, found=lost), CACHE)
    assert "camera path" not in report.figures and report.measures["position_error"] == np.inf


def test_frames_of_another_size(checkpoint, tmp_path, capsys):
    options = ("--routes", "loop", "--seeds", "0", "--frames", "10", "--cache.total-budget", "132", "--submaps", "off")
    assert run("stream", "--checkpoint", checkpoint, "--size", "42", *options, "--out", str(tmp_path)) == 0
    assert "10 frames of 42×28" in capsys.readouterr().out
    with pytest.raises(ValueError, match="size 50 must be a multiple of 14; the nearest is 56"):
        Stream(size=50)


@pytest.mark.parametrize("options", [Stream, Sensing, study.Study])
@pytest.mark.parametrize("wrong", [{"routes": ("loop", "street", "loop")}, {"seeds": (7, 7)}, {"routes": ()}])
def test_every_walk_is_named_once(options, wrong):
    """Its file would be written twice: an error after hours of measuring."""
    with pytest.raises(ValueError, match="need an entry, and none twice"):
        options(**wrong)


def test_frames_of_a_pass_make_up_a_chunk():
    for options in (Stream, Sensing):
        with pytest.raises(ValueError, match="chunks of 10 frames: cache.frames_per_step must divide that, not be 4"):
            options(memory=MemoryOptions(cache=CacheConfig(frames_per_step=4)))


STUDY = (
    "--lengths",
    "20",
    "--budgets",
    "3",
    "--routes",
    "loop",
    "--seeds",
    "0",
    "--only",
    "offline",
    "diversity, 3 frames",
)


def test_the_study_command_takes_up_where_it_was(checkpoint, tmp_path, capsys, monkeypatch):
    """Two cells; a second run measures nothing, and after a changed setting only what that concerns."""
    arguments = ("study", "--checkpoint", checkpoint, "--out", str(tmp_path), *STUDY)
    assert run(*arguments) == 0
    text = (tmp_path / "tables.md").read_text()
    assert re.search(r"\| offline \| \d\.\d{3} .*\| – \| 0.0 \|", text)
    assert re.search(r"\| diversity, 3 frames \| \d\.\d{3} ", text)
    for plot in tmp_path.glob("*.svg"):
        assert ElementTree.parse(plot).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    assert {path.stem for path in tmp_path.glob("*.svg")} == {"drift_by_place", "drift_by_content", "depth", "time"}

    def measured(*_):
        raise OSError("measured anew")

    monkeypatch.setattr(study, "run_walks", measured)
    assert run(*arguments) == 0
    assert (tmp_path / "tables.md").read_text() == text
    assert run(*arguments[:-1]) == 0
    assert (tmp_path / "tables.md").read_text() == text, "what was kept is shown, asked for or not"
    assert run(*arguments[:-3], "--budgets", "4", "--only", "offline", "diversity, 4 frames") == 1
    assert "measured anew" in capsys.readouterr().err
    cell = tmp_path / "cells" / "diversity_3-frames.json"
    cell.write_text(cell.read_text()[:-20])
    assert run(*arguments) == 1, "a damaged file is no result"


def test_a_map_with_loops_is_measured_at_its_end(tiny: Model, monkeypatch):
    """Its shorter lengths would know loops that came later; depth is that of the corrected map."""
    (record,) = run_walks(tiny, CACHE, [Walk("loop", 0, 56, 70)], 10)
    loops = Loops(record.found + 1, np.linspace(1, 2, 10), 0, 0, 0)
    monkeypatch.setattr(study, "run_walks", lambda *_: [replace(record, loops=loops)])
    cell = next(cell for cell in study.cells(study.Study(), 318) if cell.loops)
    found = study._records(tiny, cell, [], [5, 10])
    assert list(found) == [10]
    np.testing.assert_array_equal(found[10][0].found, loops.corrected)
    np.testing.assert_allclose(found[10][0].depth_scale * loops.scales, record.depth_scale)


@pytest.mark.parametrize("full", [False, True])
def test_cells_of_a_study(full):
    """Every policy at every budget; names, files and settings are all different."""
    config = replace(study.Study(), full=full)
    cells = list(study.cells(config, 318))
    budgets = (6,) if full else config.budgets
    assert {f"{policy}, {n} frames" for policy in POLICIES for n in budgets} <= {cell.name for cell in cells}
    assert len({study._file(Path(), cell) for cell in cells}) == len(cells)
    assert len({(cell.cache, cell.submaps, cell.loops) for cell in cells}) == len(cells)
    assert len(cells) == (7 if full else 2 + 14 + 9 + 7)


def test_no_training_has_these_seeds():
    assert HELD_OUT_SEED == presets.HELD_OUT_SEED


def test_a_study_without_such_a_cell(checkpoint, tmp_path, capsys):
    assert run("study", "--checkpoint", checkpoint, "--out", str(tmp_path), "--only", "recency") == 1
    assert "no cell recency; known: offline; unbounded;" in capsys.readouterr().err


@pytest.mark.parametrize("fields", [{"lengths": (300, 100)}, {"lengths": (2,)}, {"lengths": ()}, {"budgets": ()}])
def test_studies_that_make_no_sense(fields):
    with pytest.raises(ValueError, match="lengths|budgets"):
        study.Study(**fields)


def test_tables_and_plots_of_known_numbers(tmp_path):
    """Two streams: the mean, and a dash where one of them is not finite."""
    numbers = {"position_error": 0.2, "path_error_percent": 1.5, "rotation_error_degrees": 3.0, "scale_drift": 0.25}
    numbers |= {"depth_error": 0.05, "constant_depth_error": 0.4, "milliseconds": 4.0, "state_megabytes": 2.0}
    other = {**numbers, "position_error": 0.4, "rotation_error_degrees": None}
    worse = {**numbers, "position_error": 0.5}
    curve = {"position error, all frames so far": [0.1, 0.2], "depth error (AbsRel)": [0.3, 0.1]}
    curve |= {"time per frame (ms)": [None, 4.0]}
    result = {
        "group": "policies",
        "settings": {"walks": ["loop-0", "loop-1"], "lengths": [10, 20], "size": [84, 112], "device": "cpu"},
        "measures": {"10": {"loop-0": numbers, "loop-1": numbers}, "20": {"loop-0": numbers, "loop-1": other}},
        "curves": {"loop-0": curve, "loop-1": curve},
    }
    # After 10 frames one stream errs by 0.3 more, the other by 0.2: 0.25 ± 0.05.
    measures = {**result["measures"], "10": {"loop-0": worse, "loop-1": other}}
    row = "| 0.200 | – | 0.300 | – | 1.50 | – | 0.0500 | – | 0.250 | 4.0 | 2.0 |"
    changed = "| 0.450 | +0.250 ± 0.050 | 0.300 | – | 1.50 | – | 0.0500 | – | 0.250 | 4.0 | 2.0 |"
    text = tables({"diversity, 8 frames": result, "no anchor": {**result, "group": "options", "measures": measures}}, 8)
    assert "Means over 2 streams (loop-0, loop-1) of 84×112 pixels" in text
    assert "the best constant depth's is 0.4000" in text
    policies, options = text.split("### options")
    assert f"| diversity, 8 frames {row}" in policies
    assert f"| diversity, 8 frames {row}\n| no anchor {changed}" in options
    shorter = {**result, "group": "references", "measures": {"10": result["measures"]["10"]}}
    text = tables({"diversity, 8 frames": result, "offline": shorter}, 8)
    assert "| offline, 10 frames | 0.200 | – | – | 3.0 |" in text
    at_the_end = {**result, "group": "maps", "measures": {"20": result["measures"]["20"]}}
    text = tables({"loops closed": at_the_end}, 8)  # before there is anything to compare with
    assert "| loops closed | – | – | 0.300 | – | 1.50 | – |" in text
    write_study(tmp_path, {"diversity, 8 frames": result}, 8)
    assert ElementTree.parse(tmp_path / "time.svg").getroot().find("{*}polyline") is not None


def test_policies_are_offered_by_name():
    assert set(get_args(PolicyName)) == set(POLICIES)
