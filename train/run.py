"""A training run: batches in, students out; logs, checkpoints, evaluation, and going on where a run stopped."""

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from ivggt_jax import Model, ModelConfig, load, save
from train.checkpoints import Checkpoints
from train.data.batches import Batch, BatchSource
from train.data.loader import Loader
from train.distill import StepConfig, TrainState, init_state, student, train_step
from train.evaluate import evaluate
from train.metrics import Metrics
from train.optimizer import describe


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How long, how often, and where to. What is computed is the step's configuration, what on the data's."""

    out: Path
    """Folder of the run: checkpoints, `student/` (newest) and `best/`, config.json, metrics.jsonl, images."""
    student: str = "facebook/VGGT-1B"
    """Where the student starts: a checkpoint or published name, or random:demo, random:tiny for fresh weights."""
    teacher: str | None = "facebook/VGGT-1B"
    """Checkpoint or published name to learn from; None: from ground truth alone."""
    steps: int = 390_000
    """Batches of the run."""
    seed: int = 0
    save_every: int = 3_900
    keep: int = 2
    """Checkpoints that stay on disk."""
    evaluate_every: int = 3_900
    log_every: int = 10
    threads: int = 2
    """Batches that are loaded at a time."""
    workers: int = 0
    """Processes that load, 0: the training process itself."""
    tensorboard: bool = False
    step: StepConfig = field(default_factory=StepConfig)


def run(config: RunConfig, data: BatchSource, held_out: Sequence[Batch]) -> Path:
    """Train to the end, from the newest checkpoint in the folder where there is one; returns the best student's folder.

    Raises FloatingPointError when ten batches in a row gave no finite loss; the last checkpoint is kept.
    """
    model = _initial(config.student, config.seed)
    teacher = load(config.teacher, dtype=config.step.precision) if config.teacher else None
    step_config = dataclasses.replace(config.step, updates=max(config.steps // config.step.optimizer.accumulation, 1))
    config.out.mkdir(parents=True, exist_ok=True)
    _write_config(config, model.config)
    update = jax.jit(partial(train_step, step_config, model.config), donate_argnames="state")
    state = init_state(step_config, model)
    print(describe(state.trainable, state.frozen), file=sys.stderr)
    with Checkpoints(config.out, config.keep) as checkpoints:
        state = checkpoints.restore(state)
        begin = int(state.step)
        with (
            Metrics(config.out, begin, config.tensorboard) as metrics,
            Loader(data, begin, config.threads, config.workers) as loader,
            tqdm(total=config.steps, initial=begin, unit="step", disable=not sys.stderr.isatty()) as bar,
        ):
            book = _Book(config, model.config, metrics, held_out, bar)
            for batch in loader:
                state, terms = update(state=state, batch=batch.arrays, teacher=teacher)
                step = begin = begin + 1
                book.note(step, terms, batch)
                if step % config.evaluate_every == 0 or step == config.steps:
                    book.evaluate(step, state)
                if step % config.save_every == 0 or step == config.steps:
                    checkpoints.save(state)
    return config.out / "best"


class _Book:
    """Keeps account of a run: metrics, evaluation, the best student."""

    def __init__(
        self, config: RunConfig, model: ModelConfig, metrics: Metrics, held_out: Sequence[Batch], bar: tqdm
    ) -> None:
        self._config, self._model, self._metrics, self._held_out, self._bar = config, model, metrics, held_out, bar
        self._bad = 0
        self._clock, self._samples = time.perf_counter(), 0
        self._pending: tuple[int, dict[str, jax.Array], tuple[str, ...]] | None = None
        self._score = config.out / "best.json"
        self._best = json.loads(self._score.read_text())["abs_rel"] if self._score.exists() else np.inf

    def note(self, step: int, terms: dict[str, jax.Array], batch: Batch) -> None:
        """Look at the previous step's loss while this one runs; write it every so often."""
        previous, self._pending = self._pending, (step, terms, batch.names)
        self._samples += len(batch.names)
        self._bar.update()
        if previous is not None:
            self._settle(*previous)

    def _settle(self, step: int, terms: dict[str, jax.Array], names: tuple[str, ...]) -> None:
        loss, norm = float(terms["loss"]), float(terms["gradient_norm"])
        if not np.isfinite(loss) or not np.isfinite(norm):
            self._bad += 1
            print(
                f"step {step}: loss {loss}, gradient norm {norm}; batch left out: {'; '.join(names)}", file=sys.stderr
            )
            if self._bad >= 10:
                raise FloatingPointError(f"ten batches in a row without a finite loss, the last at step {step}")
            return
        self._bad = 0
        if step % self._config.log_every:
            return
        now = time.perf_counter()
        rate = self._samples / (now - self._clock)
        self._clock, self._samples = now, 0
        self._metrics.write(step, "train", {name: float(x) for name, x in terms.items()} | {"samples_per_second": rate})
        line = f"loss {loss:.4g}, {rate:.2f} clips/s"
        self._bar.set_postfix_str(line)
        if self._bar.disable:
            print(f"step {step}/{self._config.steps}, {line}", file=sys.stderr, flush=True)

    def evaluate(self, step: int, state: TrainState) -> None:
        """Measure the student on the held-out clips, save it, and keep it when it is the best so far by depth."""
        if self._pending is not None:
            self._settle(*self._pending)
            self._pending = None
        model = student(self._model, state)
        errors = evaluate(model, self._held_out, self._config.step.mode)
        self._metrics.write(step, "evaluation", errors)
        print(
            f"step {step}: " + ", ".join(f"{name} {x:.4f}" for name, x in errors.items()), file=sys.stderr, flush=True
        )
        save(model, self._config.out / "student", overwrite=True)
        if errors["abs_rel"] < self._best:
            self._best = errors["abs_rel"]
            save(model, self._config.out / "best", overwrite=True)
            self._score.write_text(json.dumps({"step": step} | errors) + "\n")
        self._clock, self._samples = time.perf_counter(), 0


def _initial(name: str, seed: int) -> Model:
    """A model to start from: a checkpoint's, or random weights of a preset."""
    kind, _, preset = name.partition(":")
    if kind != "random":
        return load(name, dtype="float32")
    presets = {"demo": ModelConfig.demo, "tiny": ModelConfig.tiny, "vggt_1b": ModelConfig.vggt_1b}
    if preset not in presets:
        raise ValueError(f"--student {name}: random weights come in the sizes {', '.join(presets)}")
    return Model.initialise(presets[preset](), jax.random.key(seed))


def _write_config(config: Any, model: ModelConfig) -> None:
    """The resolved configuration, beside what it made."""
    record = {"run": dataclasses.asdict(config), "model": dataclasses.asdict(model)}
    (config.out / "config.json").write_text(json.dumps(record, indent=2, default=str) + "\n")
