"""`python -m ivggt_jax.infer --frames dir/`: camera poses, depth and points of a video, in memory that does not grow."""

import contextlib
import dataclasses
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from ivggt_jax.cameras.exif import offered_camera
from ivggt_jax.config import CacheConfig
from ivggt_jax.export import build, move, write_records
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
from ivggt_jax.sources.source import NAMES_KEPT
from ivggt_jax.streaming.apart import without_network
from ivggt_jax.streaming.state import StreamState
from ivggt_jax.streaming.steps import init_stream
from ivggt_jax.weights import loading
from ivggt_jax.writers import Writers, write_run_json
from ivggt_jax.writers.run_json import plain
from ivggt_jax.writers.saved_run import SavedRun

BYTES_KEPT = 12
"""Bytes of a pixel of a saved frame in half precision, compressed: 11.8 were counted for examples/room."""
SHARE_OF_DISK = 0.1
"""Share of the free space that frames may take when nobody asked for them."""

Load = Callable[[str, str | None], Model]
"""Gives the model of a checkpoint, its trunk of a type."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    run_command(InferConfig, infer, source_first(arguments), "python -m ivggt_jax.infer")


def infer(config: InferConfig, load: Load = loading.load) -> int:
    """Camera poses, depth and points from a folder of images, a video or a camera, in bounded memory."""
    # What is cheap to find out comes first: the source, the options, the folder; then what is downloaded, read and compiled.
    live = not comes_again(config.source.frames)
    # Of a camera the run counts the frames, for the first one that is read is no part of it (`_started`).
    with open_source(dataclasses.replace(config.source, max_frames=None) if live else config.source) as source:
        check(config)
        check_split(config, source)
        out = config.out or output_folder.default_out(config.source.frames)
        others = (config.source.masks, config.source.depth, config.options.images, config.align.trajectory)
        output_folder.check_inputs_outside(out, config.source.frames, others)
        if config.align.trajectory:
            read_trajectory(config.align.trajectory)  # what is wrong with it shows now, not at the end
        return _in_folder(config, out, source, load)


def _in_folder(config: InferConfig, out: Path, source: Source, load: Load) -> int:
    """The run, unless the folder holds another one."""
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
        return _infer(config, out, model, source, unfinished)


def _precision(config: InferConfig) -> str | None:
    """Type of the trunk; None is what this device gets. Bfloat16 where that would take half of what the user allows."""
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


def _infer(config: InferConfig, out: Path, model: Model, source: Source, unfinished: Unfinished | None) -> int:
    """Run from the beginning, or from where the unfinished run was saved."""
    weights, again = weights_fingerprint(model), comes_again(config.source.frames)
    length = source.expected_length or config.source.max_frames
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
        last = source.last_skipped  # before they are counted, for reading ahead goes on
        now = Unfinished(decisive, run.frames, run.next_index, _skipped(source, unfinished), last)
        save_state(out, now, run.state, run.writers.state() | (watch.state() if watch else {}))

    run = Run(
        model,
        state,
        Writers(_growing(config, state), out, config.options, unfinished.frames, unfinished.writers),
        Progress(length, unfinished.frames, state, sure=length == source.length, live=not again),
        points_from_depth=config.points_from == "depth",
        begin=unfinished.frames,
        next_index=unfinished.next_index,
        save_state=save if again and parallel is None else None,
        save_every=config.save_every,
        instead=parallel or watch,
        without_moving=watch is not None,
    )
    unfinished.release()
    with _viewer(config, out, run) as view, parallel or contextlib.nullcontext():
        interrupted: list[int] = []
        try:
            with interruptible() as interrupted:
                lost = _feed(config, run, source, parallel.frames() if parallel else frames, interrupted)
            _build(config, out, run, interrupted)
        except ValueError:
            if run.ended:
                finish(out)  # trying again would fail again
            raise
        finally:  # also after an error: what was finished is on disk, and this says how to read it
            _say_what_was_run(config, out, run, _counts(source, unfinished), interrupted)
        if not interrupted:
            finish(out)
            if view:
                view.wait()
        elif again:
            _say_stopped(run, parallel is not None)
    return 128 + interrupted[0] if interrupted else int(lost)


def _begun(out: Path, decisive: dict[str, Any], again: bool) -> Unfinished:
    """A run in a folder that nothing of an earlier one is left in, with its options saved if it can be resumed."""
    output_folder.begin_anew(out)
    if again:
        begin(out, decisive)
    return Unfinished(decisive)


def _say_stopped(run: Run, parallel: bool) -> None:
    where = "the beginning" if parallel else "here" if run.saved else "the last state that was saved"
    say(f"stopped; --resume goes on from {where}")


def _check_same(config: InferConfig, out: Path, unfinished: Unfinished, weights: int) -> None:
    """Raises ValueError when a run with these options cannot go on where the unfinished one was saved."""
    if unfinished.options.get("weights") != weights:
        raise ValueError(f"{config.checkpoint} holds other weights than the run in {out} began with")
    if config.split:
        raise ValueError(f"{out} holds a run of one process: --resume without --split goes on, --overwrite begins anew")


def _say_notes(config: InferConfig) -> None:
    """What the user may not expect of these options."""
    if "tracks" in config.heads and not WITH_TRACKS.intersection(config.growing):
        say("warning: tracks are predicted, but nothing writes them: add tracks to --export")
    if note := note_on_demo(plain(for_records(config))):
        say(note)


def _feed(config: InferConfig, run: Run, source: Source, frames: Iterator[Frame], interrupted: list[int]) -> bool:
    """Run over the frames and close their source. Returns whether a camera was lost: that is how one ends."""
    source.while_waiting = partial(run.while_waiting, interrupted)
    with contextlib.closing(source):  # a camera would go on, and count
        try:
            run.feed(frames, interrupted)
        except SourceError as error:
            if comes_again(config.source.frames):
                raise
            say(f"error: {error}")
            return True
    return False


def _build(config: InferConfig, out: Path, run: Run, interrupted: list[int]) -> None:
    """What is made of saved frames: at the end and after Ctrl-C, but not when the system wants the process to go."""
    moved = config.mapping.loops or config.align.trajectory
    names = [name for name in config.outputs if name != "npz"] if moved else config.built
    if not names or not run.frames or interrupted not in ([], [signal.SIGINT]):
        return
    if not interrupted:
        run.save()  # a kill from here on costs none of the frames
    saved, records = move(SavedRun(out, source=config.source), config.mapping.loops, config.align)
    build(saved, names, config.options, write_records(records, out, apart=True))


def _with_frames(config: InferConfig, out: Path, length: int | None, state: StreamState) -> InferConfig:
    """The options with what to write said: frames are kept for view and export unless they are endless or fill the disk."""
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

    A camera goes on while the step is compiled: the stream begins with the frame that is the latest then.
    """
    frames = source.frames()
    if config.align.trajectory:
        frames = checked(frames, config.align.trajectory, source.expected_length)
    first = next(frames)
    if first.path and not first.camera and (offer := offered_camera(first.path, first.fit.original_size)):
        say(f"{first.name} was taken with a focal length that --camera {offer} would use (docs/sensors.md)")
    height, width, _ = first.image.shape
    length = source.length or config.source.max_frames
    cache = _cache(config, model, length, height, width)
    grid = _grid(config, height, width)
    one_way = "depth" in config.predicted and len(config.source.camera_towards) == 1
    submaps = config.mapping.choose(model.config, length, needed=config.source.depth is not None) if one_way else None
    if submaps is not None:
        say(
            f"a new submap every {submaps.frames} frames keeps the camera; --submaps off is one stream (docs/mapping.md)"
        )
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
    if comes_again(config.source.frames):
        stages.announce(f"{words} and length), then the first frame", thing)
        return chain([first], frames), state
    with stages.stage(f"{words}), before the first frame is taken", thing):
        compile_step(model, state, config.moving != "keep")
    return islice(frames, config.source.max_frames), begin()


