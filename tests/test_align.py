"""Bringing a run to a known trajectory. What comes out is tested with the command, in e2e/test_export.py."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from writer_scene import camera, result

from ivggt_jax.options.align import AlignOptions
from ivggt_jax.runs.known_trajectory import align_run
from ivggt_jax.writers import ExportOptions, Writers
from ivggt_jax.writers.saved_run import SavedRun

FRAMES = 30


def saved(folder: Path) -> SavedRun:
    writers = Writers(["npz"], folder, ExportOptions())
    for index in range(FRAMES):
        writers.write(result(index, depth=None, depth_confidence=None, points=None, points_confidence=None))
    writers.close()
    return SavedRun(folder)


def test_a_trajectory_on_the_globe_is_refused(tmp_path: Path) -> None:
    """Float32 has steps of half a metre there; its scale alone can be taken."""
    path = tmp_path / "known.txt"
    north = np.array([450_000, 5_400_000, 120])
    np.savetxt(path, [(index, *(2 * camera(index)[:, 3] + north), 0, 0, 0, 1) for index in range(FRAMES)])
    run = saved(tmp_path)
    with pytest.raises(
        ValueError, match=r"steps of 0\.5 there.*subtract an offset from all positions, such as \[45\d{4}"
    ):
        align_run(run, AlignOptions(align_to=path))
    assert align_run(run, AlignOptions(scale_from=path))[1]["scale"] == pytest.approx(2, rel=1e-3)


def test_aligning_holds_no_more_than_one_frames_image(tmp_path: Path) -> None:
    run = saved(tmp_path)
    path = tmp_path / "known.txt"
    np.savetxt(path, [(index, *2 * camera(index)[:, 3], 0, 0, 0, 1) for index in range(FRAMES)])
    tracemalloc.start()
    _, record = align_run(run, AlignOptions(scale_from=path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert record["scale"] == pytest.approx(2)
    assert peak < FRAMES / 2 * result(0).frame.image.nbytes
