"""`python -m ivggt_jax.export OUT --to colmap glb`: files for other tools, from a run's saved frames."""

import contextlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from tqdm import tqdm

from ivggt_jax.disk.beside import claimed, part_of, remove
from ivggt_jax.disk.strict_json import read_json
from ivggt_jax.options.align import AlignOptions
from ivggt_jax.options.export import FORMATS, ExportOptions, MadeOutput, Output
from ivggt_jax.runs.advice import saved_run
from ivggt_jax.runs.command import run_command, say
from ivggt_jax.runs.corrected import CORRECTED, MAP_FILE, describe_correction, read_correction
from ivggt_jax.runs.known_trajectory import align_run
from ivggt_jax.runs.output_folder import check_over, check_replaceable, locked, mark, results
from ivggt_jax.runs.parts import after_joining, begins, warn_of_export
from ivggt_jax.writers import WRITERS, Writers
from ivggt_jax.writers.files import naming, replacing
from ivggt_jax.writers.refinement import refined
from ivggt_jax.writers.result import Result
from ivggt_jax.writers.run_json import record_outputs, recorded
from ivggt_jax.writers.saved_run import SavedRun
from ivggt_jax.writers.writer import required

RECORD_FILES = {CORRECTED: MAP_FILE, "refined": "refinement.json", "aligned": "alignment.json"}


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Options of the command."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """Folder of a run that saved its frames (`ivggt … --export npz`)."""
    to: tuple[MadeOutput, ...]
    """Formats to write."""
    into: Path | None = None
    """Folder to write to; by default the run's, or its corrected/, refined/ or aligned/ when these are requested."""
    corrected: bool = False
    """Correct the map by the loops that `ivggt … --loops` found; --align-to and --scale-from then use the corrected map."""
    refine_ba: bool = False
    """Bundle adjustment to the run's own tracks (extra splats); its result is kept if left-out tracks fit better with it."""
    align: Annotated[AlignOptions, tyro.conf.arg(name="")] = field(default_factory=AlignOptions)
    options: Annotated[ExportOptions, tyro.conf.arg(name="")] = field(default_factory=ExportOptions)


def main(arguments: Sequence[str] | None = None, program: str = "python -m ivggt_jax.export") -> None:
    """The command line program."""
    run_command(ExportConfig, export, arguments, program)


def export(config: ExportConfig) -> int:
    """Write files for other tools from a run's saved frames. For an unfinished run, use --into another folder."""
    saved = saved_run(config.run)  # explains what is missing if there are no frames, before a folder is created
    out = config.into or config.run
    with locked(out, "--into"):
        check_replaceable(out, "--into")
        check_over(out)
        moved, records = move(saved, config.corrected, config.align, config.options if config.refine_ba else None)
        folder = _folder_of(records, out, apart=out.resolve() == config.run.resolve())
        _check_unmixed(folder, records)
        mark(out)
        _write_records(records, folder)
        build(moved, config.to, config.options, folder)
    parts = begins(config.run)
    if broken := warn_of_export(after_joining(records.get(CORRECTED, {}), parts)):
        say(f"warning: {broken}")
    return 0


Records = dict[str, dict[str, Any]]
"""A record of each way in which a run was moved, by the folder that its results go to."""


def move(
    run: SavedRun, corrected: bool, align: AlignOptions, refine: ExportOptions | None = None
) -> tuple[SavedRun, Records]:
    """A saved run after map correction, bundle adjustment and alignment, as requested, and a record of each.

    refine: options that choose the pixels for bundle adjustment; None: no adjustment. Raises ValueError when the run has no
    loops, no depth to adjust, or does not fit the trajectory.
    """
    records: Records = {}
    if corrected:
        correction, records[CORRECTED] = read_correction(run.out)
        run = run.moved(correction)
        say(describe_correction(records[CORRECTED]))
    if refine is not None:
        run, refinement = refined(run, refine)
        records["refined"] = refinement.record()
        say(refinement.describe())
    if align.trajectory:
        run, record = align_run(run, align)
        records["aligned"] = record
        say(
            f"aligned to {align.trajectory}: {record['frames_with_pose']} of {record['frames']} frames have a pose, "
            f"1 of the model's units is {record['scale']:.6g} of the trajectory's, "
            f"after the best fit positions differ by {record['position_error_after_sim3']:.3g} of these (root mean square)"
        )
    return run, records


