"""`python -m ivggt_jax.infer SOURCE`: camera poses, depth and points of a video, in bounded memory."""

import contextlib
import dataclasses
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from ivggt_jax.cameras.exif import offered_camera
from ivggt_jax.cameras.files import calibration_file
from ivggt_jax.config import CacheConfig
from ivggt_jax.export import build_moved
from ivggt_jax.inference.checks import check
from ivggt_jax.inference.closing import record, say_end
from ivggt_jax.inference.earlier import as_begun, decisive_options, for_records, is_done, to_resume
from ivggt_jax.inference.options import InferConfig, source_first
from ivggt_jax.inference.parallel import check_split, split
from ivggt_jax.model.parameters import Model, abstract_model, computes_bfloat16
from ivggt_jax.options.export import WITH_TRACKS
from ivggt_jax.runs import output_folder, stages
from ivggt_jax.runs.advice import comes_again, note_on_demo
from ivggt_jax.runs.command import run_command, say
from ivggt_jax.runs.fitting import parse_memory, plan_cache, weights_bytes
from ivggt_jax.runs.known_trajectory import checked, read_trajectory
from ivggt_jax.runs.moving import MovingThings
from ivggt_jax.runs.progress import Progress
from ivggt_jax.runs.resume import Unfinished, begin, finish, restore_stream, save_state, weights_fingerprint
from ivggt_jax.runs.run import Run, compile_step, interruptible
from ivggt_jax.sources import Frame, Source, SourceError, open_source
from ivggt_jax.sources.config import is_live
from ivggt_jax.sources.source import NAMES_KEPT
from ivggt_jax.streaming.apart import without_network
from ivggt_jax.streaming.state import StreamState
from ivggt_jax.streaming.steps import init_stream
from ivggt_jax.weights import loading
from ivggt_jax.writers import Writers, write_run_json
from ivggt_jax.writers.run_json import plain
from ivggt_jax.writers.saved_run import SavedRun

BYTES_KEPT = 18
"""Bytes per pixel of a saved frame in half precision, compressed: 17.7 were measured on examples/room."""
SHARE_OF_DISK = 0.1
"""Share of the free disk space that frames may take if saving them was not requested."""

Load = Callable[[str, str | None], Model]
"""Loads the model of a checkpoint, with the trunk in the given type."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line program."""
    run_command(InferConfig, infer, source_first(arguments), "python -m ivggt_jax.infer")


def infer(config: InferConfig, load: Load = loading.load) -> int:
    """Camera poses, depth and points from a folder of images, a video or a camera, in bounded memory."""
    # Cheap checks come first: the source, the options, the folder. Downloading, loading and compiling come later.
    live = is_live(config.source.frames)
    # For a camera the run counts the frames itself, because the first frame that is read is not part of it (`_started`).
    with open_source(dataclasses.replace(config.source, max_frames=None) if live else config.source) as source:
        check(config)
        check_split(config, source)
        out = config.out or output_folder.default_out(config.source.frames)
        calibration = None if config.source.camera is None else calibration_file(config.source.camera)
        others = (config.source.masks, config.source.depth, calibration, config.options.images, config.align.trajectory)
        output_folder.check_inputs_outside(out, config.source.frames, others)
        if config.align.trajectory:
            read_trajectory(config.align.trajectory)  # so that errors in it appear now, not at the end
        with ExitStack() as page:  # it stays when the folder is free again
            return _in_folder(config, out, source, load, page)


def _in_folder(config: InferConfig, out: Path, source: Source, load: Load, page: ExitStack) -> int:
    """Run in a folder, unless that holds another run. `page` closes the viewer."""
    with output_folder.locked(out):
        output_folder.check_replaceable(out)
        earlier = None if config.overwrite else output_folder.earlier_run(out)
        if earlier and is_done(config, out, earlier):
            say(f"{out} holds {earlier.description}: nothing to resume; --overwrite begins again")
            return 0
        unfinished = to_resume(config, out, earlier)
        config = as_begun(config, unfinished.options) if unfinished else config
        with stages.stage(f"loading {config.checkpoint}", stages.loading(config.checkpoint, config.memory.precision)):
            model = load(config.checkpoint, _precision(config))
            model = model.only_heads(config.heads_of(model.config))
        source.config = dataclasses.replace(source.config, size=config.source.size or model.config.image_size)
        return _infer(config, out, model, source, unfinished, page)


