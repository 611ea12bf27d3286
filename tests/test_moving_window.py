"""What moves, told frame by frame: a block before a wall, exact depth, a camera that stands still; frames of 42×56."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ivggt_jax.mapping.moving import View
from ivggt_jax.mapping.moving_window import EVERY, VIEWS, MovingWindow

HEIGHT, WIDTH, FRAMES = 42, 56, 24
WALL = np.random.default_rng(0).uniform(0.2, 0.8, (HEIGHT, WIDTH, 3)).astype(np.float32)
CAMERA = (np.eye(3, 4, dtype=np.float32), np.array([[50, 0, 28], [0, 50, 21], [0, 0, 1]], np.float32))
after = jax.jit(MovingWindow.after)


def block(number: int) -> np.ndarray:
    """Where it is, bool [H,W]: 10×8 pixels, and two further to the right in each frame."""
    where = np.zeros((HEIGHT, WIDTH), bool)
    where[16:26, 2 * number : 2 * number + 8] = True
    return where


def view(number: int, there: bool = True) -> View:
    """The wall is 4 m away, the block 2 m."""
    where = block(number) & there
    image = np.where(where[..., None], np.float32([0.9, 0.1, 0.1]), WALL)
    return View(image, np.where(where, 2, 4).astype(np.float32), *CAMERA)


def said_of(views: list[View], parts: list[int] | None = None) -> np.ndarray:
    window, found = MovingWindow.empty(HEIGHT, WIDTH, by_head=False), []
    for number, seen in enumerate(views):
        window, moving = after(window, seen, jnp.asarray(parts[number] if parts else 0), None)
        found.append(np.asarray(moving))
    return np.array(found)


def test_a_block_is_told_from_the_wall() -> None:
    """From the first frame on that it has left where it was in two of those that are asked: but for its rim, all of it, and
    nothing a pixel away from it; what it uncovers does not move."""
    said, first = said_of([view(number) for number in range(FRAMES)]), 2 * EVERY + 1
    assert not said[: EVERY + 1].any(), "two views are needed"
    for number in range(first, FRAMES):
        where = block(number)
        inside = where & np.roll(where, 1, 0) & np.roll(where, -1, 0) & np.roll(where, 1, 1) & np.roll(where, -1, 1)
        outside = np.ones_like(where)
        outside[15:27, max(0, 2 * number - 1) : 2 * number + 9] = False
        assert said[number][inside].all() and not said[number][outside].any()


def test_nothing_moves_without_it_and_unknown_depth_says_nothing() -> None:
    assert not said_of([view(number, there=False) for number in range(FRAMES)]).any()
    unknown = [View(seen.image, np.full_like(seen.depth, np.nan), *CAMERA) for seen in map(view, range(FRAMES))]
    assert not said_of(unknown).any()


def test_nothing_moves_when_the_unit_changes() -> None:
    """The camera walks past the wall; from frame 13 on lengths are 0.4 times as long, because a sensor gave the unit."""
    window = MovingWindow.empty(HEIGHT, WIDTH, by_head=False)
    for number in range(FRAMES):
        unit = 0.4 if number >= 13 else 1.0
        camera = np.eye(3, 4, dtype=np.float32)
        camera[0, 3] = -0.08 * unit * number  # a pixel per frame
        seen = View(np.roll(WALL, -number, 1), np.full((HEIGHT, WIDTH), 4 * unit, np.float32), camera, CAMERA[1])
        window, moving = after(window, seen, jnp.asarray(0), grown=jnp.asarray(0.4 if number == 13 else 1.0))
        assert not moving.any(), number


def test_another_part_of_the_map_knows_nothing_of_this_one() -> None:
    """A cut at frame 12 into a room that is nearer: nothing is said until two frames of it can be asked."""
    views = [view(number) for number in range(FRAMES)]
    said = said_of(views, [0] * 12 + [1] * 12)
    assert said[11].any() and not said[12 : 12 + EVERY + 1].any() and said[-1].any()


def test_a_view_that_contradicts_most_is_not_believed() -> None:
    """Earlier frames of a unit of which another is made later, so that their cameras lie elsewhere."""
    views = [view(number) for number in range(10)]
    aside = CAMERA[0] + np.array([[0, 0, 0, 0.7], [0, 0, 0, 0], [0, 0, 0, 0]], np.float32)
    views[9] = View(views[9].image, views[9].depth, aside, CAMERA[1])
    assert said_of(views)[9].mean() < 0.05


def test_the_word_of_a_head_is_taken_and_the_next_frame_is_masked_around_it() -> None:
    window = MovingWindow.empty(HEIGHT, WIDTH, by_head=True)
    assert window.views is None and np.asarray(window.still()).all()
    said = np.full((HEIGHT, WIDTH), 0.4, np.float32)
    said[20, 30] = 0.6
    window, moving = after(window, view(0), jnp.zeros((), jnp.int32), said)
    np.testing.assert_array_equal(np.asarray(moving), said > 0.5)
    around = np.zeros((HEIGHT, WIDTH), bool)
    around[19:22, 29:32] = True  # 0.02 of 56 pixels is one
    np.testing.assert_array_equal(np.asarray(window.still()), ~around)
    around[16:25, 26:35] = True
    np.testing.assert_array_equal(np.asarray(window.still(4)), ~around)


@pytest.mark.parametrize("number", [0, EVERY, EVERY * VIEWS + 1])
def test_its_size_never_changes(number: int) -> None:
    window = MovingWindow.empty(HEIGHT, WIDTH, by_head=False)
    shapes = jax.tree.map(jnp.shape, window)
    for _ in range(number + 1):
        window, _ = after(window, view(0), jnp.zeros((), jnp.int32), None)
    assert jax.tree.map(jnp.shape, window) == shapes and int(window.frame) == number + 1
