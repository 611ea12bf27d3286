"""What a run reports while it is in progress, to people and files."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import jax
import numpy as np
from tqdm import tqdm

from ivggt_jax.train.metrics import Metrics

MOST_BAD = 10
"""Batches in a row without a finite loss after which a run ends."""


class Journal:
    """Progress, losses and evaluations of a run: metrics and pictures in its folder, a bar or lines on standard error.

    A context manager. With several processes the first one writes, but all check every loss.
    """

    def __init__(self, folder: Path, begin: int, steps: int, every: int, tensorboard: bool):
        """Open the files.

        begin: step of the checkpoint that the run continues from; steps: its last step; every: steps between training entries.
        """
        self._step, self._steps, self._every = begin, steps, every
        leads = jax.process_index() == 0
        self._metrics = Metrics(folder, begin, tensorboard) if leads else None
        self._best = self._metrics.lowest("evaluation", "error") if self._metrics else np.inf
        self._bar = tqdm(total=steps, initial=begin, unit="step", disable=not (leads and sys.stderr.isatty()))
        self._bad = 0
        self.restart_clock()
        self._pending: tuple[int, Mapping[str, jax.Array], tuple[str, ...]] | None = None

    def say(self, text: str) -> None:
        """Print a line, from the first process."""
        if self._metrics:
            tqdm.write(text, file=sys.stderr)
            sys.stderr.flush()

    def note(self, step: int, terms: Mapping[str, jax.Array], names: tuple[str, ...]) -> None:
        """Note a step that is still running, and check the previous one, so that the device never waits.

        terms: from `train_step`. names: of the clips that this process loaded.
        """
        self.settle()
        self._step, self._pending = step, (step, terms, names)
        self._clips += len(names) * jax.process_count()
        self._bar.update()

    def settle(self) -> None:
        """Wait for the newest step and check its loss; write an entry if one is due.

        Raises FloatingPointError after `MOST_BAD` batches in a row without a finite loss.
        """
        if self._pending is None:
            return
        (step, terms, names), self._pending = self._pending, None
        values = {name: float(value) for name, value in jax.device_get(terms).items()}
        if not np.isfinite([values["loss"], values["gradient_norm"]]).all():
            self._bad += 1
            found = f"loss {values['loss']:g}, gradient norm {values['gradient_norm']:g}"
            tqdm.write(f"step {step}: {found}; batch left out: {'; '.join(names)}", file=sys.stderr)
            if self._bad == MOST_BAD:
                raise FloatingPointError(f"{MOST_BAD} batches in a row had no finite loss, the last at step {step}")
            return
        self._bad = 0
        if step % self._every == 0:
            self._write(step, values)

    def _write(self, step: int, values: dict[str, float]) -> None:
        seconds = time.perf_counter() - self._clock
        rate, left = self._clips / seconds, seconds / (self._step - self._clock_step) * (self._steps - step)
        self.restart_clock()
        line = f"loss {values['loss']:.4g}, {rate:.2f} clips/s"
        if self._metrics:
            self._metrics.write(step, "train", values | {"clips_per_second": rate})
        self._bar.set_postfix_str(line)
        if self._bar.disable:
            self.say(f"step {step}/{self._steps}, {line}, {tqdm.format_interval(left)} left")

    def restart_clock(self) -> None:
        """Exclude the time until now from the speed, because compiling and evaluating are not training."""
        self._clock, self._clock_step, self._clips = time.perf_counter(), self._step, 0

    def evaluated(self, step: int, errors: Mapping[str, float], picture: np.ndarray | None) -> bool:
        """Write an evaluation. Returns whether its `error` is the lowest so far; while none is finite, the newest counts."""
        best = errors["error"] < self._best or self._best == np.inf
        self._best = errors["error"] if best else self._best
        if self._metrics:
            self._metrics.write(step, "evaluation", errors)
            if picture is not None:
                self._metrics.image(step, "depth", picture)
        found = ", ".join(f"{name} {value:.4f}" for name, value in errors.items())
        self.say(f"step {step}: {found}{', the best so far' if best else ''}")
        return best

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        if self._metrics:
            self._metrics.__exit__()
