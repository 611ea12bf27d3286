"""What moves in a run's frames: told frame by frame, and kept out of what the map looks at in the next ones."""

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
"""Of its arrays among those of the writers."""


class MovingThings:
    """Stands in a `Run` for the model: its predictions have as `motion` which pixels move, 0 or 1."""

    def __init__(self, model: Model, state: StreamState, saved: Mapping[str, np.ndarray] | None = None):
        """saved: where `state()` is found among other arrays, of a run that goes on; none of one that begins."""
        self._model = model
        self._window = empty_window(state)
        if saved:
            leaves, structure = jax.tree.flatten(self._window)
            found = [jnp.asarray(saved[f"{PREFIX}{number}"]) for number in range(len(leaves))]
            self._window = jax.tree.unflatten(structure, found)

    def compute(self, state: StreamState, frames: list[Frame]) -> tuple[StreamState, Predictions]:
        """As `computed`. Nothing waits for the device: what moves in a frame becomes the next one's mask there."""
        state, found = computed(self._model, state, frames, self._window.still)
        images = np.stack([frame.image for frame in frames])[:, None]
        self._window, moving = judged(self._window, images, found)
        return state, replace(found, motion=moving.astype(jnp.float32))

    def state(self) -> dict[str, np.ndarray]:
        """What a resumed run needs to tell the same."""
        return {f"{PREFIX}{number}": np.asarray(leaf) for number, leaf in enumerate(jax.tree.leaves(self._window))}
