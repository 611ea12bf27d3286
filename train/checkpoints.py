"""Training checkpoints with Orbax: asynchronous, the newest few kept, whole or not there at all."""

import logging
from pathlib import Path
from typing import Any, Self

import jax
import orbax.checkpoint as ocp

from train.distill import TrainState


class Checkpoints:
    """The checkpoints of a run, in `folder`/checkpoints; a context manager that waits for the last save.

    Everything a run needs to go on is in `TrainState`: the data of a step are a function of its number. All processes
    of a run have to make the same calls.
    """

    def __init__(self, folder: Path, keep: int):
        """Open or make the folder; `keep` newest checkpoints stay."""
        logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax tells every step of a save.
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
        self._folder = (folder / "checkpoints").absolute()
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    @property
    def newest(self) -> int | None:
        """Step of the newest checkpoint; None when there is none."""
        return self._manager.latest_step()

    def restore(self, abstract: Any, shardings: Any) -> TrainState:
        """The newest checkpoint. abstract: a `TrainState` of shapes and types; shardings: where each array goes.

        Raises ValueError when the checkpoint is of another model or optimiser.
        """
        step = self.newest
        target = jax.tree.map(
            lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), abstract, shardings
        )
        try:
            return self._manager.restore(step, args=ocp.args.StandardRestore(target))
        except (ValueError, KeyError) as error:
            raise ValueError(
                f"{self._folder / str(step)} does not fit this run's student, frozen groups, accumulation and average; "
                f"choose another folder or the configuration in {self._folder.parent / 'config.json'}"
            ) from error

    def save(self, state: TrainState) -> None:
        """Save in the background under the state's step; the state may be changed or donated at once."""
        self._manager.save(int(state.step), args=ocp.args.StandardSave(state), force=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.wait_until_finished()
        self._manager.close()
