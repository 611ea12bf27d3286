"""`python -m ivggt_jax.split.process`: runs the network on one submap after another, anywhere in a source."""

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from multiprocessing.connection import Connection
from typing import Any

import jax
import numpy as np
from tyro.conf import Positional

from ivggt_jax.mapping.config import SubmapConfig
from ivggt_jax.mapping.pyramid import pyramid, sharpness
from ivggt_jax.mapping.submaps import is_full, usual_sharpness
from ivggt_jax.model.parameters import Model
from ivggt_jax.runs.command import run_command
from ivggt_jax.runs.run import depths_of, masks_of
from ivggt_jax.sources import Frame, Source, SourceError, open_source
from ivggt_jax.sources.frame import Mark
from ivggt_jax.split.messages import Ahead, Answer, Ended, Order, Piece, Seen, Task
from ivggt_jax.streaming.apart import see_frame
from ivggt_jax.streaming.inputs import FrameArray, still, unit
from ivggt_jax.streaming.steps import init_stream, reset
from ivggt_jax.weights import loading


@dataclass(frozen=True)
class ProcessConfig:
    """Options of the process."""

    channel: Positional[int]
    """File descriptor over which an `Order` and then tasks come in, and answers go out."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line program."""
    logging.getLogger("ivggt_jax").setLevel(logging.ERROR)  # the writing process has already warned about this source
    run_command(ProcessConfig, serve, arguments, "python -m ivggt_jax.split.process")


def serve(options: ProcessConfig) -> int:
    """Process the requested pieces until the other side closes the channel."""
    channel: Connection[Any, Any] = Connection(options.channel)
    try:
        with _listening():
            order: Order = channel.recv()
        model = loading.load(order.checkpoint, order.precision).only_heads(order.heads)
        with open_source(order.source) as source:
            eye = Eye(order, model, source)
            while True:
                with _listening():
                    task: Task | None = channel.recv()
                for answer in () if task is None else eye.answers(task):
                    with _listening():
                        channel.send(answer)
                        if channel.poll():  # another task, or none
                            break
    except _Closed:
        return 0


class _Closed(Exception):
    """The other side has closed the channel."""


@contextmanager
def _listening() -> Iterator[None]:
    """Around uses of the channel alone, because reading a file raises OSError too."""
    try:
        yield
    except (EOFError, OSError):
        raise _Closed from None


class Eye:
    """A network with the memory of one submap."""

    def __init__(self, order: Order, model: Model, source: Source):
        self._order, self._model, self._source = order, model, source
        self._state = init_stream(
            model, order.cache, height=order.height, width=order.width, heads=order.heads, features=True
        )

    def answers(self, task: Task) -> Iterator[Answer]:
        """The results for a piece; first, if it is close enough, where the next piece begins."""
        number, config = task.number, self._order.submaps
        self._state = reset(self._state, np.ones(1, bool))
        found = scouted(config, task.piece, self._source)
        read: deque[Frame | Piece] = deque()
        error = None
        while True:
            if not read and error is None:
                # Most submaps are read completely before they are processed; of a longer one no more frames are held.
                try:
                    read.extend(islice(found, config.frames + config.delay + 1))
                except SourceError as problem:  # the frames before it are valid
                    error = str(problem)
                if read and isinstance(last := read[-1], Piece):
                    read.pop()
                    yield Ahead(number, last)
            if not read:
                break
            frame = read.popleft()
            assert isinstance(frame, Frame)
            yield self._seen(number, frame)
        yield Ended(number, error)

    def _seen(self, number: int, frame: Frame) -> Seen:
        depths = depths_of([frame]) if self._model.config.depth_input else None
        self._state, found = see_frame(
            self._model, self._state, frame.image[None], None if depths is None else depths[0], np.zeros(1, bool)
        )
        found, state = replace(found, features=found.features[:, :, :1]), self._state
        seen, lengths, clipped, dropped = jax.device_get((found, state.lengths[0], state.clipped[0], state.dropped[0]))
        return Seen(number, frame, seen, lengths, int(clipped), int(dropped))


def scouted(config: SubmapConfig, piece: Piece, source: Source) -> Iterator[Frame | Piece]:
    """The frames of a piece up to the next anchor, then the piece that begins there; or the frames up to the source's end.

    Raises SourceError when they cannot be read.
    """
    usual = np.asarray(piece.usual or 0, np.float32)
    for position, frame in enumerate(source.frames_from(piece.anchor)):
        first, frames = np.asarray(piece.usual is None and position == 0), np.asarray(position + 1, np.int32)
        full, after = _looked_at(config, frame.image, masks_of([frame])[0, 0], usual, first, frames)
        yield frame
        if full and position + 1 >= piece.least:
            yield Piece(Mark.of(frame, piece.anchor.count + position), float(usual))
            return
        usual = np.asarray(after)


@partial(jax.jit, static_argnums=0)
def _looked_at(
    config: SubmapConfig, image: FrameArray, mask: FrameArray, usual: jax.Array, first: jax.Array, frames: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Whether a submap of `frames` frames is full with this image [H,W,3], and the usual sharpness after it."""
    sharp = sharpness(pyramid(still(unit(image), mask)))
    return is_full(config, usual, sharp, frames), usual_sharpness(usual, sharp, first)


if __name__ == "__main__":
    main()