def _folder_of(records: Records, out: Path, apart: bool) -> Path:
    """The folder for a moved run's results: `out` itself or, if `apart` from the original results, a folder in it."""
    return out / list(records)[-1] if apart and records else out


def _write_records(records: Records, folder: Path) -> None:
    """Write the records of a moved run into the folder of its results. Raises WriteError when the disk is full."""
    for way, record in records.items():
        with replacing(folder / RECORD_FILES[way]) as file:
            file.write(f"{json.dumps(record, indent=2, ensure_ascii=False)}\n".encode())


def _check_unmixed(folder: Path, records: Records) -> None:
    """Raises ValueError when the folder holds results that were moved in another way, or by another trajectory."""
    if not (there := results(folder)):
        return
    before = {way: read_json(folder / name) for way, name in RECORD_FILES.items() if (folder / name).is_file()}
    if before.keys() == records.keys() and all(
        recorded(before, "aligned", key) == recorded(records, "aligned", key) for key in ("trajectory", "world")
    ):
        return
    to = recorded(before, "aligned", "trajectory")
    made = " and ".join(f"{way} to {to}" if way == "aligned" else way for way in before) or "not moved"
    raise ValueError(
        f"{folder} holds results that are {made}, which do not lie where these would: choose another --into, or remove them "
        f"({', '.join(there)})"
    )


def build_moved(
    run: SavedRun, names: Iterable[Output], options: ExportOptions, corrected: bool, align: AlignOptions
) -> None:
    """Write a run's outputs at its end: moved ones into a folder apart. Raises as `move` and `build` do."""
    run, records = move(run, corrected, align)
    folder = _folder_of(records, run.out, apart=True)
    _write_records(records, folder)
    if corrected:  # wherever the results are, because the viewer shows the correction
        _write_records({CORRECTED: records[CORRECTED]}, run.out / CORRECTED)
    build(run, names, options, folder)


def build(run: SavedRun, names: Iterable[Output], options: ExportOptions, into: Path) -> None:
    """Write outputs from saved frames into a folder. If one fails, the others are still written.

    Raises ValueError naming what could not be written, or OSError if the disk was at fault for any.
    """
    problems: dict[Output, Exception] = {}
    records: dict[str, Any] = {}
    names, first = list(dict.fromkeys(names)), run[0]
    for name in names:
        try:
            _check(name, first)
        except ValueError as error:
            problems[name] = error
    for name in names:
        if name in problems:
            continue
        try:
            records |= _build_one(run, name, into, options)
            say(f"{name} → {into}")
        except (ValueError, OSError) as error:
            problems[name] = error
    record_outputs(into, records)
    if problems:
        kind = OSError if any(isinstance(error, OSError) for error in problems.values()) else ValueError
        raise kind("; ".join(f"{name}: {error}" for name, error in problems.items()))


def _check(name: Output, first: Result) -> None:
    """Raises ValueError when the saved frames, of which this is the first, lack what an output needs, or a package is missing."""
    if needs := FORMATS[name].needs:
        required(getattr(first, needs), name, "depth or points" if needs == "points" else needs)
    if name in WRITERS:
        WRITERS[name].check(first)


def _build_one(run: SavedRun, name: Output, out: Path, options: ExportOptions) -> dict[str, Any]:
    """Write one output. Returns its record, by its name, if it has one."""
    if name not in WRITERS:
        # Imported here, because viser and trimesh take seconds, and runs that write frame by frame never need them.
        from ivggt_jax.writers.exports import EXPORTS

        EXPORTS[name](run, out, options)
        return {}
    with claimed(part_of(out / name), folder=True) as part:  # an export that fails changes nothing
        writers = Writers([name], part, options)
        with contextlib.closing(writers):
            for result in tqdm(run, unit="frame", leave=False, disable=None):
                writers.write(result)
        with naming(out):
            _take_places(part, out, FORMATS[name].files)
    return writers.record()


def _take_places(part: Path, out: Path, patterns: Iterable[str]) -> None:
    """Move the files and folders in a part to their places, and remove what an earlier export left under such names."""
    made = {path.name: path for path in part.iterdir()}
    for name, path in made.items():
        if (out / name).is_dir():
            os.replace(out / name, part / f".{name}")  # which is removed with the part
        os.replace(path, out / name)
    for pattern in patterns:
        for path in out.glob(pattern):
            if path.name not in made:
                remove(path)


if __name__ == "__main__":
    main()
