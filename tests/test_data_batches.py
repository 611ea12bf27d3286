"""Batches as a pure function of the step, and their way through the loader."""

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from ivggt_jax.train.data.batches import ATTEMPTS, Batch, ClipBatches, ClipConfig
from ivggt_jax.train.data.loader import Loader
from ivggt_jax.train.data.sampling import Sampling
from ivggt_jax.train.data.scene import Dataset, LabelledFrame, Scene, open_scenes
from ivggt_jax.train.stopping import SIGNALS

STEPS = 12


class Memory(Scene):
    """Frames made up from the scene's name and position; some cannot be read."""

    def __init__(self, place: Path, length: int = 30, broken: tuple[int, ...] = ()):
        self.name, self._length, self._broken = place.name, length, broken

    def __len__(self) -> int:
        return self._length

    def frame(self, position: int) -> LabelledFrame:
        if position in self._broken:
            raise OSError(f"frame {position} is damaged")
        pixels = np.random.default_rng([len(self.name), position]).integers(0, 256, (60, 80, 3), np.uint8)
        intrinsics = np.array([[70.0, 0, 40], [0, 70, 30], [0, 0, 1]])
        pose = np.eye(4)
        pose[0, 3] = position
        return LabelledFrame(Image.fromarray(pixels), np.full((60, 80), 2.0), pose, intrinsics)


def dataset(name: str = "memory", scenes: int = 3, **options: object) -> Dataset:
    places = [Path(f"{name}{'x' * i}") for i in range(scenes)]
    return open_scenes(name, places, lambda place: Memory(place, **options), Sampling(max_interval=4))


def config(**changes: object) -> ClipConfig:
    defaults = {"batch_size": 3, "frames": (2, 4), "resolutions": ((28, 42), (42, 28)), "weights": (1, 1)}
    return ClipConfig(**defaults | changes)


def source(seed: int = 0, rows: slice = slice(None), broken: tuple[int, ...] = (7,), **changes: object) -> ClipBatches:
    return ClipBatches(config(**changes), [(dataset(broken=broken), 1.0)], STEPS, seed, rows)


def assert_equal(a: Batch, b: Batch) -> None:
    assert a.names == b.names and a.skipped == b.skipped
    jax.tree.map(np.testing.assert_array_equal, a.arrays, b.arrays)


def test_a_step_always_has_the_same_batch() -> None:
    batches, again, other = source(), source(), source(seed=1)
    for step in (7, 0, 3):
        assert_equal(batches[step], again[step])
        assert batches[step].names != other[step].names
    assert len({source()[step].names for step in range(STEPS)}) == STEPS


def test_processes_share_a_batch_by_rows() -> None:
    for step in range(4):
        whole, first, rest = (source(rows=rows)[step] for rows in (slice(None), slice(1), slice(1, None)))
        assert first.names + rest.names == whole.names
        for name, array in whole.arrays.items():
            np.testing.assert_array_equal(np.concatenate([first.arrays[name], rest.arrays[name]]), array)


def test_size_and_length_vary_by_batch() -> None:
    shapes = {source(color_jitter=False)[step].arrays["images"].shape for step in range(STEPS)}
    assert {shape[1] for shape in shapes} == {2, 3, 4}
    assert {shape[2:4] for shape in shapes} == {(42, 28), (28, 42)}


def test_resolutions_follow_their_weights() -> None:
    batches = ClipBatches(config(weights=(0, 1)), [(dataset(), 1.0)], STEPS)
    assert {batches[step].arrays["images"].shape[2:4] for step in range(STEPS)} == {(28, 42)}


def test_datasets_follow_their_weights_and_scenes_their_lengths() -> None:
    mixture = [(dataset("short", scenes=1, length=6), 1.0), (dataset("long", scenes=1, length=60), 0.0)]
    batches = ClipBatches(config(), mixture, STEPS)
    assert all(name.startswith("short") for step in range(STEPS) for name in batches[step].names)
    lengths = iter((5, 60))
    uneven = open_scenes("uneven", map(Path, "ab"), lambda place: Memory(place, next(lengths)), Sampling())
    batches = ClipBatches(config(frames=(4, 4)), [(uneven, 1.0)], STEPS)
    from_a = sum(", a, " in name for step in range(STEPS) for name in batches[step].names)
    assert from_a < 3 * STEPS / 4, "2 of 59 starts are in scene a"


