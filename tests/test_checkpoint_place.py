"""Replacing a checkpoint: at every step that can fail the old or the new one is found, whole, and the user's files stay."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from faults import FAULTS, at_every_step

from ivggt_jax import Model, ModelConfig, load, save
from ivggt_jax.convert.command import convert_file
from ivggt_jax.disk.beside import remove
from ivggt_jax.model.parameters import abstract_params, flatten
from ivggt_jax.weights import place
from ivggt_jax.weights.checkpoint import CheckpointError, describe

SMALL = ModelConfig(
    image_size=28, width=8, depth=4, heads=2, encoder_depth=1, encoder_heads=2, camera_depth=1, camera_heads=2,
    dpt_layers=(0, 1, 2, 3), dpt_features=8, dpt_channels=(4, 4, 4, 4), track_features=4, track_hidden=8, track_depth=1,
    track_heads=2, track_levels=1, track_radius=1, track_virtual=2,
)  # fmt: skip
"""Half a megabyte or so: what is tried is the order of the steps, some hundred times."""


def constant(value, heads=("camera", "depth", "points", "tracks")):
    params = jax.tree.map(lambda x: np.full(x.shape, value, np.float32), abstract_params(SMALL))
    return Model(SMALL, params).only_heads(heads)


OLD, NEW = constant(1.0), constant(2.0)


def users_files(directory):
    (directory / "notes").mkdir(parents=True, exist_ok=True)
    (directory / "notes" / "mine.txt").write_text("precious")
    (directory / "README.md").write_text("precious")


def assert_whole(directory):
    """Returns the number that fills it."""
    values = {float(value) for x in flatten(load(directory, np.float32).params).values() for value in np.unique(x)}
    assert values in ({1.0}, {2.0})
    return values.pop()


def assert_users_files(directory):
    assert (directory / "notes" / "mine.txt").read_text() == (directory / "README.md").read_text() == "precious"


def assert_tidy(directory, content="model.safetensors"):
    assert {path.name for path in directory.iterdir()} == {"config.json", content, "notes", "README.md"}
    assert_users_files(directory)


@pytest.mark.parametrize("fault", FAULTS)
def test_overwriting_at_every_step(tmp_path, fault):
    directory = tmp_path / "best"
    save(OLD, directory)
    users_files(directory)
    found = set()
    for step in at_every_step(FAULTS[fault], lambda: save(NEW, directory, overwrite=True)):
        found.add(assert_whole(directory))
        assert_users_files(directory)
        if fault != "kill" and assert_whole(directory) == 1:
            assert not any((directory / ".part").glob("*")), step  # nothing is left of what failed
        save(OLD, directory, overwrite=True)
        assert assert_whole(directory) == 1
        assert_tidy(directory)
        assert [path.name for path in tmp_path.iterdir()] == ["best"], step
    assert found == {1, 2}
    assert assert_whole(directory) == 2
    assert_tidy(directory)


@pytest.mark.parametrize("fault", FAULTS)
def test_the_first_save_appears_whole_or_not_at_all(tmp_path, fault):
    directory = tmp_path / "folder" / "best"
    for _ in at_every_step(FAULTS[fault], lambda: save(NEW, directory)):
        if directory.exists():
            assert assert_whole(directory) == 2
        remove(directory)
    assert assert_whole(directory) == 2
    assert [path.name for path in directory.parent.iterdir()] == ["best"]


@pytest.mark.parametrize("fault", FAULTS)
def test_an_empty_folder_is_taken(tmp_path, fault):
    """As a volume that is mounted there."""
    directory = tmp_path / "volume"
    directory.mkdir()
    with pytest.raises(CheckpointError, match="volume exists"):
        save(NEW, directory)
    for _ in at_every_step(FAULTS[fault], lambda: save(NEW, directory, overwrite=True)):
        if place.find(directory, "config.json"):
            assert assert_whole(directory) == 2
    assert {path.name for path in directory.iterdir()} == {"config.json", "model.safetensors"}
    assert directory.stat().st_dev == tmp_path.stat().st_dev


def write_content(directory, content, kind):
    with place.replacing(directory) as part:
        (part / "config.json").write_text(content)
        if kind == "params":
            (part / "params" / "deep").mkdir(parents=True)
            (part / "params" / "deep" / "data").write_text(content)
            (part / "params" / "data").write_text(content)
        else:
            (part / kind).write_text(content)


def read_content(directory):
    found = place.find(directory, *place.CONTENTS)
    files = [found] if found.is_file() else [found / "data", found / "deep" / "data"]
    (content,) = {path.read_text() for path in (*files, place.find(directory, "config.json"))}
    return content, found.name


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("before", place.CONTENTS)
@pytest.mark.parametrize("after", place.CONTENTS)
def test_either_content_replaces_either(tmp_path, before, after, fault):
    directory = tmp_path / "best"
    write_content(directory, "old", before)
    users_files(directory)
    found = set()
    for _ in at_every_step(FAULTS[fault], lambda: write_content(directory, "new", after)):
        found.add(read_content(directory))
        assert_users_files(directory)
        write_content(directory, "old", before)
        assert_tidy(directory, before)
    assert found == {("old", before), ("new", after)}
    assert read_content(directory) == ("new", after)
    assert_tidy(directory, after)


def test_orbax_replaces_and_is_replaced(tmp_path):
    pytest.importorskip("orbax.checkpoint")
    save(NEW, tmp_path / "new")
    save(OLD, tmp_path / "best")
    for to in ("orbax", "orbax", "safetensors"):
        convert_file(tmp_path / "new", tmp_path / "best", to=to, overwrite=True)
    assert assert_whole(tmp_path / "best") == 2
    assert {path.name for path in (tmp_path / "best").iterdir()} == {"config.json", "model.safetensors"}


def test_every_state_that_a_kill_leaves_is_read_and_finished(tmp_path):
    """The states between the two renames and after, made by hand; reading changes nothing."""
    save(NEW, tmp_path / "new")
    for moved in (
        [],
        ["old gone"],
        ["old gone", "model.safetensors"],
        ["old gone", "model.safetensors", "config.json"],
    ):
        directory = tmp_path / f"{len(moved)}"
        save(OLD, directory)
        users_files(directory)
        incoming = directory / ".incoming"
        incoming.mkdir()
        for name in ("config.json", "model.safetensors"):
            (incoming / name).write_bytes((tmp_path / "new" / name).read_bytes())
        if moved:
            (directory / "model.safetensors").unlink()
        for name in moved[1:]:
            os.replace(incoming / name, directory / name)
        before = {path: path.stat().st_mtime_ns for path in directory.rglob("*")}
        assert assert_whole(directory) == 2
        assert describe(directory).config == SMALL
        assert {path: path.stat().st_mtime_ns for path in directory.rglob("*")} == before
        save(OLD, directory, overwrite=True)
        assert assert_whole(directory) == 1
        assert_tidy(directory)


def test_a_checkpoint_whose_description_alone_is_left_is_no_checkpoint(tmp_path):
    save(OLD, tmp_path / "x")
    (tmp_path / "x" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="has no model.safetensors"):
        load(tmp_path / "x")
    save(NEW, tmp_path / "x", overwrite=True)
    assert assert_whole(tmp_path / "x") == 2


SAVER = """
import os, signal, sys, time
from pathlib import Path
import jax
import numpy as np
from ivggt_jax import Model, load, save
from ivggt_jax.weights import checkpoint, place

