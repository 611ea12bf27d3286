"""Detects what moves in a run's frames, one by one, and masks it from the map in the next frame."""

from collections.abc import Mapping
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from ivggt_jax.model.parameters import Model
from ivggt_jax.model.vggt import Predictions
from ivggt_jax.runs.run import computed
from ivggt_jax.sources import Frame
from ivggt_jax.streaming.moving import empty_window, judged
from ivggt_jax.streaming.state import StreamState

PREFIX = "moving window/"
"""Prefix of its arrays among the writers' saved ones."""


class MovingThings:
    """Takes the model's place in a `Run`; in its predictions `motion` is 1 for moving pixels and 0 for others."""

    def __init__(self, model: Model, state: StreamState, saved: Mapping[str, np.ndarray] | None = None):
        """saved: for a resumed run, the arrays that include those of `state()`."""
        self._model = model
        self._window = empty_window(state)
        if saved:
            leaves, structure = jax.tree.flatten(self._window)
            found = [jnp.asarray(saved[f"{PREFIX}{number}"]) for number in range(len(leaves))]
            self._window = jax.tree.unflatten(structure, found)

    def compute(self, state: StreamState, frames: list[Frame]) -> tuple[StreamState, Predictions]:
        """Like `computed`. Nothing waits for the device: the mask of one frame stays there for the next."""
        state, found = computed(self._model, state, frames, self._window.still(len(frames)))
        images = np.stack([frame.image for frame in frames])[:, None]
        self._window, moving = judged(self._window, images, found)
        return state, replace(found, motion=moving.astype(jnp.float32))

    def state(self) -> dict[str, np.ndarray]:
        """The state that a resumed run needs for the same result."""
        return {f"{PREFIX}{number}": np.asarray(leaf) for number, leaf in enumerate(jax.tree.leaves(self._window))}
