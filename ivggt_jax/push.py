"""`python -m ivggt_jax.push FOLDER OWNER/NAME`: uploads a checkpoint to the Hugging Face Hub, with a model card."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ivggt_jax.runs.command import run_command, say
from ivggt_jax.weights.upload import find_student, push_to_hub


@dataclass(frozen=True, kw_only=True)
class PushConfig:
    """Options of the command."""

    checkpoint: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CHECKPOINT")]
    """Folder of a checkpoint, or of a training run, of which the best student is taken."""
    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OWNER/NAME")]
    """The repository, owner/name; it is created if it does not exist."""
    license: str
    """Licence of the weights as the Hub spells it: apache-2.0, cc-by-nc-sa-4.0, other. A student has its teacher's licence."""
    private: bool = False
    """Make a new repository private."""
    revision: str | None = None
    """Branch to push to, created if it does not exist; by default the main one."""


def main(arguments: Sequence[str] | None = None, program: str = "python -m ivggt_jax.push") -> None:
    """The command line program."""
    run_command(PushConfig, push, arguments, program)


def push(config: PushConfig) -> int:
    """Upload a trained or converted model to the Hugging Face Hub, with a model card made from its records."""
    say(f"{find_student(config.checkpoint)} → {config.name}")
    address = push_to_hub(
        config.checkpoint, config.name, licence=config.license, private=config.private, revision=config.revision
    )
    say(f"pushed: {address}")
    say(f"use it: ivggt my_video.mp4 --checkpoint {config.name}{f'@{config.revision}' if config.revision else ''}")
    return 0


if __name__ == "__main__":
    main()