write, settle = checkpoint.write_safetensors, place._settle

def slow_write(path, layout, read, metadata):
    def linger(name):
        time.sleep(0.001)
        return read(name)
    write(path, layout, linger, metadata)

def slow_settle(directory):
    time.sleep(0.1)
    settle(directory)
    time.sleep(0.1)

checkpoint.write_safetensors, place._settle = slow_write, slow_settle

models = [load(path, np.float32) for path in sys.argv[2:]]
models = [Model(model.config, jax.tree.map(np.asarray, model.params)) for model in models]
save(models[0], Path(sys.argv[1]), overwrite=True)  # whatever is traced, before the fork

def endless(ready):
    os.write(ready, b"x")
    while True:
        for model in models:
            save(model, Path(sys.argv[1]), overwrite=True)

for line in sys.stdin:
    begun, ready = os.pipe()
    saver = os.fork()
    if saver == 0:
        endless(ready)
    os.read(begun, 1)
    time.sleep(float(line))
    os.kill(saver, signal.SIGKILL)
    assert os.waitpid(saver, 0)[1] == signal.SIGKILL
    print("killed", flush=True)
"""


@pytest.mark.slow
def test_twenty_kills_under_load(tmp_path):
    """Real SIGKILLs, within a second of endless saving with a slow writer, beside two busy processes (seed 0)."""
    random = np.random.default_rng(0)
    directory = tmp_path / "best"
    for name, model in (("1", OLD), ("2", NEW)):
        save(model, tmp_path / name)
    save(OLD, directory)
    users_files(directory)
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(__file__).parents[1])}
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    killer = subprocess.Popen(
        [sys.executable, "-c", SAVER, directory, tmp_path / "2", tmp_path / "1"],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    interrupted = 0
    try:
        for _ in range(20):
            print(random.uniform(0, 1), file=killer.stdin, flush=True)
            assert killer.stdout.readline() == "killed\n"
            assert_whole(directory)
            assert_users_files(directory)
            interrupted += (directory / ".part").exists() or (directory / ".incoming").exists()
        killer.communicate()
    finally:
        for process in (*busy, killer):
            process.kill()
            process.wait()
    print(f"\n{interrupted} of 20 kills came in the midst of a save")
    assert interrupted >= 10
    save(NEW, directory, overwrite=True)
    assert assert_whole(directory) == 2
    assert_tidy(directory)
