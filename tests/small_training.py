"""A training run that takes seconds: a network of 100,000 parameters and clips of noise.

As a program it trains in a process of its own, to be killed, or to be one of several: small_training.py OUT [options].
"""

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ivggt_jax import Model, ModelConfig, save
from ivggt_jax.geometry import unproject
from ivggt_jax.model.parameters import abstract_params, flatten, unflatten
from ivggt_jax.train.checkpoints import Checkpoints
from ivggt_jax.train.data.batches import Batch
from ivggt_jax.train.distill import StepConfig
from ivggt_jax.train.losses import LossConfig
from ivggt_jax.train.mesh import make_mesh, process_rows, start_processes
from ivggt_jax.train.optimizer import OptimizerConfig
from ivggt_jax.train.training import RunConfig, run
from ivggt_jax.weights.hub import Source

SMALL = ModelConfig(
    image_size=28, width=16, depth=4, heads=2, encoder_depth=1, encoder_heads=2, mlp_ratio=2,
    camera_depth=1, camera_heads=2, camera_iterations=1, dpt_layers=(0, 1, 2, 3), dpt_features=8,
    dpt_channels=(8, 8, 8, 8), track_features=8, track_hidden=16, track_depth=1, track_heads=2, track_levels=2,
    track_radius=1, track_iterations=1, track_virtual=4,
)  # fmt: skip
"""One iteration of camera head and tracker: what goes from one to the next carries no gradient, by design (`test_heads`)."""
CLIPS, FRAMES, SIZE, QUERIES = 4, 3, 28, 3
STEPS = 8
SOURCE = Source(name="noise", licence="for tests alone")
"""Of the teacher."""


def clips(seed: int, count: int = CLIPS, frames: int = FRAMES) -> dict[str, np.ndarray]:
    """Noise with the shapes and the consistency of labelled clips."""
    random = np.random.default_rng(seed)
    depth = random.uniform(1, 3, (count, frames, SIZE, SIZE)).astype(np.float32)
    cam_from_world = np.tile(np.eye(3, 4, dtype=np.float32), (count, frames, 1, 1))
    cam_from_world[:, 1:, :, 3] = random.normal(0, 0.2, (count, frames - 1, 3))
    intrinsics = np.array([[30, 0, SIZE / 2], [0, 30, SIZE / 2], [0, 0, 1]], np.float32)
    intrinsics = np.tile(intrinsics, (count, frames, 1, 1))
    tracks = random.uniform(0, SIZE - 1, (count, frames, QUERIES, 2)).astype(np.float32)
    return {
        "images": random.integers(0, 256, (count, frames, SIZE, SIZE, 3), np.uint8),
        "depth": depth,
        "valid": random.random(depth.shape) < 0.8,
        "points": np.asarray(unproject(depth, cam_from_world, intrinsics)),
        "cam_from_world": cam_from_world,
        "intrinsics": intrinsics,
        "query_points": tracks[:, 0],
        "tracks": tracks,
        "visibility": random.random((count, frames, QUERIES)) < 0.7,
    }


class Clips:
    """A run's batches; the last step's is the first's again, so that their losses can be compared.

    Those of some steps are spoilt; when that of step `stop_at` is read, the process gets a SIGTERM.
    """

    def __init__(self, steps: int, rows: slice = slice(None), spoilt: tuple[int, ...] = (), stop_at: int | None = None):
        self._steps, self._rows, self._spoilt, self._stop_at = steps, rows, spoilt, stop_at

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> Batch:
        if step == self._stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        seed = 1000 + (0 if step == STEPS - 1 else step)
        arrays = {name: array[self._rows] for name, array in clips(seed).items()}
        if step in self._spoilt:
            arrays["cam_from_world"] = arrays["cam_from_world"] * np.float32(np.nan)
        return Batch(arrays, tuple(f"noise {step}, clip {row}" for row in range(CLIPS)[self._rows]))


def config(out: Path, **changes: object) -> RunConfig:
    """Of a run that learns cameras and depth from a teacher, in folder `out`/teacher, and from the truth."""
    step = StepConfig(
        heads=("camera", "depth"),
        precision="float32",
        loss=LossConfig(task_weight=1.0),
        optimizer=OptimizerConfig(learning_rate=1e-3, final_learning_rate=1e-4, average_decay=0.9),
    )
    defaults = {
        "out": out, "student": str(out / "teacher"), "teacher": str(out / "teacher"), "step": step,
        "steps": STEPS, "save_every": 2, "evaluate_every": 4, "log_every": 1, "threads": 1,
    }  # fmt: skip
    return RunConfig(**defaults | changes)


def random_model(seed: int) -> Model:
    """Weights that are all of some size: kernels of 1/√fan-in, norms and LayerScales about 1, the rest about 0."""
    random, params = np.random.default_rng(seed), {}
    for path, x in flatten(abstract_params(SMALL)).items():
        kind = path.split("/")[-1]
        fan_in = np.prod(x.shape[-4:-1]) if len(x.shape) == 4 else x.shape[-2:][0]
        scale = fan_in**-0.5 if kind == "kernel" else 0.1
        params[path] = scale * random.normal(size=x.shape).astype(np.float32) + kind.startswith("scale")
    return Model(SMALL, jax.tree.map(jnp.asarray, unflatten(params)))


def prepare(out: Path) -> None:
    """Write the network that is both the teacher and the student's start."""
    if not (out / "teacher").exists():
        save(random_model(0), out / "teacher", source=SOURCE)


def train(config: RunConfig, **changes: Any) -> Path:
    """Run it on all devices, evaluating on one batch of noise. changes: of the batches, see `Clips`."""
    prepare(config.out)
    mesh = make_mesh(config.fsdp)
    rows = process_rows(mesh, CLIPS)
    held_out = Clips(config.steps, rows)[config.steps]
    return run(config, mesh, Clips(config.steps, rows, **changes), [held_out])


def die_while_saving(at: int) -> None:
    """Make this process kill itself once it has begun to save that step's checkpoint."""
    begin_save = Checkpoints.save

    def save_and_die(checkpoints: Checkpoints, state: object) -> None:
        begin_save(checkpoints, state)
        if int(state.step) == at:
            os.kill(os.getpid(), signal.SIGKILL)

    Checkpoints.save = save_and_die


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--fsdp", type=int, default=1)
    parser.add_argument("--die-while-saving", type=int)
    parser.add_argument("--stop-at", type=int, help="of the first process alone")
    options = parser.parse_args()
    jax.config.update("jax_default_matmul_precision", "highest")  # as in conftest.py
    start_processes()
    if options.die_while_saving:
        die_while_saving(options.die_while_saving)
    stop_at = options.stop_at if jax.process_index() == 0 else None
    try:
        train(config(options.out, steps=options.steps, fsdp=options.fsdp), stop_at=stop_at)
    except KeyboardInterrupt:
        sys.exit(130)
