"""`python -m ivggt_jax.batch SOURCES… --out DIR`: `infer` for each of many videos, in local processes or on a Ray cluster."""

import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from ivggt_jax.batch import manifest
from ivggt_jax.batch.here import rows_here
from ivggt_jax.batch.inputs import find_inputs
from ivggt_jax.batch.manifest import Row
from ivggt_jax.batch.on_ray import rows_on_ray
from ivggt_jax.batch.options import BatchConfig, ray_word
from ivggt_jax.batch.worker import Task
from ivggt_jax.inference.earlier import changed_since
from ivggt_jax.runs.command import run_command, say
from ivggt_jax.runs.output_folder import locked
from ivggt_jax.writers.run_json import read_run_json, recorded

SECONDS_BETWEEN_WRITES = 2.0
"""Time between two writes of the manifest. Rows that a kill leaves out are recovered from the folders."""


def main(arguments: Sequence[str] | None = None, program: str = "python -m ivggt_jax.batch") -> None:
    """The command line program."""
    run_command(BatchConfig, batch, ray_word(sys.argv[1:] if arguments is None else arguments), program)


def batch(config: BatchConfig) -> int:
    """Run ivggt for each of many videos. Started again, it does what is missing; exits with 1 if any source failed."""
    if config.out is None:
        raise ValueError("--out is missing: the folder of the job, in which each source has its own")
    if config.workers < 1 or config.fewest < 1:
        raise ValueError("--workers and --fewest must be at least 1")
    if config.time_limit is not None and not config.time_limit > 0:
        raise ValueError(f"--time-limit must be positive, not {config.time_limit:g}")
    if config.ray and not config.sources:
        raise ValueError(
            f"there are no sources: --ray took {config.ray} for the cluster's address; name sources first, or write --ray=auto"
        )
    inputs = find_inputs(config.sources)
    options = {item.source: item.options for item in inputs}
    for words, source in {words: source for source, words in options.items() if words}.items():
        if problem := config.problem_with(words):
            raise ValueError(f"{source}: {problem}")
    job = config.out.expanduser().absolute()
    with locked(job):
        rows = {row.source: row for row in manifest.with_earlier(options, manifest.read(job))}
        wanted = [rows[source] for source in options]
        if not config.overwrite:
            _check_same(config, job, {row: options[row.source] for row in wanted if _done(job, row)})
        tasks = [Task(row, options[row.source]) for row in wanted if config.overwrite or not _done(job, row)]
        if len(tasks) < len(options):
            say(f"{len(options) - len(tasks)} of {len(options)} sources are done already")
        _run(config, job, rows, tasks)
    counts = Counter(rows[source].status for source in options)
    say(f"{', '.join(f'{count} {status}' for status, count in sorted(counts.items()))} → {job / 'manifest.jsonl'}")
    return int(counts["done"] < len(options))


def _run(config: BatchConfig, job: Path, rows: dict[str, Row], tasks: list[Task]) -> None:
    """Run the tasks and keep the manifest up to date; `rows` are replaced as results come in."""
    manifest.write(job, rows.values())
    if not tasks:
        return
    run = rows_here if config.ray is None else rows_on_ray
    written, progress = time.monotonic(), JobProgress(len(tasks))
    try:
        for row in run(config, job, tasks):
            rows[row.source] = row
            progress.advance(row)
            if time.monotonic() - written > SECONDS_BETWEEN_WRITES:
                manifest.write(job, rows.values())
                written = time.monotonic()
    finally:
        progress.close()
        manifest.write(job, rows.values())


def _done(job: Path, row: Row) -> bool:
    return row.status == "done" and (job / row.path / "run.json").is_file()


def _check_same(config: BatchConfig, job: Path, done: Mapping[Row, tuple[str, ...]]) -> None:
    """Raises ValueError when finished sources, each with its own options, were made with others."""
    changed: list[str] = []
    for row, options in done.items():
        try:
            settings = recorded(read_run_json(job / row.path), "settings")
        except (OSError, ValueError):  # damaged since: it is done all the same
            continue
        frames = recorded(settings, "source", "frames")  # of an address, the copy that was read
        now = config.of(frames if isinstance(frames, str) else row.source, job / row.path, options)
        if words := changed_since(now, settings):
            changed.append(f"{row.source} with {words}")
    if changed:
        raise ValueError(
            f"{len(changed)} of {len(done)} finished sources were made with other options, such as {changed[0]}: --overwrite runs "
            "all sources again, another --out keeps these; to run one again, remove its folder"
        )


class JobProgress:
    """Progress: a bar on a terminal, elsewhere one line per source, with what is done, the speed, and the time left."""

    def __init__(self, total: int):
        self._bar = tqdm(total=total, unit="video", disable=not sys.stderr.isatty(), dynamic_ncols=True)
        self._total, self._done, self._frames, self._begun = total, 0, 0, time.monotonic()

    def advance(self, row: Row) -> None:
        """Count a source that has ended."""
        self._done += 1
        self._frames += row.frames or 0
        if row.status == "failed":
            error = row.error or ""
            say(f"failed: {error if row.source in error else f'{row.source}: {error}'}")
        seconds = time.monotonic() - self._begun
        pace = f"{self._frames / seconds:.3g} frames/s"
        self._bar.update()
        if self._bar.disable:
            left = tqdm.format_interval(seconds / self._done * (self._total - self._done))
            say(f"{self._done}/{self._total} videos, {self._done / seconds:.3g} videos/s, {pace}, {left} left")
        else:
            self._bar.set_postfix_str(pace)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()


if __name__ == "__main__":
    main()
