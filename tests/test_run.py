"""Training runs: what they leave, that they go on where they stopped, and what bad batches do.

Eight steps on noise (see small_training.py), four clips of 3 frames of 28×28, one device. "The same" is to the bit.
"""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import small_training
from small_training import SMALL, STEPS, config

import ivggt_jax.train.journal
from ivggt_jax import load, save
from ivggt_jax.convert import from_torch
from ivggt_jax.convert.command import export_file
from ivggt_jax.convert.torch_file import open_tensors
from ivggt_jax.model.parameters import flatten
from ivggt_jax.runs.output_folder import Busy, locked
from ivggt_jax.train.distill import StepConfig
from ivggt_jax.train.losses import LossConfig
from ivggt_jax.train.training import _source
from ivggt_jax.weights.checkpoint import CheckpointError
from ivggt_jax.weights.loading import identify

SCRIPT = Path(small_training.__file__)


def entries(out: Path) -> list[dict]:
    """Of metrics.jsonl, without what depends on the clock."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "clips_per_second"} for line in lines]


def lines(out: Path) -> int:
    """Of metrics.jsonl, which may not be there yet."""
    path = out / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def start(out: Path, *options: str) -> subprocess.Popen:
    """The same run in a process of its own, with the compiled programs of this one."""
    environment = os.environ | {
        "PYTHONPATH": str(SCRIPT.parents[1]),
        "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
    }
    return subprocess.Popen([sys.executable, str(SCRIPT), str(out), *options], env=environment, stderr=subprocess.PIPE)


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("reference")
    small_training.train(config(out))
    return out


def assert_same_end(out: Path, reference: Path) -> None:
    assert entries(out) == entries(reference)
    for name in ("student", "best"):
        ours, theirs = (flatten(load(folder / name).params) for folder in (out, reference))
        for path, x in theirs.items():
            np.testing.assert_array_equal(ours[path], x, err_msg=path)


def test_a_run_leaves_students_metrics_pictures_and_its_configuration(reference: Path) -> None:
    found = entries(reference)
    assert [line["step"] for line in found if line["split"] == "train"] == list(range(1, STEPS + 1))
    evaluations = {line["step"]: line["error"] for line in found if line["split"] == "evaluation"}
    assert list(evaluations) == [4, 8]
    first, *_, last = (line["loss"] for line in found if line["split"] == "train")
    assert last < 0.95 * first  # Of the same clips.
    assert {"gradient_norm", "learning_rate", "task/depth", "distill/camera_rotation"} <= found[0].keys()
    assert sorted(path.name for path in (reference / "images").iterdir()) == [
        "depth_00000004.png", "depth_00000008.png",
    ]  # fmt: skip
    assert sorted(path.name for path in (reference / "checkpoints").iterdir()) == ["6", "8"]
    written = json.loads((reference / "config.json").read_text())
    assert written["run"]["steps"] == STEPS and written["model"]["width"] == SMALL.width
    start, newest, best = (flatten(load(reference / name).params) for name in ("teacher", "student", "best"))
    assert not np.array_equal(newest["camera/empty_pose"], start["camera/empty_pose"])
    same = all(np.array_equal(best[path], x) for path, x in newest.items())
    assert same == (min(evaluations, key=evaluations.__getitem__) == STEPS)


def test_students_inherit_the_licence_of_what_they_come_from(reference: Path, tmp_path: Path) -> None:
    """Of a checkpoint to start from and of a teacher; fresh weights and a teacher that is not used have none."""
    assert identify(reference / "best").licence == "noise: for tests alone"
    alone = config(reference, step=StepConfig(loss=LossConfig(task_weight=1.0, distillation_weight=0.0)))
    assert _source(dataclasses.replace(alone, student="random:tiny")).licence is None
    assert _source(alone).licence == "noise: for tests alone"
    student = config(tmp_path, student=str(reference / "best"), teacher=str(reference / "teacher"))
    found = _source(student)
    assert found.name == tmp_path.name
    assert found.licence == f"{reference.name}: noise: for tests alone; noise: for tests alone"


def test_a_finished_run_is_left_as_it_is(reference: Path) -> None:
    before = (reference / "metrics.jsonl").read_bytes()
    assert small_training.train(config(reference)) == reference / "best"
    assert (reference / "metrics.jsonl").read_bytes() == before


def test_a_folder_keeps_the_options_of_its_run(reference: Path) -> None:
    """Others would not be used, but recorded; how often it is saved and looked at may change."""
    before = (reference / "config.json").read_bytes()
    other = config(reference)
    other = dataclasses.replace(
        other, seed=7, step=dataclasses.replace(other.step, heads=("camera", "depth", "points"))
    )
    with pytest.raises(
        ValueError, match=r"begun with .*seed 0, not 7; .*step.heads .*: give its options to continue it"
    ):
        small_training.train(other)
    assert (reference / "config.json").read_bytes() == before
    small_training.train(dataclasses.replace(config(reference), save_every=1))


def test_what_cannot_be_judged_or_taught_is_refused(reference: Path, tmp_path: Path) -> None:
    """Not after the first thousands of steps."""
    blind = load(reference / "best").only_heads(["camera"])
    save(blind, tmp_path / "blind")
    step = config(tmp_path).step
    alone = dataclasses.replace(step, heads=("camera",))
    with pytest.raises(ValueError, match="judged by their heads camera and depth: step.heads lack depth"):
        small_training.train(config(tmp_path / "run", student=str(tmp_path / "blind"), step=alone))
    taught = dataclasses.replace(step, heads=("camera", "depth"), loss=LossConfig())
    with pytest.raises(ValueError, match="blind cannot teach depth, which it lacks"):
        small_training.train(config(tmp_path / "other", teacher=str(tmp_path / "blind"), step=taught))
    with pytest.raises(ValueError, match="teacher cannot teach a student with depth_input: it takes no depth"):
        small_training.train(config(tmp_path / "told", teacher=str(reference / "teacher"), depth_input=True))


def test_a_runs_folder_is_no_checkpoint_but_has_one(reference: Path) -> None:
    with pytest.raises(CheckpointError, match=f"{reference} is a training run: its best student is {reference}/best"):
        load(reference)


def test_the_student_goes_to_pytorch_and_back(reference: Path, tmp_path: Path) -> None:
    export_file(reference / "best", tmp_path / "student.pth")
    returned = from_torch(open_tensors(tmp_path / "student.pth"), SMALL, dtype=np.float32)
    for path, x in flatten(load(reference / "best").params).items():
        np.testing.assert_array_equal(flatten(returned.params)[path], x)


def test_a_stopped_run_saves_and_goes_on(reference: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        small_training.train(config(tmp_path), stop_at=4)
    done = entries(tmp_path)[-1]["step"]
    assert done < STEPS and (tmp_path / "checkpoints" / str(done)).exists()
    small_training.train(config(tmp_path))
    assert_same_end(tmp_path, reference)


def test_a_run_killed_while_it_saves_goes_on_to_the_same_end(reference: Path, tmp_path: Path) -> None:
    process = start(tmp_path, "--die-while-saving", "4")
    errors = process.communicate(timeout=600)[1]
    assert process.returncode == -signal.SIGKILL, errors
    half = tmp_path / "best" / ".part"  # as a kill while the student is saved leaves it
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    small_training.train(config(tmp_path))
    assert_same_end(tmp_path, reference)
    assert {path.name for path in (tmp_path / "best").iterdir()} == {"config.json", "model.safetensors"}


@pytest.mark.slow
def test_a_run_killed_ten_times_goes_on_to_the_same_end(tmp_path: Path) -> None:
    """Sixty steps. A kill comes one to three entries of the log after the last, and up to 0.3 s later (seed 0)."""
    random = np.random.default_rng(0)
    out, reference = tmp_path / "killed", tmp_path / "reference"
    small_training.train(config(reference, steps=60))
    for _ in range(10):
        wanted = lines(out) + random.integers(1, 4)
        process = start(out, "--steps", "60")
        while process.poll() is None and lines(out) < wanted:
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.3))
        process.kill()
        errors = process.communicate()[1]
        assert process.returncode == -signal.SIGKILL, errors
    assert 10 < lines(out) < lines(reference)
    small_training.train(config(out, steps=60))
    assert_same_end(out, reference)


def test_a_batch_without_a_finite_loss_is_named_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_training.train(config(tmp_path), spoilt=(2,))
    (line,) = re.findall(r"step 3: loss nan.*", capsys.readouterr().err)
    assert "batch left out: noise 2, clip 0; noise 2, clip 1" in line
    steps = [line["step"] for line in entries(tmp_path) if line["split"] == "train"]
    assert steps == [1, 2, *range(4, STEPS + 1)]
    assert all(line["loss"] is not None for line in entries(tmp_path) if line["split"] == "train")


def test_many_such_batches_end_the_run_with_the_last_good_checkpoint(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ivggt_jax.train.journal, "MOST_BAD", 3)
    with pytest.raises(FloatingPointError, match="3 batches in a row had no finite loss, the last at step 6"):
        small_training.train(config(tmp_path), spoilt=(3, 4, 5, 6, 7))
    small_training.train(config(tmp_path))
    assert np.isfinite(entries(tmp_path)[-1]["abs_rel"])


def test_two_runs_do_not_share_a_folder(reference: Path) -> None:
    """The second would remove what the first is writing."""
    with locked(reference), pytest.raises(Busy, match="another run is writing to"):
        small_training.train(config(reference))


def test_a_run_that_has_done_more_steps_is_an_error(reference: Path) -> None:
    with pytest.raises(ValueError, match=r"has done \d+ steps already, more than --steps 2"):
        small_training.train(config(reference, steps=2))


def test_a_folder_with_another_run_is_an_error(reference: Path) -> None:
    step = config(reference).step
    step = dataclasses.replace(step, optimizer=dataclasses.replace(step.optimizer, frozen=()))
    with pytest.raises(ValueError, match="a run that was begun with step.optimizer.frozen"):
        small_training.train(config(reference, step=step))


def test_settings_out_of_range_are_errors(tmp_path: Path) -> None:
    for wrong in ({"steps": 0}, {"save_every": 0}, {"keep": 0}, {"teacher": None}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            config(tmp_path, **wrong)
    with pytest.raises(ValueError, match="random weights come in the sizes demo, tiny, vggt_1b"):
        small_training.train(config(tmp_path, student="random:huge"))
