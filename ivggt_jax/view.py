"""`python -m ivggt_jax.view OUT`: shows a run in the browser, during the run or afterwards, from its saved frames."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ivggt_jax.runs.advice import saved_run
from ivggt_jax.runs.command import run_command
from ivggt_jax.runs.resume import read_state
from ivggt_jax.viewer.page import View, saved_lengths
from ivggt_jax.weights.tensor_file import CheckpointError


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """Options of the command."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """Folder of a run that saves or saved its frames (`ivggt … --export npz`)."""
    port: int = 8080
    """Port of the page; if it is taken, the next free one."""
    host: str = "127.0.0.1"
    """Address to listen on: 127.0.0.1 for this machine only, 0.0.0.0 for anyone who can reach it (no password)."""


def main(arguments: Sequence[str] | None = None, program: str = "python -m ivggt_jax.view") -> None:
    """The command line program."""
    run_command(ViewConfig, view, arguments, program)


def view(config: ViewConfig) -> int:
    """Show a run in the browser: points, cameras, every frame's image and depth. New frames appear as they are saved."""
    if not _begun(config.run):
        saved_run(config.run)  # explains what is missing if there are no frames
    with View(config.run, config.port, lambda: saved_lengths(config.run), config.host) as page:
        page.wait()
    return 0


def _begun(run: Path) -> bool:
    """Whether the folder holds a run that saves frames and is in progress or was stopped, so that frames may still come."""
    try:
        unfinished = read_state(run)
    except CheckpointError:
        return False
    return unfinished is not None and "npz" in unfinished.options.get("export", ())


if __name__ == "__main__":
    main()
