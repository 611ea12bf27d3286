"""The options of `batch`: those of `infer`, which apply to every source, and how to divide the work."""

import contextlib
import dataclasses
import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import OmitArgPrefixes, Positional, Suppress, arg

from ivggt_jax.inference.options import InferConfig
from ivggt_jax.sources import SourceConfig


@dataclass(frozen=True, kw_only=True)
class EachSource(SourceConfig):
    """How the frames of every source are prepared."""

    frames: Suppress[str] = ""


@dataclass(frozen=True, kw_only=True)
class BatchConfig(InferConfig):
    """Options of the command."""

    sources: Annotated[Positional[tuple[str, ...]], arg(metavar="[SOURCE …]")]
    """Videos, recordings, folders of pictures or of videos, quoted patterns, addresses (s3://…), lists (.txt .jsonl .parquet)."""
    workers: int = 1
    """Processes on this machine, each with its own model and a share of free memory; with --ray the maximum on the cluster."""
    ray: str | None = None
    """Run on a Ray cluster: its address, auto (or no value) for the running one, or local to start one here."""
    fewest: int = 1
    """With --ray: minimum number of workers; others come and go with the cluster."""
    gpus: float | None = None
    """With --ray: GPUs per worker, such as 1 or 0.5; by default 1 if the cluster has any."""
    out: Path | None = None
    """Folder of the job, with a subfolder for each source; with --ray all workers must see it."""
    overwrite: bool = False
    """Process all sources again, not only the missing ones."""
    time_limit: float | None = None
    """Seconds allowed for one attempt at a video. It is then stopped, and resumed when the job is started again."""
    source: Annotated[
        EachSource, tyro.conf.arg(name="frame", help="How the frames of every source are prepared."), OmitArgPrefixes
    ] = field(default_factory=EachSource)
    resume: Suppress[bool] = True
    view: Suppress[bool] = False
    port: Suppress[int] = 8080

    def of(self, frames: str, out: Path, options: Sequence[str] = ()) -> InferConfig:
        """The options of `infer` for one source and its folder, changed by words of a command line.

        Raises ValueError for words that `infer` does not take.
        """
        names = [entry.name for entry in dataclasses.fields(SourceConfig) if entry.name != "frames"]
        source = SourceConfig(frames=frames, **{name: getattr(self.source, name) for name in names})
        names = [entry.name for entry in dataclasses.fields(InferConfig)]
        values = {name: getattr(self, name) for name in names} | {"source": source, "out": out}
        values["resume"] = not self.overwrite
        config = InferConfig(**values)
        if not options:
            return config
        try:
            return tyro.cli(InferConfig, args=list(options), default=config, console_outputs=False)
        except SystemExit:
            raise ValueError(f"{' '.join(options)} are no options of infer") from None

    def problem_with(self, options: Sequence[str]) -> str | None:
        """Why `of` does not take these words; None if it does. Not for use while other threads print."""
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
                tyro.cli(InferConfig, args=list(options), default=self.of("", Path()))
        except SystemExit:
            _, _, *lines = map(str.strip, said.getvalue().splitlines())  # without a heading and a rule
            return " ".join(itertools.takewhile(lambda line: line.strip("-"), lines))
        return None


def ray_word(words: Sequence[str]) -> list[str]:
    """The command line, with `auto` inserted as the address of a bare `--ray`."""
    following = [*words[1:], "-"]
    return ["--ray=auto" if word == "--ray" and following[i][:1] == "-" else word for i, word in enumerate(words)]
