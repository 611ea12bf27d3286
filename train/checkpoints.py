"""Training checkpoints with Orbax: asynchronous, the newest few kept, whole or not there at all."""

import logging
from pathlib import Path
from typing import Self

import jax
import orbax.checkpoint as ocp

from train.distill import TrainState


class Checkpoints:
    """The checkpoints of a run, in `folder`/checkpoints; a context manager that waits for the last save.

    Everything a run needs to go on is in `TrainState`: the data of a step are a function of its number.
    """

    def __init__(self, folder: Path, keep: int):
        """Open or make the folder; `keep` newest checkpoints stay."""
        logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax tells every step of a save.
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
        self._manager = ocp.CheckpointManager((folder / "checkpoints").absolute(), options=options)

    def restore(self, state: TrainState) -> TrainState:
        """The newest checkpoint, placed and typed like `state`; `state` itself when there is none."""
        step = self._manager.latest_step()
        if step is None:
            return state
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        return self._manager.restore(step, args=ocp.args.StandardRestore(abstract))

    def save(self, state: TrainState) -> None:
        """Save in the background under the state's step; the state may be changed or donated at once."""
        self._manager.save(int(state.step), args=ocp.args.StandardSave(state), force=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.wait_until_finished()
        self._manager.close()
