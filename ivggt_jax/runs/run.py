"""A run: frames through the model to the writers; one is read ahead, one computed, one written behind."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import jax
import numpy as np

from ivggt_jax import geometry
from ivggt_jax.model.parameters import Model
from ivggt_jax.model.vggt import Predictions
from ivggt_jax.runs.command import say
from ivggt_jax.runs.progress import Progress
from ivggt_jax.sources import Frame, SourceError
from ivggt_jax.streaming.inputs import FrameArray
from ivggt_jax.streaming.moving import empty_window, judged
from ivggt_jax.streaming.state import StreamState
from ivggt_jax.streaming.steps import scan, step
from ivggt_jax.writers import Result, Writers
from ivggt_jax.writers.result import LONGEST_FOCAL

SECONDS_BETWEEN_SAVES = 60.0
"""Least time between saves of the state, if the user did not set the interval."""
SHARE_FOR_SAVES = 0.05
"""Largest share of the time for saves in that case."""


class Computes(Protocol):
    """Takes the place of a model in a run."""

    def compute(self, state: StreamState, frames: list[Frame]) -> tuple[StreamState, Predictions]:
        """Like `computed`. The given state is used up."""


class Stopped(Exception):
    """Raised to stop waiting for further frames."""


class Run:
    """Feeds frames to a model and its predictions to writers, and triggers saves of the state between two frames."""

    def __init__(
        self,
        model: Model,
        state: StreamState,
        writers: Writers,
        progress: Progress,
        *,
        points_from_depth: bool,
        begin: int = 0,
        next_index: int = 0,
        save_state: Callable[["Run"], None] | None = None,
        save_every: int | None = None,
        instead: Computes | None = None,
        without_moving: bool = False,
    ):
        """begin: number of frames finished before this part of the run; next_index: index of the first frame after those.

        save_state is called when everything computed is also written; None: never. save_every: frames between two calls; 0: only
        when the run is stopped; None: about once a minute, and for at most a twentieth of the time. instead: computes the
        predictions in place of the model. without_moving: mask pixels that `motion` marks as moving.
        """
        self.model, self.state, self.writers, self.progress = model, state, writers, progress
        self._step = instead.compute if instead else partial(computed, model)
        self.frames, self.next_index = begin, next_index
        self._computed = self._tried = begin
        self._points_from_depth, self._without_moving = points_from_depth, without_moving
        self._save_state, self._every = save_state, save_every
        self._saved_at, self._seconds_to_save = time.perf_counter(), 0.0
        self._together = state.settings.cache.frames_per_step
        self._pending: tuple[list[Frame], Predictions, jax.Array] | None = None
        self._writing: Future[None] | None = None
        self.lengths = np.asarray(state.lengths[0])
        """[layer] live tokens after the newest finished frame."""
        self.ended = False
        """Whether all frames are done, without a failure or an interruption."""
        self.failed: str | None = None
        """Why what comes after the frames could not be done."""
        self.saved = False
        """Whether the last attempt to save the state succeeded."""

    def feed(self, frames: Iterator[Frame], interrupted: list[int]) -> None:
        """Run until the frames end or the user interrupts. What was begun is finished, written and, if stopped, saved.

        Raises SourceError when the frames end with an error, WriteError when the disk is full; either way, frames finished before
        are on disk.
        """
        with contextlib.ExitStack() as stack:
            stack.callback(self.progress.close)
            stack.callback(self.writers.close)
            self._thread = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="write-behind"))
            waiting: list[Frame] = []
            try:
                with contextlib.suppress(Stopped):
                    for frame in frames:
                        waiting.append(frame)
                        if len(waiting) == self._together:
                            together, waiting = waiting, []
                            self._compute(together)
                            if self._due():
                                self.save()
                        if interrupted:
                            break
                self._compute_last(waiting, stopped=bool(interrupted))
            except SourceError:  # about the next frame: the results of those before it are valid
                self._compute_last(waiting, stopped=True)
                self.save()
                raise
            except KeyboardInterrupt:
                self._pending = None
                raise
            finally:
                self._settle()
            if interrupted:
                self.save()
            self.ended = not interrupted

    def while_waiting(self, interrupted: list[int]) -> None:
        """Called while waiting for the next frame: hands on computed frames, and reacts to the user.

        Raises Stopped, for `feed` to catch, when interrupted.
        """
        if interrupted:
            raise Stopped
        self._hand_on_pending()

    def _compute(self, frames: list[Frame]) -> None:
        """Start computing frames that share a pass, and meanwhile hand the previous ones to the writers."""
        self.state, predictions = self._step(self.state, frames)
        before, self._pending = self._pending, (frames, predictions, self.state.lengths)
        self._computed += len(frames)
        self._hand_on(before)

    def _compute_last(self, frames: list[Frame], stopped: bool) -> None:
        """Compute the last frames, fewer than share a pass; a stopped run leaves them to the resumed one, to share a pass
        there."""
        if stopped and self._save_state is not None:
            return
        for frame in frames:
            self._compute([frame])

    def _hand_on(self, pending: tuple[list[Frame], Predictions, jax.Array] | None) -> None:
        """Wait for frames' predictions, and for earlier frames to be written; then have these written."""
        if pending is None:
            return
        frames, predictions, lengths = pending
        host, lengths = jax.device_get((jax.tree.map(lambda x: x[:, 0], predictions), lengths[0]))
        self.lengths = lengths
        self._wait_for_writers()
        self._writing = self._thread.submit(self._write, frames, host)
        self.progress.advance(self.lengths, len(frames), frames[-1].timestamp)

    def _hand_on_pending(self) -> None:
        before, self._pending = self._pending, None
        self._hand_on(before)

    def _write(self, frames: list[Frame], host: Predictions) -> None:
        """Runs in the writing thread."""
        for i, frame in enumerate(frames):
            of_frame = jax.tree.map(lambda x, i=i: x[i], host)
            result = make_result(frame, of_frame, self._points_from_depth)
            self.writers.write(moving_masked(result, of_frame.motion > 0.5) if self._without_moving else result)
            self.frames += 1
            self.next_index = frame.index + 1

    def _wait_for_writers(self) -> None:
        writing, self._writing = self._writing, None
        try:
            if writing is not None:
                writing.result()
        except Exception:
            self._pending = None  # no frame is written after a missing one
            raise

    def _settle(self) -> None:
        """Finish and write everything that was begun."""
        self._hand_on_pending()
        self._wait_for_writers()

    def _due(self) -> bool:
        """Whether to save now. Saving makes the run wait, which is useless if no state can be saved."""
        if self._save_state is None:
            return False
        if self._every is not None:
            return 0 < self._every <= self._computed - self._tried
        pause = max(SECONDS_BETWEEN_SAVES, self._seconds_to_save / SHARE_FOR_SAVES)
        return time.perf_counter() - self._saved_at > pause

    def save(self) -> None:
        """Settle, and save the state; failing to save does not end the run."""
        self._settle()
        self._tried = self._computed
        if self._save_state is None:
            return
        began = time.perf_counter()
        try:
            self._save_state(self)
            self.saved = True
        except OSError as error:
            self.saved = False
            say(f"warning: the state is not saved, --resume would go back further: {error}")
        self._saved_at = time.perf_counter()
        self._seconds_to_save = self._saved_at - began
        self.progress.pause()


