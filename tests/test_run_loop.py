"""The loop of a run: what is still computed when the next frame is asked for, and when it waits in order to save."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from streaming import HEIGHT, TOKENS, WIDTH

from ivggt_jax import CacheConfig, Model, init_stream
from ivggt_jax.runs import run as run_module
from ivggt_jax.runs.progress import Progress
from ivggt_jax.runs.run import Run
from ivggt_jax.sources import Fit, Frame, SourceError
from ivggt_jax.writers import ExportOptions, Writers

FRAMES = 6


@pytest.fixture
def images(videos: np.ndarray) -> np.ndarray:
    """The first stream's first frames, uint8 [T,28,42,3]."""
    return (255 * videos[:FRAMES, 0]).astype(np.uint8)


def make_run(model: Model, out: Path, together: int = 1, **options) -> Run:
    """A run that writes a trajectory, so many frames to a pass."""
    cache = CacheConfig(total_budget=None, max_frames=FRAMES, frames_per_step=together)
    state = init_stream(model, cache, height=HEIGHT, width=WIDTH, heads=("camera",))
    writers = Writers(("tum",), out, ExportOptions())
    return Run(model, state, writers, Progress(None, 0, state), points_from_depth=False, **options)


def make_frame(image: np.ndarray, index: int) -> Frame:
    return Frame(image, index, None, f"{index:06d}", Fit((WIDTH, HEIGHT), (1, 1), (0, 0)))


def done_at_requests(model: Model, images: np.ndarray, out: Path, **options) -> list[int]:
    """Runs over images, and notes how many frames were done whenever the next one was asked for."""
    run = make_run(model, out, **options)
    done = []

    def source() -> Iterator[Frame]:
        for index, image in enumerate(images):
            done.append(int(run.lengths[0]) // TOKENS)
            yield make_frame(image, index)

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


@pytest.mark.parametrize("unreadable", [False, True])
@pytest.mark.parametrize(("saves", "written"), [(True, 2), (False, 3)])
def test_a_stopped_run_is_saved_between_two_passes(
    tiny: Model, images: np.ndarray, tmp_path: Path, unreadable: bool, saves: bool, written: int
) -> None:
    """Two frames share a pass and the third is the last: it is left to the resumed run, where there can be one."""
    saved: list[tuple[int, int]] = []
    interrupted: list[int] = []

    def source() -> Iterator[Frame]:
        yield from (make_frame(images[index], index) for index in range(2))
        if not unreadable:
            interrupted.append(2)
        yield make_frame(images[2], 2)
        raise SourceError("the fourth is damaged")

    save_state = (lambda run: saved.append((run.frames, run.next_index))) if saves else None
    run = make_run(tiny, tmp_path, together=2, save_state=save_state)
    with pytest.raises(SourceError) if unreadable else contextlib.nullcontext():
        run.feed(source(), interrupted)
    assert run.frames == written and saved == [(2, 2)] * saves


def test_what_was_computed_does_not_wait_for_the_next_frame(tiny: Model, images: np.ndarray, tmp_path: Path) -> None:
    """A camera or a person may be long in sending it; a signal ends the wait."""
    interrupted: list[int] = []
    written: list[int] = []
    run = make_run(tiny, tmp_path)

    def source() -> Iterator[Frame]:
        yield make_frame(images[0], 0)
        yield make_frame(images[1], 1)
        run.while_waiting(interrupted)
        deadline = time.monotonic() + 60
        while run.frames < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        written.append(run.frames)
        interrupted.append(2)
        run.while_waiting(interrupted)
        raise AssertionError("it waits although it was interrupted")

    run.feed(source(), interrupted)
    assert written == [2] and run.frames == 2