def _precision(config: InferConfig) -> str | None:
    """Type of the trunk; None is the device's default. bfloat16 if the default would take half of the allowed memory."""
    saves, memory = computes_bfloat16(), config.memory
    if memory.precision == "bfloat16" and not saves:
        say(
            "warning: with JAX before 0.11 (Python 3.11) bfloat16 takes more memory and time on a CPU than float32 does, "
            "because weights and cache are copied"
        )
    if memory.precision != "auto":
        return memory.precision
    if memory.max_memory is None or not saves:
        return None
    found = loading.find_config(config.checkpoint)
    weights = weights_bytes(abstract_model(found, None, config.heads_of(found)))
    return "bfloat16" if weights > parse_memory(memory.max_memory) / 2 else None


def _infer(
    config: InferConfig, out: Path, model: Model, source: Source, unfinished: Unfinished | None, page: ExitStack
) -> int:
    """Run from the beginning, or from where the unfinished run was saved."""
    weights, again = weights_fingerprint(model), comes_again(config.source.frames)
    length = source.expected_length or config.source.most_frames
    if unfinished and unfinished.frames:
        _check_same(config, out, unfinished, weights)
        frames = source.frames(unfinished.next_index, unfinished.last_skipped)
        state = restore_stream(model, unfinished, partial(_grid, config))
        decisive = unfinished.options
    else:
        frames, state = _started(config, model, source)
        config = _with_frames(config, out, length, state)
        decisive = {**decisive_options(config), "weights": weights}
        unfinished = _begun(out, decisive, again)
    _say_notes(config)
    parallel = split(config, source, model, state, next(frames)) if config.split else None
    watch = None if config.moving == "keep" else MovingThings(model, state, unfinished.writers)

    def save(run: Run) -> None:
        last = source.last_skipped  # read before the count, because reading ahead continues
        now = Unfinished(decisive, run.frames, run.next_index, _skipped(source, unfinished), last)
        save_state(out, now, run.state, run.writers.state() | (watch.state() if watch else {}))

    run = Run(
        model,
        state,
        Writers(_growing(config, state), out, config.options, unfinished.frames, unfinished.writers),
        Progress(length, unfinished.frames, state, sure=length == source.length, live=is_live(config.source.frames)),
        points_from_depth=config.points_from == "depth",
        begin=unfinished.frames,
        next_index=unfinished.next_index,
        save_state=save if again and parallel is None else None,
        save_every=config.save_every,
        instead=parallel or watch,
        without_moving=watch is not None,
    )
    unfinished.release()
    view = page.enter_context(_viewer(config, out, run))
    with parallel or contextlib.nullcontext():
        interrupted: list[int] = []
        try:
            with interruptible() as interrupted:
                lost = _feed(config, run, source, parallel.frames() if parallel else frames, interrupted)
            _build(config, out, run, interrupted)
        except ValueError as error:
            if run.ended:
                run.failed = str(error)
                finish(out)  # trying again would fail again
            raise
        finally:  # also after an error: finished frames are on disk, and this says how to read them
            _say_what_was_run(config, out, run, _counts(source, unfinished), interrupted)
        if not interrupted:
            finish(out)
            if view:
                page.callback(view.wait)
        elif again:
            _say_stopped(run, parallel is not None)
    return 128 + interrupted[0] if interrupted else int(lost)


def _begun(out: Path, decisive: dict[str, Any], again: bool) -> Unfinished:
    """Start a run in a folder, removing an earlier one's results and saving the options if it can be resumed."""
    output_folder.begin_anew(out)
    if again:
        begin(out, decisive)
    return Unfinished(decisive)


