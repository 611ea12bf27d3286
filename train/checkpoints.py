"""Training checkpoints with Orbax: asynchronous and atomic; the newest few are kept."""

import logging
from pathlib import Path
from typing import Any, Self

import jax
import orbax.checkpoint as ocp

from ivggt_jax.train.distill import TrainState


class Checkpoints:
    """The checkpoints of a run, in `folder`/checkpoints; a context manager that waits for the last save.

    `TrainState` has everything a run needs to continue, because the data of a step depend on its number alone. All processes of a
    run must make the same calls.
    """

    def __init__(self, folder: Path, keep: int):
        """Open or create the folder; the `keep` newest checkpoints stay."""
        logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax logs every step of a save, and errors twice.
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
        self._folder = (folder / "checkpoints").absolute()
        self._manager = ocp.CheckpointManager(
            self._folder, options=options, item_handlers=ocp.StandardCheckpointHandler()
        )

    @property
    def newest(self) -> int | None:
        """Step of the newest checkpoint; None if there is none."""
        return self._manager.latest_step()

    def restore(self, abstract: Any, shardings: Any) -> TrainState:
        """Restore the newest checkpoint. abstract: a `TrainState` of shapes and types; shardings: where each array goes.

        Raises ValueError when the checkpoint is of another model or optimiser.
        """
        step = self.newest
        saved, expected = _shapes(self._manager.item_metadata(step).tree), _shapes(abstract)
        differing = sorted(path for path in saved.keys() | expected.keys() if saved.get(path) != expected.get(path))
        if differing:
            path = differing[0]
            raise ValueError(
                f"{self._folder / str(step)} is from a run with another student, other heads, frozen groups, accumulation or "
                f"average: {path} is {saved.get(path, 'not in it')}, here {expected.get(path, 'left out')} "
                f"({len(differing)} such); choose another folder, or what {self._folder.parent / 'config.json'} says"
            )
        target = jax.tree.map(
            lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), abstract, shardings
        )
        return self._manager.restore(step, args=ocp.args.StandardRestore(target))

    def save(self, state: TrainState) -> None:
        """Save in the background under the state's step; the state may be changed or donated at once.

        Raises OSError when the previous save failed.
        """
        self._settle()
        self._manager.save(int(state.step), args=ocp.args.StandardSave(state), force=True)

    def check(self) -> None:
        """Raises OSError when the last save failed; does not wait for one in progress."""
        if not self._manager.is_saving_in_progress():
            self._settle()

    def _settle(self) -> None:
        """Wait for the save in progress."""
        try:
            self._manager.wait_until_finished()
        except (OSError, ValueError) as error:
            raise OSError(f"no checkpoint could be saved in {self._folder}: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._settle()
        self._manager.close()


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x.shape for path, x in leaves}
