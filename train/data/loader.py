"""Loads batches ahead of the training step, in threads or worker processes, with Grain."""

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from typing import Self

import grain
from absl import flags

from ivggt_jax.train.data.batches import Batch, BatchSource
from ivggt_jax.train.stopping import SIGNALS

logger = logging.getLogger(__name__)


class Loader(Iterator[Batch]):
    """The batches of a run from a given step on, in order; a context manager that ends the workers.

    Order and content do not depend on the number of threads or workers, so a checkpoint needs only the step. Clips that could not
    be read are logged, and counted in `skipped`.
    """

    def __init__(self, source: BatchSource, position: int = 0, threads: int = 4, workers: int = 0):
        """Start loading at once.

        position: steps already done. threads: batches loaded in parallel (0: on demand), in each of `workers` processes (0: in
        this process). Raises ValueError for a position outside the run.
        """
        if not 0 <= position <= len(source):
            raise ValueError(f"position {position} is outside a run of {len(source)} steps")
        self.position = position
        """Number of steps whose batch was handed out."""
        self.skipped = 0
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
        remaining = grain.MapDataset.source(source)[position:].to_iter_dataset(options)
        if workers:
            # Grain's workers read absl flags, which are parsed only in programs that absl runs.
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()
            processes = grain.MultiprocessingOptions(num_workers=workers)
            remaining = remaining.mp_prefetch(processes, worker_init_fn=_live_as_long_as_the_run)
        self._iterator = iter(remaining)

    def __next__(self) -> Batch:
        batch = next(self._iterator)
        for name in batch.skipped:
            self.skipped += 1
            logger.warning("step %d: clip skipped (%d so far): %s", self.position, self.skipped, name)
        self.position += 1
        return batch

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._iterator.close()


def _live_as_long_as_the_run(worker: int, workers: int) -> None:
    """Ignore Ctrl-C and SIGTERM, which reach worker processes too: they end when the run's process does."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_run, daemon=True).start()


def _end_with_the_run() -> None:
    run = multiprocessing.parent_process()
    assert run is not None
    run.join()
    os._exit(1)