def _say_stopped(run: Run, parallel: bool) -> None:
    where = "the beginning" if parallel else "here" if run.saved else "the last state that was saved"
    say(f"stopped; --resume goes on from {where}")


def _check_same(config: InferConfig, out: Path, unfinished: Unfinished, weights: int) -> None:
    """Raises ValueError when a run with these options cannot continue the unfinished one."""
    if unfinished.options.get("weights") != weights:
        raise ValueError(f"{config.checkpoint} holds other weights than the run in {out} began with")
    if config.split:
        raise ValueError(f"{out} holds a run of one process: --resume without --split goes on, --overwrite begins anew")


def _say_notes(config: InferConfig) -> None:
    """Print what the user may not expect of these options."""
    if "tracks" in config.heads and not WITH_TRACKS.intersection(config.growing):
        say("warning: tracks are predicted, but nothing writes them: add tracks to --export")
    if note := note_on_demo(plain(for_records(config))):
        say(note)


def _feed(config: InferConfig, run: Run, source: Source, frames: Iterator[Frame], interrupted: list[int]) -> bool:
    """Run over the frames and close their source. Returns whether the connection to a camera was lost, which ends its run."""
    source.while_waiting = partial(run.while_waiting, interrupted)
    with contextlib.closing(source):  # a camera would continue, and count frames
        try:
            run.feed(frames, interrupted)
        except SourceError as error:
            if comes_again(config.source.frames):
                raise
            say(f"error: {error}")
            return True
    return False


def _build(config: InferConfig, out: Path, run: Run, interrupted: list[int]) -> None:
    """Build outputs from saved frames: at the end and after Ctrl-C, but not after SIGTERM."""
    moved = config.mapping.loops or config.align.trajectory
    names = [name for name in config.outputs if name != "npz"] if moved else config.built
    if not (names or moved) or not run.frames or interrupted not in ([], [signal.SIGINT]):
        return
    if not interrupted:
        run.save()  # if killed from here on, the run loses no frame
    try:
        build_moved(SavedRun(out, source=config.source), names, config.options, config.mapping.loops, config.align)
    except ValueError as error:
        if not interrupted:
            raise
        say(f"warning: what is made at the end is not made now: {error}")  # for example, too few frames to be aligned


def _with_frames(config: InferConfig, out: Path, length: int | None, state: StreamState) -> InferConfig:
    """The options with all outputs named: frames are saved unless the stream is endless or would fill the disk."""
    if config.export or "npz" in config.growing:
        return dataclasses.replace(config, export=config.outputs)
    pixels = state.settings.height * state.settings.width
    if length is None or length * pixels * BYTES_KEPT > SHARE_OF_DISK * shutil.disk_usage(out).free:
        say(f"frames are not kept for view and export: --export {' '.join(config.outputs)} npz keeps them")
        return dataclasses.replace(config, export=config.outputs)
    options = dataclasses.replace(config.options, frames_dtype=config.options.frames_dtype or "float16")
    return dataclasses.replace(config, export=(*config.outputs, "npz"), options=options)


