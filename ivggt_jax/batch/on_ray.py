"""Runs the tasks of a job on actors of a Ray cluster, through Ray Data (extra `ray`)."""

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
    """A worker on Ray. It never raises, because an exception would end the whole job."""

    def __init__(self, config: BatchConfig, job: Path, among: int):
        self._worker = Worker(config, job, among=among)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        rows = []
        for text in batch["task"]:
            row, options = json.loads(text)
            rows.append(json.dumps(dataclasses.asdict(self._worker.run(Task(Row(**row), tuple(options))))))
        return {"row": np.array(rows, object)}


def among(workers: int, gpus: float, machines: int) -> int:
    """How many workers share the memory that a worker computes in.

    With GPUs that is the memory of one GPU. On several machines the number is unknown, because Ray places the workers; it is
    taken as 1.
    """
    if gpus:
        return max(1, int(1 / gpus))
    return workers if machines == 1 else 1


def rows_on_ray(config: BatchConfig, job: Path, tasks: Sequence[Task]) -> Iterator[Row]:
    """Run tasks on the cluster that `config.ray` names, and yield their rows as they finish.

    The job's folder must be on a file system that all workers see. If an actor dies, its task goes to another one, which resumes
    from what was saved. Raises ValueError when Ray is not installed, ConnectionError when there is no cluster.
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
    # Two tasks in flight per actor: with one, Ray never counts an actor as busy, and never adds another.
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