def _growing(config: InferConfig, state: StreamState) -> tuple[str, ...]:
    """Outputs written frame by frame; a map's submaps among them, without being asked for, and its loops."""
    if state.settings.submaps is None:
        return config.growing
    return (*config.growing, "submaps", *(("loops",) if config.mapping.loops else ()))


def _cache(config: InferConfig, model: Model, length: int | None, height: int, width: int) -> CacheConfig:
    """What fits: the memory that the user allows, or that is free."""
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
    """Unreadable frames of the whole run, those included that were read ahead when it was saved."""
    before = unfinished.skipped
    names = [*before["names"], *source.skipped_names]
    return {"count": before["count"] + source.skipped, "names": names[:NAMES_KEPT]}


def _say_what_was_run(config: InferConfig, out: Path, run: Run, counts: dict[str, Any], interrupted: list[int]) -> None:
    """In `run.json`, and to the user."""
    write_run_json(out, {**record(config, run), "skipped": counts, "interrupted": bool(interrupted)})
    say_end(config, out, run)


def _counts(source: Source, unfinished: Unfinished) -> dict[str, Any]:
    """Frames of the source that were not run."""
    return {**_skipped(source, unfinished), "left_out": source.left_out, "dropped": source.dropped}


def _viewer(config: InferConfig, out: Path, run: Run) -> contextlib.AbstractContextManager[Any]:
    """With --view, the page that shows the run while it goes on; None without."""
    if not config.view:
        return contextlib.nullcontext()
    from ivggt_jax.viewer.page import View

    return View(out, config.port, lambda: run.lengths)


if __name__ == "__main__":
    main()