def _started(config: InferConfig, model: Model, source: Source) -> tuple[Iterator[Frame], StreamState]:
    """All frames, and a fresh stream for frames of the first one's size.

    A camera continues while the step is compiled; the stream then begins with the latest frame.
    """
    frames = coming = source.frames()
    if config.align.trajectory:
        frames = checked(coming, config.align.trajectory, source.expected_length)
    first = next(frames)
    if first.path and not first.camera and (offer := offered_camera(first.path, first.fit.original_size)):
        say(f"{first.name} was taken with a focal length that --camera {offer} would use (docs/sensors.md)")
    height, width, _ = first.image.shape
    length = source.length or config.source.most_frames
    cache = _cache(config, model, length, height, width)
    grid = _grid(config, height, width)
    one_way = "depth" in config.predicted and len(config.source.camera_towards) == 1
    metric = config.source.depth is not None
    submaps = config.mapping.choose(model.config, length, metric, cache.frames_per_step) if one_way else None
    if submaps is not None:
        say(
            f"a new submap every {submaps.frames} frames keeps the camera; --submaps off is one stream (docs/mapping.md)"
        )
    elif "depth" not in config.predicted and config.mapping.submaps != "off":
        say("no submaps, which need the head depth: on a long stream the camera is soon lost (docs/mapping.md)")
    begin = partial(
        init_stream,
        model,
        cache,
        height=height,
        width=width,
        heads=config.heads_of(model.config),
        query_points=grid,
        submaps=submaps,
        focal=None if first.camera is None or "depth" not in config.predicted else np.array([first.camera.focal]),
    )
    state = without_network(begin) if config.split and submaps else begin()
    words, thing = f"compiling for {width}×{height} (once for each size", stages.first_frame(state)
    if not is_live(config.source.frames):
        stages.announce(f"{words} and length), then the first frame", thing)
        return chain([first], frames), state
    with stages.stage(f"{words}), before the first frame is taken", thing):
        compile_step(model, state, config.moving != "keep")
    return islice(source.from_next_picture(coming), config.source.most_frames), begin()


def _growing(config: InferConfig, state: StreamState) -> tuple[str, ...]:
    """Outputs written frame by frame; submaps, if there are any, are always included, and loops with --loops."""
    if state.settings.submaps is None:
        return config.growing
    return (*config.growing, "submaps", *(("loops",) if config.mapping.loops else ()))


def _cache(config: InferConfig, model: Model, length: int | None, height: int, width: int) -> CacheConfig:
    """The cache that fits in the memory that the user allows, or that is free."""
    memory = config.memory
    given = {"frames_per_step": memory.frames_per_step, "total_budget": memory.budget}
    cache = CacheConfig.preset(
        memory.preset,
        policy=memory.policy,
        anchor_frames=memory.anchor_frames,
        camera_cache=memory.camera_cache,
        max_frames=length,
        **{name: value for name, value in given.items() if value is not None},
    )
    limit = memory.max_memory or memory.share
    return plan_cache(model, cache, height, width, limit, fixed=memory.budget is not None)


def _grid(config: InferConfig, height: int, width: int) -> np.ndarray | None:
    """Query points [1,N,2] on a regular grid, for the tracks head."""
    if "tracks" not in config.heads:
        return None
    x, y = (np.linspace(0, side - 1, config.track_grid + 2)[1:-1] for side in (width, height))
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(1, -1, 2).astype(np.float32)


def _skipped(source: Source, unfinished: Unfinished) -> dict[str, Any]:
    """Unreadable frames of the whole run, including those skipped by reading ahead when it was saved."""
    before = unfinished.skipped
    names = [*before["names"], *source.skipped_names]
    return {"count": before["count"] + source.skipped, "names": names[:NAMES_KEPT]}


def _say_what_was_run(config: InferConfig, out: Path, run: Run, counts: dict[str, Any], interrupted: list[int]) -> None:
    """Report the run in `run.json` and to the user."""
    write_run_json(out, {**record(config, run), "skipped": counts, "interrupted": bool(interrupted)})
    say_end(config, out, run)


def _counts(source: Source, unfinished: Unfinished) -> dict[str, Any]:
    """Counts of the source's frames that were not processed."""
    return {**_skipped(source, unfinished), "left_out": source.left_out, "dropped": source.dropped}


def _viewer(config: InferConfig, out: Path, run: Run) -> contextlib.AbstractContextManager[Any]:
    """The page that shows the run while it goes on, with --view; otherwise a null context."""
    if not config.view:
        return contextlib.nullcontext()
    from ivggt_jax.viewer.page import View

    return View(out, config.port, lambda: run.lengths)


if __name__ == "__main__":
    main()
