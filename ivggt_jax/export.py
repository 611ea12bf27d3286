"""`python -m ivggt_jax.export OUT --to colmap glb`: files for other tools, from the frames that a run has saved."""

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from tqdm import tqdm

from ivggt_jax.options.align import AlignOptions
from ivggt_jax.options.export import ExportOptions, MadeOutput
from ivggt_jax.runs.advice import saved_run
from ivggt_jax.runs.command import run_command, say
from ivggt_jax.runs.known_trajectory import align_run, write_alignment
from ivggt_jax.runs.output_folder import check_replaceable, locked, mark
from ivggt_jax.writers import WRITERS, Writers
from ivggt_jax.writers.saved_run import SavedRun


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Options of the command."""

    run: tyro.conf.Positional[Path]
    """Folder that a run wrote, with its frames (`infer --export npz`)."""
    to: tuple[MadeOutput, ...]
    """What to write."""
    into: Path | None = None
    """Where to; by default into the run's folder, or its aligned/ with --align-to or --scale-from."""
    align: Annotated[AlignOptions, tyro.conf.arg(name="")] = field(default_factory=AlignOptions)
    options: Annotated[ExportOptions, tyro.conf.arg(name="")] = field(default_factory=ExportOptions)


def main(arguments: Sequence[str] | None = None, program: str = "python -m ivggt_jax.export") -> None:
    """The command."""
    run_command(ExportConfig, export, arguments, program)


def export(config: ExportConfig) -> int:
    """Files for other tools, from the frames that a run has saved; of one that is not over only with --into elsewhere."""
    saved_run(config.run)  # says what is missing where there are no frames, before a folder is made
    out = config.into or config.run
    with locked(out, "--into"):
        check_replaceable(out, "--into")
        if config.align.trajectory:
            align_run(config.run, config.align)  # what is wrong with it shows before anything is written
        mark(out)
        build(config.run, config.to, config.options, config.align, config.into)
    return 0


def build(
    run: Path, names: Iterable[str], options: ExportOptions, align: AlignOptions, into: Path | None = None
) -> None:
    """Writes outputs from the saved frames of the folder `run`.

    They go to `into`, by default `run` itself, or `run`/aligned where there is a trajectory to align to. Each is built
    even when another fails. Raises ValueError that names what could not be written, FileNotFoundError where no frames
    are saved, OSError where the disk was in the way of any.
    """
    saved = SavedRun(run)
    into = into or run
    if align.trajectory:
        into = into / "aligned" if into == run else into
        saved, record = align_run(run, align)
        write_alignment(into, record)
        say(
            f"aligned to {align.trajectory}: {record['frames_with_pose']} of {record['frames']} frames have a pose, "
            f"1 of the model's units is {record['scale']:.6g} of its own"
        )
    problems: dict[str, Exception] = {}
    for name in dict.fromkeys(names):
        say(f"{name} → {into}")
        try:
            _build_one(saved, name, into, options)
        except (ValueError, OSError) as error:
            problems[name] = error
    if problems:
        kind = OSError if any(isinstance(error, OSError) for error in problems.values()) else ValueError
        raise kind("; ".join(f"{name}: {error}" for name, error in problems.items()))


def _build_one(run: SavedRun, name: str, out: Path, options: ExportOptions) -> None:
    """One output."""
    if name not in WRITERS:
        # Imported here: viser and trimesh take seconds, and runs that only grow files never need them.
        from ivggt_jax.writers.exports import EXPORTS

        EXPORTS[name](run, out, options)
        return
    writers = Writers([name], out, options)
    with contextlib.closing(writers):
        for result in tqdm(run, unit="frame", leave=False, disable=None):
            writers.write(result)


if __name__ == "__main__":
    main()
