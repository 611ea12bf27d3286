"""The command: its presets, the data they ask for, and a run of two steps that continues a checkpoint."""

import json
import re
import shlex
import subprocess
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import jax
import numpy as np
import pytest
from small_training import SMALL, random_model

from ivggt_jax import load, save
from ivggt_jax.model.parameters import flatten
from ivggt_jax.train import __main__ as command
from ivggt_jax.train.__main__ import held_out_batches, main, training_batches
from ivggt_jax.train.data.datasets import DATASETS
from ivggt_jax.train.distill import Plan, init_state
from ivggt_jax.train.mesh import make_mesh
from ivggt_jax.train.optimizer import partition
from ivggt_jax.train.presets import HELD_OUT_SEED, PRESETS, TrainConfig
from ivggt_jax.train.start import extended

SIZE = ("--synthetic.width", "28", "--synthetic.height", "28", "--synthetic.frames", "3", "3")
"""Of images that the small network takes."""
ALL = [(objective, name) for objective, presets in PRESETS.items() for name in presets]


def preset(objective: str, name: str) -> TrainConfig:
    return PRESETS[objective][name][1]


@pytest.mark.parametrize(("objective", "name"), ALL)
def test_presets_do_what_their_objective_says(objective: str, name: str) -> None:
    config = preset(objective, name)
    assert (config.teacher is not None) == (objective == "distill") == (config.step.loss.distillation_weight > 0)
    model = extended(random_model(0), config.step.heads, config.depth_input, jax.random.key(0))
    trained, _ = partition(model.params, config.step.optimizer.frozen)
    modules = {path.split("/")[0] for path in flatten(trained)}
    heads = {"tracks": "tracker"}
    asked = {heads.get(head, head) for head in config.step.heads}
    asked = {"aggregator"} if config.depth_input else asked  # by way of frozen heads
    assert asked <= modules, "what is to be trained is frozen"


def test_what_the_demo_model_has_stays_as_it_is() -> None:
    """Told depth and taught what moves, it is trained in what is new alone."""
    for name, new in (("demo_rgbd", "aggregator/depth_patches"), ("demo_motion", "motion")):
        config = preset("supervised", name)
        model = extended(random_model(0), config.step.heads, config.depth_input, jax.random.key(0))
        plan = Plan(step=config.step, model=model.config, mesh=make_mesh(), updates=10, sensed=config.depth_input)
        trained = flatten(jax.eval_shape(partial(init_state, plan), model).trainable)
        assert trained and all(path.startswith(f"{new}/") for path in trained)
        assert config.student == "demo" and not flatten(random_model(0).params).keys() & trained.keys()


def test_a_depth_input_without_depth_is_frozen() -> None:
    """Weight decay alone would shrink it."""
    config = preset("supervised", "demo_steps_12")
    model = extended(random_model(0), config.step.heads, True, jax.random.key(0))
    for sensed in (False, True):
        plan = Plan(step=config.step, model=model.config, mesh=make_mesh(), updates=10, sensed=sensed)
        state = jax.eval_shape(partial(init_state, plan), model)
        assert any("depth_patches" in path for path in flatten(state.trainable)) == sensed


def test_frames_are_whole_patches() -> None:
    """Otherwise the first step fails with a traceback, after the student has been loaded."""
    config = preset("supervised", "demo_worlds")
    for changes in (
        {"synthetic": replace(config.synthetic, width=100)},
        {"synthetic": replace(config.synthetic, scales=(1.0, 0.25))},
        {"recorded": replace(config.recorded, resolutions=((224, 160),))},
        {"recorded": replace(config.recorded, resolutions=((0, 14),))},
    ):
        with pytest.raises(ValueError, match="both sides must be multiples of 14"):
            replace(config, **changes)


def test_workers_load_what_was_recorded() -> None:
    """Rendering would take a device in each of them."""
    with pytest.raises(ValueError, match="workers load recorded data"):
        replace(preset("supervised", "demo"), workers=2)


