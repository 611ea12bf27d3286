"""Runs the tasks of a job in processes of this machine."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue

from ivggt_jax.batch.manifest import Row
from ivggt_jax.batch.options import BatchConfig
from ivggt_jax.batch.worker import Task, Worker


def rows_here(config: BatchConfig, job: Path, tasks: Sequence[Task]) -> Iterator[Row]:
    """Run tasks on `config.workers` processes and yield their rows as they finish.

    On Ctrl-C or SIGTERM the current videos are saved and their rows yielded; then KeyboardInterrupt is raised again.
    """
    count = min(config.workers, len(tasks))
    workers = [Worker(config, job, number, among=count) for number in range(count)]
    free: SimpleQueue[Worker] = SimpleQueue()
    for worker in workers:
        free.put(worker)

    def run(task: Task) -> Row:
        worker = free.get()
        try:
            return worker.run(task)
        finally:
            free.put(worker)

    try:
        with ThreadPoolExecutor(len(workers)) as threads:
            futures: list[Future[Row]] = [threads.submit(run, task) for task in tasks]
            try:
                yield from _as_they_come(futures, workers)
            finally:
                if not all(future.done() for future in futures):  # nobody is waiting for the rest
                    for future in futures:
                        future.cancel()
                    for worker in workers:
                        worker.stop(at_once=True)
    finally:
        for worker in workers:
            worker.close()


def _as_they_come(futures: list[Future[Row]], workers: list[Worker]) -> Iterator[Row]:
    given = set()
    try:
        for future in as_completed(futures):
            given.add(future)
            yield future.result()
    except KeyboardInterrupt:
        left = [future for future in futures if future not in given and not future.cancel()]
        for worker in workers:
            worker.stop()
        for future in as_completed(left):
            yield future.result()
        raise
