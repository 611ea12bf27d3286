"""Motion by the word of other views, from exact depth and cameras of a walk among bodies. Frames of 84×112."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ivggt_jax import geometry
from ivggt_jax.evaluate.walks import FIELD_OF_VIEW, Walk
from ivggt_jax.mapping.moving import View, motion_from_views
from ivggt_jax.trajectories.alignment import inverse

NUMBERS = (0, 8, 16, 32, 40, 48)
HEIGHT, WIDTH = 84, 112


def view(route: str, number: int) -> tuple[View, np.ndarray | None]:
    part = Walk(route, 1 << 20, HEIGHT, WIDTH).part(number, 1)
    intrinsics = geometry.intrinsics_from_field_of_view(jnp.deg2rad(FIELD_OF_VIEW), HEIGHT, WIDTH)
    cam_from_world = inverse(part.world_from_cam)[0].astype(np.float32)
    seen = View(part.images[0].astype(np.float32) / 255, part.depth[0], cam_from_world, np.asarray(intrinsics))
    return seen, None if part.moving is None else part.moving[0]


def stacked(views: list[View]) -> View:
    return jax.tree.map(lambda *x: np.stack(x), *views)


judge = jax.jit(motion_from_views)


@pytest.fixture(scope="module")
def crowd() -> tuple[View, View, np.ndarray]:
    """Frame 24, frames up to 24 before and after it, and what moves in it."""
    frame, moving = view("crowd", 24)
    assert moving is not None
    return frame, stacked([view("crowd", number)[0] for number in NUMBERS]), moving


def overlap(found: jax.Array, moving: np.ndarray) -> float:
    said = np.asarray(found) > 0.5
    return float((said & moving).sum() / (said | moving).sum())


@pytest.mark.slow
def test_bodies_are_told_from_the_room(crowd: tuple[View, View, np.ndarray]) -> None:
    """Two thirds of what moves or is said to are both; of the still pixels at most 3 % are called moving."""
    frame, others, moving = crowd
    found = judge(frame, others)
    assert moving.mean() > 0.05 and overlap(found, moving) > 0.65
    assert (np.asarray(found)[~moving] > 0.5).mean() < 0.03


def test_nothing_moves_in_a_still_room() -> None:
    """Less than 1 % of the pixels, with one frame darker and of a depth 10 % too large, which medians take out."""
    frame = view("loop", 24)[0]
    others = stacked([view("loop", number)[0] for number in NUMBERS])
    image, depth = others.image.copy(), others.depth.copy()
    image[2] *= 0.8
    depth[2] *= 1.1
    assert (np.asarray(judge(frame, View(image, depth, others.cam_from_world, others.intrinsics))) > 0.5).mean() < 0.01


def test_one_view_alone_does_not_tell(crowd: tuple[View, View, np.ndarray]) -> None:
    """Nor do views that look elsewhere, or know no depth; NaN comes of none of it."""
    frame, others, _ = crowd
    alone = others.depth.copy()
    alone[1:] = 0
    behind = others.cam_from_world * np.array([[-1, -1, -1, -1], [1, 1, 1, 1], [-1, -1, -1, -1]], np.float32)
    for changed in (
        View(others.image, alone, others.cam_from_world, others.intrinsics),
        View(others.image, others.depth, behind, others.intrinsics),
    ):
        assert not np.asarray(judge(frame, changed)).any()
    unknown = View(frame.image, 0 * frame.depth, frame.cam_from_world, frame.intrinsics)
    assert not np.asarray(judge(unknown, others)).any()
