"""Checkpoints: what comes back, what stays, and what a kill leaves. States of a few hundred bytes, seed 0."""

import dataclasses
import errno
import os
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ivggt_jax.train.checkpoints import Checkpoints
from ivggt_jax.train.distill import TrainState
from ivggt_jax.train.mesh import make_mesh, shardings


def make_state(step: int, size: int = 8) -> TrainState:
    params = {"block": {"kernel": jax.random.normal(jax.random.key(step), (size, 3)), "bias": jnp.arange(3.0)}}
    return TrainState(
        step=jnp.array(step, jnp.int32),
        trainable=params,
        frozen={"encoder": jnp.ones(2)},
        optimizer=optax.adamw(1e-3).init(params),
        average=None,
    )


def restore(checkpoints: Checkpoints, like: TrainState) -> TrainState:
    abstract = jax.eval_shape(lambda: like)
    return checkpoints.restore(abstract, shardings(make_mesh(), abstract))


def assert_equal(a: TrainState, b: TrainState) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_the_newest_comes_back_and_old_ones_go(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.newest is None
        for step in (3, 6, 9):
            checkpoints.save(make_state(step))
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["6", "9"]
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.newest == 9
        assert_equal(restore(checkpoints, make_state(0)), make_state(9))


def test_a_state_may_be_donated_while_it_is_saved(tmp_path: Path) -> None:
    overwrite = jax.jit(lambda state: jax.tree.map(jnp.zeros_like, state), donate_argnums=0, keep_unused=True)
    large = make_state(5, size=1 << 20)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(large)
        zeros = jax.block_until_ready(overwrite(large))
        assert not zeros.trainable["block"]["kernel"].any()
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        assert_equal(restore(checkpoints, make_state(0, size=1 << 20)), make_state(5, size=1 << 20))


def test_what_a_kill_left_half_written_is_passed_over(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(make_state(4))
    partial = tmp_path / "checkpoints" / "6.orbax-checkpoint-tmp"
    (partial / "default").mkdir(parents=True)
    (partial / "default" / "manifest.ocdbt").write_bytes(b"half")
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.newest == 4
        assert_equal(restore(checkpoints, make_state(0)), make_state(4))
    assert not partial.exists()


def test_a_save_that_fails_is_an_error_before_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full when the checkpoint that was written gets its name."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(make_state(4))
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        monkeypatch.setattr(os, "rename", full)
        message = f"no checkpoint could be saved in {tmp_path}/checkpoints: .*No space left"
        with pytest.raises(OSError, match=message):
            checkpoints.save(make_state(6))
            for _ in range(100):
                time.sleep(0.1)
                checkpoints.check()
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.newest == 4


def test_a_checkpoint_of_another_run_is_an_error_that_says_so(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(make_state(4))
    average = dataclasses.replace(make_state(0), average=make_state(0).trainable)
    for other, message in (
        (make_state(0, size=9), r"optimizer/0/mu/block/kernel is \(8, 3\), here \(9, 3\) \(3 such\)"),
        (average, r"average/block/bias is not in it, here \(3,\)"),
    ):
        with Checkpoints(tmp_path, keep=2) as checkpoints, pytest.raises(ValueError, match=message):
            restore(checkpoints, other)