def computed(
    model: Model, state: StreamState, frames: list[Frame], still: jax.Array | None = None
) -> tuple[StreamState, Predictions]:
    """Process the next frames of one stream, a single one or all that share a pass; predictions [T,1,…]. The state is used up.

    still: bool [H,W], pixels that the map may use, in addition to the frames' own masks.
    """
    images = np.stack([frame.image for frame in frames])[:, None]
    masks, depths = _masks(state, frames), depths_of(frames)
    if masks is not None and still is not None:
        masks = masks & still
    if len(frames) == state.settings.cache.frames_per_step > 1:
        return scan(model, state, images, masks, depths)
    state, predictions = step(
        model,
        state,
        images[0],
        masks=None if masks is None else masks[0],
        depth=None if depths is None else depths[0],
    )
    return state, jax.tree.map(lambda x: x[None], predictions)


def _masks(state: StreamState, frames: list[Frame]) -> FrameArray | None:
    """Pixels that the map may use, bool [T,1,H,W]; None without a map. Otherwise never None, so that one program is compiled."""
    return None if state.settings.submaps is None else masks_of(frames)


def masks_of(frames: list[Frame]) -> np.ndarray:
    """Pixels that may be used, bool [T,1,H,W]."""
    everything = np.ones(frames[0].image.shape[:2], bool)
    return np.stack([everything if frame.mask is None else frame.mask for frame in frames])[:, None]