def test_data_are_named_by_any_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Colons and = in it are its own; a weight is a number after the last colon."""
    opened = []
    monkeypatch.setitem(DATASETS, "tum", lambda root, split: opened.append(root))
    monkeypatch.setattr(command, "clips", lambda footage: footage)
    names = ("tum=/d/10:30:00/tum", "tum=/d/10:30:b:0.5", "tum=/d/c:2", "/d/run=3/videos", "videos")
    found = command._datasets(replace(preset("distill", "published"), teacher="t", data=names), "train")
    assert opened == [Path("/d/10:30:00/tum"), Path("/d/10:30:b"), Path("/d/c")]
    assert found == [(None, 1), (None, 0.5), (None, 2), ([Path("/d/run=3/videos"), Path("videos")], 1)]


def test_a_depth_input_needs_the_head_that_gives_its_unit() -> None:
    with pytest.raises(ValueError, match="depth_input needs depth among step.heads"):
        replace(preset("supervised", "demo_heads"), depth_input=True)


def test_ground_truth_asks_for_no_tracks() -> None:
    """So that bodies may move in its scenes."""
    for name in ("published", "long"):
        config = preset("supervised", name)
        assert replace(config.synthetic, bodies=3).bodies == 3 and not config.recorded.query_points


def test_what_moves_is_told_by_rendered_bodies_alone() -> None:
    config = preset("supervised", "demo_motion")
    still = replace(config.synthetic, bodies=0)
    for changes in ({"data": ("tum=/data/tum",)}, {"synthetic": still}):
        with pytest.raises(ValueError, match="of ground truth only synthetic.bodies, at least 1 and without data"):
            replace(config, **changes)


def test_recordings_have_the_size_of_the_model() -> None:
    for objective, name in ALL:
        config = preset(objective, name)
        if name.startswith("demo"):
            assert config.recorded.resolutions == ((config.synthetic.width, config.synthetic.height),)
        else:
            assert all(max(size) == 518 for size in config.recorded.resolutions)


def test_runs_have_folders_of_their_own() -> None:
    folders = [preset(*names).out for names in ALL]
    assert len(set(folders)) == len(folders)


def test_the_script_runs_each_stage_after_the_one_that_it_starts_from() -> None:
    script = Path(__file__).parents[1] / "examples" / "train_demo.sh"
    subprocess.run(["sh", "-n", script], check=True)
    made: list[str] = []
    for line in script.read_text().replace("\\\n", "").splitlines():
        words = shlex.split(line, comments=True)
        if words[:2] == ["ivggt", "train"]:
            config = preset(*words[2:4])
            options = dict(pairwise(words[4:]))
            student, out = options.get("--student", config.student), options.get("--out", str(config.out))
            assert student in (f"{made[-1]}/best", f"{made[-1]}/student") if made else student == "random:demo"
            made.append(out)
        elif words[:2] == ["ivggt", "convert"]:
            assert words[2] == f"{made[-1]}/best"
    assert len(made) == 10


def test_the_demo_model_is_made_stage_by_stage() -> None:
    """Each starts from the best of the one before; the last trains point head and tracker, which the others leave alone."""
    names = ("demo", "demo_wide", "demo_worlds", "demo_sharp", "demo_heads")
    teacher, wide, worlds, sharp, heads = (preset("supervised", name) for name in names)
    student = preset("distill", "demo")
    assert student.student == student.teacher == str(teacher.out / "best")
    assert wide.student == str(student.out / "best") and worlds.student == str(wide.out / "best")
    assert sharp.student == str(worlds.out / "best") and heads.student == str(sharp.out / "best")
    assert teacher.step.mode == "offline" and set(teacher.step.heads) == {"camera", "depth"}
    for stage in (student, wide, worlds, sharp):
        assert stage.step.mode == "causal" and set(stage.step.heads) == {"camera", "depth"}
        assert stage.step.optimizer.frozen == student.step.optimizer.frozen
    assert set(heads.step.heads) == {"points", "tracks"}
    params = random_model(0).params
    first, _ = partition(params, student.step.optimizer.frozen)
    second, _ = partition(params, heads.step.optimizer.frozen)
    assert not flatten(first).keys() & flatten(second).keys()
    assert flatten(first).keys() | flatten(second).keys() == flatten(params).keys()


@pytest.mark.slow
def test_held_out_clips_are_none_that_training_draws() -> None:
    config = preset("distill", "demo")
    small = replace(config.synthetic, width=28, height=28, frames=(3, 4), batch_size=2)
    config = replace(config, synthetic=small, evaluation_clips=4)
    held_out = held_out_batches(config, slice(None))
    assert len(held_out) == 2 and all(batch.arrays["images"].shape == (2, 4, 28, 28, 3) for batch in held_out)
    training = training_batches(config, slice(None))
    assert not np.array_equal(training[0].arrays["images"][:, :3], held_out[0].arrays["images"][:, :3])
    with pytest.raises(ValueError, match="others are for held-out clips"):
        replace(config, seed=HELD_OUT_SEED)


@pytest.mark.slow
def test_the_last_stage_trains_the_point_head_and_the_tracker_alone(tmp_path: Path) -> None:
    """Two steps, from a random network of the small shape."""
    save(random_model(0), tmp_path / "student")
    with pytest.raises(SystemExit) as left:
        main([
            "supervised", "demo_heads", "--student", str(tmp_path / "student"), "--out", str(tmp_path / "out"),
            "--steps", "2", "--log-every", "1", "--evaluation-clips", "2", *SIZE,
            "--synthetic.query-points", "3", "--threads", "1",
        ])  # fmt: skip
    assert left.value.code == 0
    before, after = (flatten(load(tmp_path / name).params) for name in ("student", "out/best"))
    changed = {path.split("/")[0] for path in before if not np.array_equal(before[path], after[path])}
    assert changed == {"points", "track_features", "tracker"}
    entries = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries] == [1, 2, 2]
    assert {"task/points", "task/tracks"} <= entries[0].keys() and "task/depth" not in entries[0]
    assert np.isfinite(entries[-1]["point_error"])
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model"]["width"] == SMALL.width


def test_the_command_lists_its_presets(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    printed = capsys.readouterr().out
    assert all(re.search(rf"^  {objective} {name} ", printed, re.MULTILINE) for objective, name in ALL)
    with pytest.raises(SystemExit) as left:
        main(["teach"])
    assert left.value.code == 2


def test_data_that_cannot_be_used_are_errors() -> None:
    config = replace(preset("supervised", "published"), data=("nowhere=folder",))
    with pytest.raises(ValueError, match="no dataset is called nowhere; there are arkitscenes, co3d, scannet"):
        training_batches(config, slice(None))
    with pytest.raises(ValueError, match="query_points of the data must be at least 1"):
        replace(preset("supervised", "demo_heads"), synthetic=preset("distill", "demo").synthetic)
    with pytest.raises(ValueError, match="tracks, which recorded data do not have"):
        replace(preset("supervised", "demo_heads"), data=("tum=folder",), recorded=preset("distill", "long").recorded)
