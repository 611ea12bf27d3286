"""`python -m ivggt_jax.view OUT`: a run in the browser, while it goes on or afterwards, from its saved frames."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from ivggt_jax.runs.advice import saved_run
from ivggt_jax.runs.command import run_command
from ivggt_jax.viewer.page import View, saved_lengths


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """Options of the command."""

    run: tyro.conf.Positional[Path]
    """Folder that a run writes or wrote, with its frames (`infer --export npz`)."""
    port: int = 8080
    """Port of the page; the next free one if it is taken."""
    host: str = "127.0.0.1"
    """Address to listen on: 127.0.0.1 for this machine alone, 0.0.0.0 for anyone who can reach it (no password)."""


def main(arguments: Sequence[str] | None = None, program: str = "python -m ivggt_jax.view") -> None:
    """The command."""
    run_command(ViewConfig, view, arguments, program)


def view(config: ViewConfig) -> int:
    """Show a run in the browser: points, cameras, every frame's image and depth. New frames appear as they are saved."""
    saved_run(config.run)  # says what is missing where there are no frames
    with View(config.run, config.port, lambda: saved_lengths(config.run), config.host) as page:
        page.wait()
    return 0


if __name__ == "__main__":
    main()