def depths_of(frames: list[Frame]) -> np.ndarray | None:
    """Measured depth, float32 [T,1,H,W]; None without a sensor. With a sensor every frame has a map, possibly an empty one."""
    maps = [frame.depth for frame in frames if frame.depth is not None]
    return np.stack(maps)[:, None] if maps else None


def compile_step(model: Model, state: StreamState, moving: bool = False) -> None:
    """Compile all that a run needs, with a black frame; the state is used up. moving: also for detecting what moves."""
    settings = state.settings
    height, width, together = settings.height, settings.width, settings.cache.frames_per_step
    black = np.zeros((together, len(state.frame), height, width, 3), np.uint8)
    # Masks as in `Run`; without them another program would be compiled.
    window = empty_window(state) if moving else None
    masks: FrameArray | None = None if settings.submaps is None else np.ones(black.shape[:-1], bool)
    if masks is not None and window is not None:
        masks = masks & window.still(together)
    if together > 1:
        state, predictions = scan(model, state, black, masks, None)
    else:
        state, predictions = step(model, state, black[0], masks=masks if masks is None else masks[0], depth=None)
        predictions = jax.tree.map(lambda x: x[None], predictions)
    told = None if window is None else judged(window, black, predictions)
    jax.block_until_ready((predictions, told))


def make_result(frame: Frame, host: Predictions, points_from_depth: bool) -> Result:
    """The record for the writers, from one frame's predictions on the host, without a batch axis."""
    height, width, _ = frame.image.shape
    from_depth = points_from_depth and host.depth is not None
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        cam_from_world, intrinsics, unprojected = _geometry(
            host.pose_encoding, host.depth if from_depth else None, height, width
        )
    fields: dict[str, Any] = {
        name: getattr(host, name) for name in ("depth", "depth_confidence", "points", "points_confidence")
    }
    if from_depth:
        fields |= {"points": np.asarray(unprojected), "points_confidence": host.depth_confidence}
    return Result(
        frame=frame,
        cam_from_world=np.asarray(cam_from_world, np.float64),
        intrinsics=np.clip(np.asarray(intrinsics, np.float64), -LONGEST_FOCAL, LONGEST_FOCAL)
        if frame.camera is None
        else frame.camera.intrinsics(height, width),
        tracks=host.tracks,  # type: ignore[arg-type]
        visibility=host.visibility,  # type: ignore[arg-type]
        map=host.map,
        **fields,
    )


def moving_masked(result: Result, moving: np.ndarray) -> Result:
    """The result without the moving pixels, bool [H,W], so that clouds, tracks and loops do not use them."""
    mask = result.frame.mask
    moving = moving if mask is None else moving & mask
    return replace(result, frame=replace(result.frame, mask=~moving if mask is None else mask & ~moving), moving=moving)


@partial(jax.jit, static_argnames=("height", "width"))
def _geometry(
    pose_encoding: jax.Array, depth: jax.Array | None, height: int, width: int
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Camera, and points if there is depth."""
    cam_from_world, intrinsics = geometry.cameras_from_pose(pose_encoding, height, width)
    points = None if depth is None else geometry.unproject(depth, cam_from_world, intrinsics)
    return cam_from_world, intrinsics, points


@contextlib.contextmanager
def interruptible() -> Iterator[list[int]]:
    """Yield a list that stays empty until Ctrl-C or SIGTERM appends its number; the current frame is then finished first.

    A second signal acts at once.
    """
    interrupted: list[int] = []

    def note(number: int, _: object) -> None:
        if interrupted:
            raise KeyboardInterrupt
        interrupted.append(number)
        say("\nfinishing the frame at hand; again to stop at once")

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