def test_augmentation_is_shared_and_optional() -> None:
    plain = source(color_jitter=False, crop_augmentation=0, broken=())[0].arrays
    zoomed = source(color_jitter=False, crop_augmentation=16, broken=())[0].arrays
    jittered = source(crop_augmentation=0, broken=())[0].arrays
    np.testing.assert_array_equal(plain["depth"], jittered["depth"])
    assert not np.array_equal(plain["images"], jittered["images"])
    assert len(np.unique(plain["intrinsics"][..., 0, 0])) == 1
    assert len(np.unique(zoomed["intrinsics"][..., 0, 0])) > 1
    np.testing.assert_array_equal(plain["cam_from_world"][:, 0], np.broadcast_to(np.eye(3, 4), (3, 3, 4)))


def test_unreadable_clips_are_replaced() -> None:
    skipped = [message for step in range(STEPS) for message in source(broken=(7, 12))[step].skipped]
    assert skipped
    assert all("is damaged" in message and message.startswith("memory, memory") for message in skipped)
    with pytest.raises(OSError, match=f"{ATTEMPTS} clips in a row"):
        source(broken=tuple(range(30)))[0]


def test_unusable_datasets_are_errors() -> None:
    bare = Dataset("bare", dataset().scenes, Sampling(), labelled=False)
    with pytest.raises(ValueError, match="bare has no labels: ground truth comes from datasets"):
        ClipBatches(config(), [(bare, 1.0)], STEPS)
    with pytest.raises(ValueError, match="no scene of 31 frames"):
        ClipBatches(config(frames=(2, 31)), [(dataset(), 1.0)], STEPS)
    for weights in ((0.0,), (1.0, -1.0), (np.nan,)):
        with pytest.raises(ValueError, match="weights must be at least 0"):
            ClipBatches(config(), [(dataset(), weight) for weight in weights], STEPS)
    for wrong in ({"frames": (0, 4)}, {"weights": (1,)}, {"weights": (0, 0)}, {"batch_size": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            config(**wrong)


@pytest.mark.parametrize("threads", [0, 3])
def test_loader_gives_every_step_once_in_order(threads: int, caplog: pytest.LogCaptureFixture) -> None:
    batches, skipped = source(), 0
    with caplog.at_level(logging.WARNING), Loader(batches, threads=threads) as loader:
        for step, batch in enumerate(loader):
            assert loader.position == step + 1
            assert_equal(batch, batches[step])
            skipped += len(batch.skipped)
    assert step == STEPS - 1
    assert skipped > 0 and loader.skipped == skipped
    assert sum("frame 7 is damaged" in record.message for record in caplog.records) == skipped


def test_loader_resumes_at_its_position() -> None:
    batches = source()
    with Loader(batches) as loader:
        for _ in range(5):
            next(loader)
        position = loader.position
    with Loader(batches, position) as resumed:
        for step, batch in enumerate(resumed, start=5):
            assert_equal(batch, batches[step])
    assert resumed.position == STEPS
    with pytest.raises(ValueError, match="position 13"):
        Loader(batches, STEPS + 1)


@pytest.mark.slow
def test_worker_processes_change_nothing() -> None:
    batches = source()
    with Loader(batches, position=2, threads=1, workers=2) as loader:
        for step, batch in enumerate(loader, start=2):
            assert_equal(batch, batches[step])
    assert step == STEPS - 1


@pytest.mark.slow
def test_workers_outlive_signals_that_are_meant_for_the_run() -> None:
    with Loader(source(), threads=1, workers=1) as loader:
        next(loader)
        (worker,) = multiprocessing.active_children()
        for number in SIGNALS:
            os.kill(worker.pid, number)
        assert len(list(loader)) == STEPS - 1


@pytest.mark.slow
def test_workers_end_with_a_run_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import multiprocessing, time\nfrom test_data_batches import source\nfrom ivggt_jax.train.data.loader import Loader\n"
        "if __name__ == '__main__':\n  with Loader(source(), threads=1, workers=1) as loader:\n    next(loader)\n"
        "    print(multiprocessing.active_children()[0].pid, flush=True)\n    time.sleep(100)\n"
    )
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parent)])
    }
    (tmp_path / "run.py").write_text(code)
    with subprocess.Popen([sys.executable, tmp_path / "run.py"], stdout=subprocess.PIPE, env=environment) as run:
        worker = int(run.stdout.readline())
        run.kill()
    for _ in range(100):
        if not Path(f"/proc/{worker}").exists():
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("ten seconds later the worker was there")


def test_workers_touch_no_device() -> None:
    code = "from ivggt_jax.train.data import clips, datasets, loader; from jax._src import xla_bridge as bridge; "
    code += "raise SystemExit(bridge.backends_are_initialized())"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
