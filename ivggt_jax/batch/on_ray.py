"""The tasks of a job on the actors of a Ray cluster, through Ray Data (extra `ray`)."""

import dataclasses
import json
import logging
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ivggt_jax.batch.manifest import Row
from ivggt_jax.batch.options import BatchConfig
from ivggt_jax.batch.worker import Task, Worker


class _Actor:
    """A worker on Ray. Nothing is raised here: an exception would end the whole job."""

    def __init__(self, config: BatchConfig, job: Path, among: int):
        self._worker = Worker(config, job, among=among)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        rows = []
        for text in batch["task"]:
            row, options = json.loads(text)
            rows.append(json.dumps(dataclasses.asdict(self._worker.run(Task(Row(**row), tuple(options))))))
        return {"row": np.array(rows, object)}


def among(workers: int, gpus: float, machines: int) -> int:
    """How many workers share the memory that one of them computes in.

    That is a GPU where they have any. Of several machines nobody knows how many workers Ray puts on which.
    """
    if gpus:
        return max(1, int(1 / gpus))
    return workers if machines == 1 else 1


def rows_on_ray(config: BatchConfig, job: Path, tasks: Sequence[Task]) -> Iterator[Row]:
    """Runs tasks on the cluster that `config.ray` names and gives their rows as they come.

    The job's folder must be on a file system that all workers see. A task whose actor died is given to another one, which goes on
    from what was saved. Raises ValueError where Ray is not installed, ConnectionError where there is no cluster.
    """
    try:
        import ray
        from ray.data import ActorPoolStrategy, DataContext, from_items
    except ImportError as error:
        raise ValueError("--ray needs Ray: pip install 'ivggt_jax[ray]'") from error
    begin = partial(ray.init, ignore_reinit_error=True, log_to_driver=False, logging_level=logging.ERROR)
    if config.ray == "local":
        begin(address="local", num_cpus=config.workers, include_dashboard=False)
    else:
        begin(address=config.ray)
    DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    most = min(config.workers, len(tasks))
    # A second task waits at each actor: without, Ray takes none for busy, and never adds one.
    pool = ActorPoolStrategy(min_size=min(config.fewest, most), max_size=most, max_tasks_in_flight_per_actor=2)
    gpus = min(1, ray.cluster_resources().get("GPU", 0)) if config.gpus is None else config.gpus
    items = [{"task": json.dumps([dataclasses.asdict(task.row), task.options])} for task in tasks]
    rows = from_items(items, override_num_blocks=len(items)).map_batches(
        _Actor,
        batch_size=1,
        compute=pool,
        fn_constructor_args=(config, job, among(most, gpus, sum(node["Alive"] for node in ray.nodes()))),
        num_cpus=1,
        num_gpus=gpus,
    )
    try:
        for item in rows.iter_rows():
            yield Row(**json.loads(item["row"]))
    finally:
        ray.shutdown()
