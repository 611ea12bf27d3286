"""The loop of a run: what is still computed when the next frame is asked for, and when it waits in order to save."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from streaming import HEIGHT, TOKENS, WIDTH

from ivggt_jax import CacheConfig, Model, init_stream
from ivggt_jax import run as run_module
from ivggt_jax.progress import Progress
from ivggt_jax.run import Run
from ivggt_jax.sources import Fit, Frame
from ivggt_jax.writers import ExportOptions, Writers

FRAMES = 6


@pytest.fixture
def images(videos: np.ndarray) -> np.ndarray:
    """The first stream's first frames, uint8 [T,28,42,3]."""
    return (255 * videos[:FRAMES, 0]).astype(np.uint8)


def done_at_requests(model: Model, images: np.ndarray, out: Path, **options) -> list[int]:
    """Runs over images, and notes how many frames were done whenever the next one was asked for."""
    state = init_stream(
        model, CacheConfig(total_budget=None, max_frames=FRAMES), height=HEIGHT, width=WIDTH, heads=("camera",)
    )
    writers = Writers(("tum",), out, ExportOptions())
    run = Run(model, state, writers, Progress(None, 0, state), points_from_depth=False, **options)
    done = []

    def source() -> Iterator[Frame]:
        for index, image in enumerate(images):
            done.append(int(run.lengths[0]) // TOKENS)
            yield Frame(image, index, None, f"{index:06d}", Fit((WIDTH, HEIGHT), (1, 1), (0, 0)))

    run.feed(source(), [])
    assert run.frames == len(images)
    return done


@pytest.mark.parametrize("save_every", [None, 1])
def test_a_frame_is_computed_while_the_next_is_read_however_long_the_run(
    tiny: Model, images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save_every: int | None
) -> None:
    """Also when it was time to save long ago: a camera's run has no state to be saved."""
    monkeypatch.setattr(run_module, "SECONDS_BETWEEN_SAVES", 0.0)
    assert done_at_requests(tiny, images, tmp_path, save_every=save_every) == [0, 0, 1, 2, 3, 4]


def test_a_save_waits_for_what_was_begun(tiny: Model, images: np.ndarray, tmp_path: Path) -> None:
    saved = []
    done = done_at_requests(tiny, images, tmp_path, save_state=lambda run: saved.append(run.frames), save_every=2)
    assert done == [0, 0, 2, 2, 4, 4]
    assert saved == [2, 4, 6]
