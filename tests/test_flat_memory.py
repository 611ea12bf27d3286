"""Two thousand frames through the tiny model: resident memory stays where it was when the budget was reached."""

import multiprocessing
import sys
import time

import numpy as np
import pytest
from recipe import Recipe
from resident import resident_bytes

from ivggt_jax import CacheConfig, ModelConfig, stream
from ivggt_jax.convert import from_torch

FRAMES, EVERY = 2000, 200
MEBIBYTE = 2**20


def measure() -> list[tuple[int, float, int]]:
    """(frame, milliseconds a frame since the last row, resident bytes) every 200 frames, in a process of its own."""
    model = from_torch(Recipe("tiny"), ModelConfig.tiny())
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (16, 56, 70, 3), dtype=np.uint8)
    frames = (images[t % 16] for t in range(FRAMES + 1))
    rows, since = [], time.perf_counter()
    for t, _ in enumerate(stream(model, frames, CacheConfig(total_budget=290, camera_frames=32))):
        if t and t % EVERY == 0:
            now = time.perf_counter()
            rows.append((t, (now - since) / EVERY * 1e3, resident_bytes()))
            since = now
    return rows


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_two_thousand_frames():
    """The budget is reached at the fourth frame, the camera ring is full at the 32nd; from frame 200 on at most 16 MiB more."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        rows = pool.apply(measure)
    print("\nframe  ms/frame  MiB resident")
    for frame, milliseconds, resident in rows:
        print(f"{frame:5}  {milliseconds:8.1f}  {resident / MEBIBYTE:12.1f}")
    assert [frame for frame, _, _ in rows] == list(range(EVERY, FRAMES + 1, EVERY))
    assert max(resident for _, _, resident in rows) - rows[0][2] < 16 * MEBIBYTE
