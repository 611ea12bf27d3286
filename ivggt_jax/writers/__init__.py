"""Output writers: one module per format, all opened, fed, resumed and closed in the same way."""

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ivggt_jax.options.export import ExportOptions
from ivggt_jax.writers.depth import DepthWriter
from ivggt_jax.writers.evidence import Evidence
from ivggt_jax.writers.files import ResumeError, WriteError
from ivggt_jax.writers.intrinsics import IntrinsicsWriter
from ivggt_jax.writers.kitti import KittiWriter
from ivggt_jax.writers.loops import LoopsWriter
from ivggt_jax.writers.masks import MasksWriter
from ivggt_jax.writers.mcap import McapWriter
from ivggt_jax.writers.moving import MovingWriter
from ivggt_jax.writers.npz import NpzWriter
from ivggt_jax.writers.ply import PlyWriter
from ivggt_jax.writers.result import Result
from ivggt_jax.writers.rrd import RrdWriter
from ivggt_jax.writers.run_json import read_run_json, write_run_json
from ivggt_jax.writers.submaps import SubmapsWriter
from ivggt_jax.writers.track_file import TracksWriter
from ivggt_jax.writers.trust import Trust
from ivggt_jax.writers.tum import TumWriter
from ivggt_jax.writers.video import VideoWriter
from ivggt_jax.writers.writer import Writer

__all__ = [
    "WRITERS",
    "ExportOptions",
    "Result",
    "ResumeError",
    "WriteError",
    "Writer",
    "Writers",
    "read_run_json",
    "write_run_json",
]

WRITERS: dict[str, type[Writer]] = {
    writer.name: writer
    for writer in (
        TumWriter,
        KittiWriter,
        IntrinsicsWriter,
        NpzWriter,
        PlyWriter,
        DepthWriter,
        TracksWriter,
        MasksWriter,
        MovingWriter,
        VideoWriter,
        RrdWriter,
        McapWriter,
        SubmapsWriter,
        LoopsWriter,
    )
}
"""Outputs that grow frame by frame, by their name in --export."""


class Writers:
    """Several outputs of one run, fed together."""

    def __init__(
        self,
        names: Iterable[str],
        out: Path,
        options: ExportOptions,
        frames: int = 0,
        state: Mapping[str, np.ndarray] | None = None,
    ):
        """Open writers by name in the folder `out`.

        frames 0 starts over and removes an earlier run's files of the same outputs; a resumed run passes the number of frames
        that it had finished and the `state()` saved with them. Raises ValueError for an unknown name, ResumeError when the folder
        has fewer frames, WriteError when it cannot be written.
        """
        state = state or {}
        names = list(dict.fromkeys(names))
        unknown = [name for name in names if name not in WRITERS]
        if unknown:
            raise ValueError(f"no writer is called {', '.join(unknown)}; there are {', '.join(WRITERS)}")
        self.evidence = Evidence(_part(state, "evidence/"))
        """Whether the frames show enough, whatever is written."""
        self.trust = Trust(_part(state, "trust/"))
        """How far they confirm the cameras, in a run with submaps."""
        self._writers: list[Writer] = []
        with contextlib.ExitStack() as opened:
            for name in names:
                try:
                    writer = WRITERS[name](out, options, frames, _part(state, f"{name}/"))
                except (KeyError, TypeError, IndexError) as error:  # the saved state is not this writer's
                    raise ValueError(
                        f"what a stopped run saved for {name} cannot be used: begin again with --overwrite ({error!r})"
                    ) from error
                self._writers.append(writer)
                opened.callback(writer.close)
            self._opened = opened.pop_all()

    def write(self, result: Result) -> None:
        """Add one finished frame to every output.

        Raises WriteError when the disk is full, ValueError when an output lacks its head or the camera is not finite.
        """
        if not np.isfinite(result.cam_from_world).all() or not np.isfinite(result.intrinsics).all():
            raise ValueError(f"frame {result.frame.name}: the predicted camera is not finite; try --precision float32")
        for writer in self._writers:
            writer.write(result)
        self.evidence.add(result.frame.image, result.intrinsics)
        self.trust.add(result.frame.index, result.map)

    def state(self) -> dict[str, np.ndarray]:
        """What a resumed run needs besides the files, as arrays with names like "ply/keys"."""
        states = {"evidence": self.evidence.state(), "trust": self.trust.state()}
        states |= {writer.name: writer.state() for writer in self._writers}
        return {f"{name}/{key}": array for name, state in states.items() for key, array in state.items()}

    def record(self) -> dict[str, Any]:
        """The entry of each output in `run.json`."""
        return {writer.name: record for writer in self._writers if (record := writer.record())}

    def close(self) -> None:
        """Finish every output, even if one fails; then raise that error."""
        self._opened.close()


def _part(state: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose names begin with `prefix`, with the prefix removed."""
    return {name.removeprefix(prefix): array for name, array in state.items() if name.startswith(prefix)}
