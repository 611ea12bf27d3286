"""The sequential part: the frames of all pieces, placed in one map."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from types import TracebackType
from typing import Self

import jax
import jax.numpy as jnp

from ivggt_jax.model.vggt import Predictions
from ivggt_jax.runs.run import depths_of, masks_of
from ivggt_jax.sources import Frame
from ivggt_jax.sources.frame import Mark
from ivggt_jax.split.messages import Order, Piece, Seen
from ivggt_jax.split.pool import Pool
from ivggt_jax.streaming.apart import look_at, place_frame
from ivggt_jax.streaming.mapped_pass import Views
from ivggt_jax.streaming.state import StreamState


class Split:
    """Provides a source's frames for a `Run`, and takes the place of its model. Use it in a `with` block."""

    def __init__(self, order: Order, processes: int, first: Frame, while_waiting: Callable[[], None]):
        """first: the source's first frame; while_waiting: as in `Pool`."""
        self._pool = Pool(order, processes, while_waiting)
        self._begin = Piece(Mark.of(first, 0), usual=None)
        self._now: Seen | None = None
        self._count = 0
        self._clipped = self._dropped = 0
        """Counts up to the newest anchor, including it as the last frame of its submap."""

    def frames(self) -> Iterator[Frame]:
        """All frames in order; compute each before requesting the next.

        Raises what `Pool.next` raises.
        """
        self._pool.go_to(self._begin)
        while (seen := self._pool.next()) is not None:
            self._now = seen
            yield seen.frame
            self._count += 1

    def compute(self, state: StreamState, frames: list[Frame]) -> tuple[StreamState, Predictions]:
        """Place the newest frame in the world; predictions [1,1,…]. The given state, from `without_network`, is used up."""
        seen = again = self._now
        assert seen is not None
        assert again is not None
        levels, due = look_at(state, seen.frame.image[None], masks_of(frames)[0])
        after = self._pool.after
        guessed = after is not None and after.anchor.index == seen.frame.index
        if due[0]:
            if after is None or not guessed:
                assert state.map is not None
                after = Piece(Mark.of(seen.frame, self._count), float(state.map.sharpness[0]))
            again = self._anew(after)
        elif guessed:
            self._pool.prolong()
        depths = depths_of(frames)
        depth = None if depths is None else depths[0][:, None]
        views = Views(levels, due, seen.predictions, again.predictions, depth)
        state, found = place_frame(state, views)
        return self._counted(state, again), jax.tree.map(lambda x: x[None], found)

    def close(self) -> None:
        """End the processes."""
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _anew(self, piece: Piece) -> Seen:
        """The newest frame, seen as the first of the submap that begins with it."""
        before = self._now
        self._pool.go_to(piece)
        again = self._pool.next()
        assert before is not None
        assert again is not None
        self._clipped += before.clipped
        self._dropped += before.dropped
        return again

    def _counted(self, state: StreamState, newest: Seen) -> StreamState:
        """The state with the counters of the network's memory after the newest frame."""
        return replace(
            state,
            cache=replace(state.cache, length=jnp.asarray(newest.lengths)[:, None]),
            clipped=jnp.full(1, self._clipped + newest.clipped, jnp.int32),
            dropped=jnp.full(1, self._dropped + newest.dropped, jnp.int32),
        )
