"""A training run: batches in, students out; with checkpoints, evaluation, and resuming."""

import dataclasses
import json
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh

from ivggt_jax.config import ModelConfig
from ivggt_jax.disk.beside import written_beside
from ivggt_jax.disk.strict_json import read_json
from ivggt_jax.model.parameters import Model
from ivggt_jax.runs.output_folder import locked
from ivggt_jax.train.checkpoints import Checkpoints
from ivggt_jax.train.data.batches import Batch, BatchSource
from ivggt_jax.train.data.loader import Loader
from ivggt_jax.train.distill import Plan, StepConfig, TrainState, init_state, student, train_step
from ivggt_jax.train.evaluate import ALWAYS, evaluate, overall
from ivggt_jax.train.journal import Journal
from ivggt_jax.train.mesh import gather, place, shardings
from ivggt_jax.train.optimizer import describe
from ivggt_jax.train.pictures import depth_picture
from ivggt_jax.train.start import extended, fresh_model
from ivggt_jax.train.stopping import Stop
from ivggt_jax.weights.checkpoint import save
from ivggt_jax.weights.hub import Source
from ivggt_jax.weights.loading import identify, load

MAY_CHANGE = (
    "out",
    "steps",
    "save_every",
    "keep",
    "evaluate_every",
    "log_every",
    "threads",
    "workers",
    "tensorboard",
    "fsdp",
    "distributed",
)
"""Options with which a run may continue although it was begun with others."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Length, intervals and folder of a run; `StepConfig` configures what is computed."""

    out: Path
    """Folder of the run: checkpoints/, student/ (newest) and best/, images/, config.json, metrics.jsonl. If it has checkpoints,
    the run continues from the newest."""
    student: str = "facebook/VGGT-1B"
    """Initial student: a checkpoint or published name; random:demo, random:tiny or random:vggt_1b for random weights. Trained
    heads that a checkpoint lacks start with random weights."""
    depth_input: bool = False
    """Train with simulated depth sensors; a student without depth input gets one, initialised to have no effect."""
    teacher: str | None = "facebook/VGGT-1B"
    """Checkpoint or published name of the teacher; None: ground truth only."""
    steps: int = 390_000
    """Batches in the run."""
    seed: int = 0
    """Seed of random weights, and of the order and augmentation of the data."""
    save_every: int = 3_900
    """Steps between checkpoints."""
    keep: int = 2
    """Number of checkpoints kept on disk."""
    evaluate_every: int = 3_900
    """Steps between evaluations on held-out clips."""
    log_every: int = 10
    """Steps between entries of metrics.jsonl."""
    threads: int = 2
    """Batches that are loaded in parallel."""
    workers: int = 0
    """Loader processes; 0: load in the training process."""
    tensorboard: bool = False
    """Also write TensorBoard event files."""
    fsdp: int = 1
    """Devices that share one copy of parameters and optimiser state; must divide the number of devices."""
    distributed: bool = False
    """Join the other processes of the run; Slurm steps of several tasks do so automatically."""
    step: StepConfig = field(default_factory=StepConfig)

    def __post_init__(self) -> None:
        for name in ("steps", "save_every", "keep", "evaluate_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.step.loss.distillation_weight > 0 and self.teacher is None:
            raise ValueError("step.loss.distillation_weight is above 0, which needs a teacher")


def run(config: RunConfig, mesh: Mesh, data: BatchSource, held_out: Sequence[Batch]) -> Path:
    """Train to the end, continuing from the newest checkpoint in the folder if there is one. Returns the best student's folder.

    data, held_out: this process's rows of every batch. Raises KeyboardInterrupt, after writing a checkpoint, when stopped; Busy if
    another process trains in the folder; ValueError if more steps are done than the run has; FloatingPointError when ten batches
    in a row gave no finite loss; the last checkpoint is then still good.
    """
    model = _load_student(config.student, config.seed)
    model = extended(model, config.step.heads, config.depth_input, jax.random.key(config.seed))
    updates = max(config.steps // config.step.optimizer.accumulation, 1)
    plan = Plan(step=config.step, model=model.config, mesh=mesh, updates=updates, sensed=config.depth_input)
    if missing := [head for head in ALWAYS if head not in model.config.predicts]:
        raise ValueError(f"students are judged by their heads {' and '.join(ALWAYS)}: step.heads lack {missing[0]}")
    alone = locked(config.out) if jax.process_index() == 0 else nullcontext()
    with alone, Checkpoints(config.out, config.keep) as checkpoints:
        if checkpoints.newest is not None:
            _check_same(config)
            if checkpoints.newest > config.steps:
                raise ValueError(
                    f"{config.out} has done {checkpoints.newest} steps already, more than --steps {config.steps}"
                )
        state = _begin(plan, checkpoints, model)
        del model  # Its memory is needed, and the state has its own copy
        _write_config(config, plan.model)
        source = _source(config)
        teacher = _load_teacher(config, mesh)
        step = int(state.step)
        with (
            Stop() as stop,
            Journal(config.out, step, config.steps, config.log_every, config.tensorboard) as journal,
            Loader(data, step, config.threads, config.workers) as loader,
        ):
            journal.say(describe(state.trainable, state.frozen))
            update = _Update(plan, journal)
            for batch in loader:
                step += 1
                state, terms = update(state, place(mesh, batch.arrays), teacher)
                journal.note(step, terms, batch.names)
                stopping, last = stop.requested(step), step == config.steps
                if step % config.evaluate_every == 0 or last:
                    _evaluate(config.out, plan, state, held_out, source, journal)
                if step % config.save_every == 0 or last or stopping:
                    journal.settle()
                    checkpoints.save(state)
                checkpoints.check()
                if stopping and not last:
                    raise KeyboardInterrupt
    return config.out / "best"


def _load_student(name: str, seed: int) -> Model:
    """The initial student: from a checkpoint, or with random weights."""
    kind, _, preset = name.partition(":")
    if kind != "random":
        return load(name, dtype="float32")
    presets = {"demo": ModelConfig.demo, "tiny": ModelConfig.tiny, "vggt_1b": ModelConfig.vggt_1b}
    if preset not in presets:
        raise ValueError(f"--student {name}: random weights come in the sizes {', '.join(presets)}")
    return fresh_model(presets[preset](), jax.random.key(seed))


def _source(config: RunConfig) -> Source:
    """The origin recorded in students: the run, and the licences of the initial weights and the teacher's."""
    names = [] if config.student.startswith("random:") else [config.student]
    if config.teacher is not None and config.step.loss.distillation_weight > 0:
        names.append(config.teacher)
    origins = map(identify, names)
    licences = dict.fromkeys(f"{origin.name}: {origin.licence}" for origin in origins if origin.licence)
    return Source(name=config.out.absolute().name, licence="; ".join(licences) or None)


def _load_teacher(config: RunConfig, mesh: Mesh) -> Model | None:
    """The teacher in the step's precision, divided over the mesh; None without one."""
    if config.teacher is None or config.step.loss.distillation_weight <= 0:
        return None
    teacher = load(config.teacher, dtype=config.step.precision)
    untaught = [head for head in config.step.heads if head not in teacher.config.predicts]
    if untaught and config.step.loss.task_weight <= 0:
        raise ValueError(
            f"{config.teacher} cannot teach {', '.join(untaught)}, which it lacks: leave it out of step.heads"
        )
    if config.depth_input and not teacher.config.depth_input:
        raise ValueError(
            f"{config.teacher} cannot teach a student with depth_input: it takes no depth, so its unit is not the sensor's"
        )
    return jax.device_put(teacher, shardings(mesh, teacher))


def _begin(plan: Plan, checkpoints: Checkpoints, model: Model) -> TrainState:
    """The state from the newest checkpoint, or that of an untrained student."""
    if checkpoints.newest is None:
        return jax.jit(init_state, static_argnames="plan")(plan, model)
    abstract = jax.eval_shape(partial(init_state, plan), model)
    return checkpoints.restore(abstract, shardings(plan.mesh, abstract))


def _check_same(config: RunConfig) -> None:
    """Raises ValueError when the folder's run was begun with other options, except those in `MAY_CHANGE`."""
    record = read_json(config.out / "config.json")["run"]
    before, now = (
        flatten_dict(run, sep=".") for run in (record, json.loads(json.dumps(dataclasses.asdict(config), default=str)))
    )
    differing = [
        f"{name} {before[name]}, not {now[name]}"
        for name in now
        if name in before and name not in MAY_CHANGE and before[name] != now[name]
    ]
    if differing:
        raise ValueError(
            f"{config.out} holds a run that was begun with {'; '.join(differing)}: "
            "give its options to continue it, or another --out"
        )


def _write_config(config: Any, model: ModelConfig) -> None:
    """Write the resolved configuration next to the results."""
    record = {"run": dataclasses.asdict(config), "model": dataclasses.asdict(model)}
    if jax.process_index() == 0:
        with written_beside(config.out / "config.json") as part:
            part.write_text(json.dumps(record, indent=2, default=str) + "\n", encoding="utf-8")


class _Update:
    """`train_step`, compiled once for each batch size; it then reports the time that took and the memory it needs."""

    def __init__(self, plan: Plan, journal: Journal) -> None:
        self._plan, self._journal = plan, journal
        self._step = jax.jit(train_step, static_argnames="plan", donate_argnames="state")
        self._sizes: set[tuple[int, ...]] = set()

    def __call__(
        self, state: TrainState, batch: dict[str, jax.Array], teacher: Model | None
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        size = batch["images"].shape[:4]
        if size not in self._sizes:
            self._sizes.add(size)
            self._journal.settle()
            begin = time.perf_counter()
            memory = self._step.lower(self._plan, state, batch, teacher).compile().memory_analysis()
            clips, frames, height, width = size
            text = f"compiled for {clips} × {frames} frames of {width}×{height} in {time.perf_counter() - begin:.0f} s"
            if memory is not None:  # not every backend reports it
                held, used = memory.argument_size_in_bytes / 1e9, memory.temp_size_in_bytes / 1e9
                text += f"; a device holds {held:.2f} GB and needs {used:.2f} GB more during a step"
            self._journal.say(text)
            self._journal.restart_clock()
        return self._step(self._plan, state, batch, teacher)


def _evaluate(
    out: Path, plan: Plan, state: TrainState, held_out: Sequence[Batch], source: Source, journal: Journal
) -> None:
    """Evaluate the student on the held-out clips, save it, and keep it if it is the best so far."""
    journal.settle()
    model = student(plan, state)
    errors, clip = evaluate(plan, model, held_out)
    errors["error"] = overall(plan, errors)
    best = journal.evaluated(int(state.step), errors, depth_picture(clip) if np.isfinite(errors["abs_rel"]) else None)
    # In one program: the separate transfers of device_put would run in a different order on every process and hang.
    model = jax.jit(gather, static_argnames="mesh")(plan.mesh, model)
    if jax.process_index() == 0:
        for name in ("student", "best") if best else ("student",):
            save(model, out / name, source=source, overwrite=True)
    journal.restart_clock()
