"""Synthetic batches: pure in seed and step, and in the form that the losses take. Sizes: 2 clips, 2–3 frames, 28×42."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact import exact

from ivggt_jax.geometry import pose_from_cameras, unproject
from ivggt_jax.synthetic import clips as clips_of
from ivggt_jax.train.data import synthetic as rendered_by
from ivggt_jax.train.data.synthetic import SyntheticBatches, SyntheticConfig
from ivggt_jax.train.losses import LossConfig, objective

CONFIG = SyntheticConfig(
    batch_size=2, frames=(3, 3), width=42, height=28, kinds=("room",), looks=("ahead",), query_points=6
)


def test_a_step_always_has_the_same_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendered_by, "_render", exact(rendered_by._render, static_argnums=(4, 5, 6, 7)))
    batches = SyntheticBatches(CONFIG, steps=10)
    first, again = batches[3], SyntheticBatches(CONFIG, steps=10)[3]
    jax.tree.map(np.testing.assert_array_equal, first.arrays, again.arrays)
    for other in (batches[4], SyntheticBatches(CONFIG, steps=10, seed=1)[3]):
        assert not np.array_equal(first.arrays["images"], other.arrays["images"])
    assert not np.array_equal(first.arrays["images"][0], first.arrays["images"][1])
    row = SyntheticBatches(CONFIG, steps=10, rows=slice(1, 2))[3]
    np.testing.assert_array_equal(row.arrays["images"][0], first.arrays["images"][1])
    assert first.names[0] == "synthetic room looking ahead, clip 0, seed 0, step 3"


def test_batches_are_what_the_losses_take() -> None:
    batch = SyntheticBatches(CONFIG, steps=10)[0].arrays
    assert batch["images"].dtype == np.uint8 and batch["images"].shape == (2, 3, 28, 42, 3)
    assert batch["query_points"].shape == (2, 6, 2) and batch["visibility"].dtype == bool
    assert batch["valid"].mean() > 0.9 and (batch["depth"][~batch["valid"]] == 0).all()
    points = unproject(batch["depth"], batch["cam_from_world"], batch["intrinsics"])
    np.testing.assert_allclose(points[batch["valid"]], batch["points"][batch["valid"]], atol=1e-4)
    ones = jnp.ones(batch["depth"].shape)
    perfect = SimpleNamespace(
        pose_encoding=pose_from_cameras(batch["cam_from_world"], batch["intrinsics"], 28, 42),
        depth=jnp.asarray(batch["depth"]), depth_confidence=ones,
        points=jnp.asarray(batch["points"]), points_confidence=ones,
        tracks=jnp.asarray(batch["tracks"]), visibility=jnp.asarray(batch["visibility"], jnp.float32),
        track_confidence=jnp.ones(batch["visibility"].shape), motion=None,
    )  # fmt: skip
    total, _ = objective(LossConfig(task_weight=1.0, distillation_weight=0.0), perfect, batch)
    assert float(total) == pytest.approx(0, abs=1e-3)


def test_batches_come_in_several_sizes() -> None:
    config = SyntheticConfig(
        batch_size=1, frames=(2, 2), width=28, height=28, kinds=("room",), looks=("ahead",), scales=(1.0, 1.5)
    )
    batches = SyntheticBatches(config, steps=6)
    sizes = [batches[step].arrays["depth"].shape[2:] for step in range(6)]
    assert set(sizes) == {(28, 28), (42, 42)} and batches[1].arrays["images"].shape[2:4] == sizes[1]
    larger = SyntheticBatches(replace(config, scales=(1.5,)), steps=1)[0]
    assert larger.arrays["depth"].shape[2:] == (42, 42)
    with pytest.raises(ValueError, match=r"scales must make whole pixels of 42×28, not \(1.3,\)"):
        replace(CONFIG, scales=(1.3,))


def test_without_query_points_there_are_no_tracks() -> None:
    config = SyntheticConfig(batch_size=1, frames=(2, 2), width=28, height=28, kinds=("room",), looks=("ahead",))
    assert {"query_points", "tracks", "visibility"}.isdisjoint(SyntheticBatches(config, steps=1)[0].arrays)


def test_fields_out_of_range_are_errors() -> None:
    for wrong in (
        {"batch_size": 0},
        {"frames": (3, 2)},
        {"speed": (0.0, 1.0)},
        {"kinds": ()},
        {"bodies": 1, "query_points": 1},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            SyntheticConfig(**wrong)


@pytest.mark.slow
def test_sensors_and_defects_have_random_streams_of_their_own() -> None:
    """`split` gives the keys that `fold_in` does."""
    key = jax.random.key(0)
    own = [*jax.random.split(key, 4), jax.random.fold_in(key, clips_of._BODIES)]
    keys = [*own, *(jax.random.fold_in(key, number) for number in (rendered_by._SENSOR, rendered_by._DEFECTS))]
    assert len({tuple(jax.random.key_data(each).tolist()) for each in keys}) == 7


def test_sensors_and_bodies_come_beside_the_same_clips() -> None:
    """What a sensor measures is the clip's depth with a few per cent of noise, or nothing; bodies have their mask."""
    plain = replace(CONFIG, query_points=0)
    clips, told = (SyntheticBatches(config, steps=10)[1].arrays for config in (plain, replace(plain, sensor=True)))
    assert told.keys() - clips.keys() == {"sensor_depth"}
    np.testing.assert_array_equal(told["images"], clips["images"])
    measured = told["sensor_depth"] > 0
    assert 0 < measured.mean() < 1 and np.abs(told["sensor_depth"] / told["depth"] - 1)[measured].max() < 0.2
    among = SyntheticBatches(replace(plain, bodies=2), steps=10)[1].arrays
    assert among["moving"].dtype == bool and among["moving"].shape == among["depth"].shape
    still = ~np.asarray(among["moving"])
    np.testing.assert_array_equal(among["depth"][still], clips["depth"][still])
