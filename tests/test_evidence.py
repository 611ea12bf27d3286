"""Whether frames show enough for a geometry, from frames of every kind that show nothing. Random ones have seed 0."""

import numpy as np
import pytest

from ivggt_jax.writers.evidence import Evidence

HEIGHT, WIDTH = 56, 84
CAMERA = np.diag((70.0, 70.0, 1.0))


def frame(value: object) -> np.ndarray:
    return np.broadcast_to(np.asarray(value, np.uint8), (HEIGHT, WIDTH, 3)).copy()


def noisy(image: np.ndarray, deviation: float, random: np.random.Generator) -> np.ndarray:
    return np.clip(image + random.normal(0, deviation, image.shape), 0, 255).astype(np.uint8)


def scene() -> np.ndarray:
    """Patches of 7×7 pixels in random colours."""
    colours = np.random.default_rng(0).integers(0, 256, (HEIGHT // 7, WIDTH // 7, 3), np.uint8)
    return colours.repeat(7, axis=0).repeat(7, axis=1)


def doubt(images, evidence: Evidence | None = None) -> str | None:
    evidence = evidence or Evidence({})
    for image in images:
        evidence.add(image, CAMERA)
    return evidence.doubt()


def clock(image: np.ndarray, time: int) -> np.ndarray:
    """Two rows of six digits in the upper left corner, over a quarter of the width, of which some change."""
    picture = image.copy()
    picture[2:9, 2:21] = 0
    for row, digits in enumerate((f"{time // 7:06d}", f"{time:06d}")):
        for column, digit in enumerate(digits):
            picture[2 + 4 * row : 5 + 4 * row, 2 + 3 * column : 4 + 3 * column] = 25 * int(digit)
    return picture


RANDOM = np.random.default_rng(0)
GREY = scene() // 2 + 60
NOTHING = {
    "black": [frame(0)] * 5,
    "white": [frame(255)] * 5,
    "one colour": [frame((30, 90, 200))] * 5,
    "each of another colour": [frame(value) for value in (0, 80, 160, 240)],
    "a lens cap with noise": [noisy(frame(10), 1.5, RANDOM) for _ in range(5)],
    "one black": [frame(0)],
    "a single frame": [scene()],
    "the same": [scene()] * 5,
    "the same twice": [scene()] * 2,
    "the same with noise": [noisy(scene() // 2 + 60, 3, RANDOM) for _ in range(5)],
    "the same a little brighter": [np.minimum(scene(), 250) + np.uint8(step % 2) for step in range(5)],
    "the same flickering": [(GREY * (1 + 0.25 * np.sin(step))).astype(np.uint8) for step in range(5)],
    "flickering with noise": [noisy(GREY * (1 + 0.25 * np.sin(step)), 3, RANDOM) for step in range(5)],
    "noise": [noisy(frame(128), 70, RANDOM) for _ in range(5)],
    "noise of a larger picture": [RANDOM.integers(0, 256, (2 * HEIGHT, 2 * WIDTH, 3), np.uint8) for _ in range(5)],
    "a clock": [clock(GREY, 2 * step) for step in range(5)],
    "a clock with noise": [noisy(clock(GREY, 2 * step), 3, RANDOM) for step in range(5)],
    "a clock with flicker": [clock((GREY * (1 + 0.2 * np.sin(step))).astype(np.uint8), step) for step in range(5)],
    "the same with strong noise": [noisy(GREY, 12, RANDOM) for _ in range(50)],
    "two frames": [scene(), np.roll(scene(), 5, axis=1)],
}
SOMETHING = {
    "a camera that moves": [np.roll(scene(), 3 * step, axis=1) for step in range(5)],
    "by a pixel in all": [np.roll(scene(), step // 4, axis=1) for step in range(5)],
    "after a black beginning": [frame(0), scene(), scene()],
    "that moves with noise": [noisy(np.roll(GREY, step, axis=1), 12, RANDOM) for step in range(50)],
    "that moves under a clock": [clock(np.roll(GREY, step, axis=1), step) for step in range(5)],
    "that moves while it flickers": [
        (np.roll(GREY, step, axis=0) * (1 + 0.25 * np.sin(step))).astype(np.uint8) for step in range(5)
    ],
    "that stands first": [np.roll(GREY, max(0, step - 40), axis=1) for step in range(50)],
    "in the dark": [np.roll(scene() // 16, 3 * step, axis=0) for step in range(5)],
    "in a small part": [
        np.where(np.arange(WIDTH)[:, None] < 12, np.roll(scene(), 4 * step, axis=0), 128) for step in range(4)
    ],
}


@pytest.mark.parametrize("kind", NOTHING)
def test_what_shows_nothing_is_doubted(kind: str):
    said = doubt(NOTHING[kind])
    assert said is not None and said.startswith("the geometry means ")
    assert ("little" in said) == (kind == "two frames" or "clock" in kind or "strong" in kind)


@pytest.mark.parametrize("kind", SOMETHING)
def test_what_shows_something_is_not(kind: str):
    assert doubt(image.astype(np.uint8) for image in SOMETHING[kind]) is None


def test_before_the_first_frame_there_is_nothing_to_say():
    assert doubt([]) is None


@pytest.mark.parametrize("kind", NOTHING | SOMETHING)
@pytest.mark.parametrize("stop", [0, 2, 33])
def test_a_resumed_run_comes_to_the_same_end(kind: str, stop: int):
    images = [image.astype(np.uint8) for image in (NOTHING | SOMETHING)[kind]]
    first, whole = Evidence({}), Evidence({})
    doubt(images[:stop], first)
    resumed = Evidence(first.state())
    assert doubt(images[stop:], resumed) == doubt(images, whole)
    for name, array in whole.state().items():
        np.testing.assert_array_equal(resumed.state()[name], array)


def test_a_frame_of_few_pixels_has_fewer_cells():
    assert doubt([np.zeros((5, 3, 3), np.uint8)]) == "the geometry means nothing: the frames are of one colour"


@pytest.mark.parametrize("focal", [(1e6, 70.0), (70.0, 1e6), (-20.0, 70.0), (-1e6, -1e6)])
def test_a_field_of_view_that_no_camera_has_is_doubted(focal: tuple[float, float]):
    evidence = Evidence({})
    for step, image in enumerate(SOMETHING["a camera that moves"]):
        evidence.add(image, np.diag((*focal, 1.0)) if step == 2 else CAMERA)
    assert (evidence.doubt() or "").startswith("the geometry of 1 of 5 frames means nothing: the network says")
