"""`python -m ivggt_jax.evaluate pose|depth|reconstruction|stream|sensing|study`: measures models and their memory."""

from collections.abc import Sequence
from typing import Annotated

from tyro.conf import subcommand

from ivggt_jax.evaluate.benchmarks import (
    Depth,
    Pose,
    Reconstruction,
    evaluate_depths,
    evaluate_poses,
    evaluate_reconstructions,
)
from ivggt_jax.evaluate.sensing import Sensing, evaluate_sensing
from ivggt_jax.evaluate.stream import Stream, evaluate_streams
from ivggt_jax.evaluate.study import Study, run_study
from ivggt_jax.runs.command import run_command

Command = (
    Annotated[Pose, subcommand("pose", description=evaluate_poses.__doc__)]
    | Annotated[Depth, subcommand("depth", description=evaluate_depths.__doc__)]
    | Annotated[Reconstruction, subcommand("reconstruction", description=evaluate_reconstructions.__doc__)]
    | Annotated[Stream, subcommand("stream", description=evaluate_streams.__doc__)]
    | Annotated[Sensing, subcommand("sensing", description=evaluate_sensing.__doc__)]
    | Annotated[Study, subcommand("study", description=run_study.__doc__)]
)


def main(arguments: Sequence[str] | None = None, program: str = "python -m ivggt_jax.evaluate") -> None:
    """The command line program."""
    run_command(Command, evaluate, arguments, program)  # type: ignore[arg-type]


def evaluate(config: Pose | Depth | Reconstruction | Stream | Sensing | Study) -> int:
    """Measure a model on a data set or on endless synthetic videos, or compare memory policies."""
    match config:
        case Pose():
            return evaluate_poses(config)
        case Depth():
            return evaluate_depths(config)
        case Reconstruction():
            return evaluate_reconstructions(config)
        case Stream():
            return evaluate_streams(config)
        case Sensing():
            return evaluate_sensing(config)
        case Study():
            return run_study(config)


if __name__ == "__main__":
    main()
