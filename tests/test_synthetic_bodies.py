"""Moving bodies: a scene is the same without them, and what is said of their motion is exact. Frames of 42×56."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact import exact

from ivggt_jax import geometry, synthetic
from ivggt_jax.evaluate import walks
from ivggt_jax.evaluate.walks import Walk
from ivggt_jax.synthetic.bodies import PARTS

HEIGHT, WIDTH, FRAMES = 42, 56, 4
CLIP = partial(synthetic.clip, frames=FRAMES, height=HEIGHT, width=WIDTH, speed=4.0, look="aside")


@pytest.fixture(scope="module")
def clips() -> dict[int, synthetic.Clip]:
    """Eight clips of a room without bodies, and with three at most."""
    keys = jax.random.split(jax.random.key(3), 8)
    return {count: jax.device_get(exact(jax.vmap(partial(CLIP, bodies=count)))(keys)) for count in (0, 3)}


def test_only_what_moves_is_in_the_way(clips: dict[int, synthetic.Clip]) -> None:
    """Depth is that of the still scene but where a body stands before it; one clip in eight or so has none at all."""
    still, among = clips[0], clips[3]
    assert still.moving is None and still.flow is None
    np.testing.assert_array_equal(still.cam_from_world, among.cam_from_world)
    np.testing.assert_array_equal(still.depth[~among.moving], among.depth[~among.moving])
    assert (among.depth[among.moving] < still.depth[among.moving]).all()
    share = among.moving.mean(axis=(1, 2, 3))
    assert 0.05 < share.mean() < 0.3 and share.max() < 0.5 and (share < 1 / 3).sum() >= 7


def test_flow_leads_to_the_next_frame(clips: dict[int, synthetic.Clip]) -> None:
    """Points that move are seen where flow takes them, at the next depth to 2 %, but for those that come to be hidden."""
    clip = clips[3]
    assert not clip.flow[~clip.moving].any()
    hits = total = 0
    for moving, depth, cameras, points, flow, intrinsics in zip(
        clip.moving, clip.depth, clip.cam_from_world, clip.points, clip.flow, clip.intrinsics, strict=True
    ):
        for t in range(FRAMES - 1):
            there = (points[t] + flow[t])[moving[t]]
            pixels, away = (np.asarray(x)[..., 0, :, :] if x.ndim == 3 else np.asarray(x) for x in geometry.project(
                there, cameras[t + 1], intrinsics[t + 1]))  # fmt: skip
            column, row = np.round(pixels).astype(int).T
            inside = (column >= 0) & (column < WIDTH) & (row >= 0) & (row < HEIGHT)
            column, row, away = column[inside], row[inside], away[inside]
            hits += (moving[t + 1][row, column] & (np.abs(depth[t + 1][row, column] / away - 1) < 0.02)).sum()
            total += inside.sum()
    assert total > 1000 and hits > 0.85 * total
    lengths = np.linalg.norm(clip.flow, axis=-1)[clip.moving]
    assert 0.01 < np.median(lengths) < 0.6 and lengths.max() < 2


@pytest.mark.slow
def test_bodies_are_a_function_of_the_frame_number() -> None:
    """Chunks join: the rows of frames 7 to 10 are the same from frame 5 on, to the bit; and smooth, in steps below 15 cm."""
    key = jax.random.key(0)
    scene = synthetic.make_scene(key)
    path = partial(synthetic.camera_path, key, scene, speed=2.0, look="aside")
    make = jax.jit(lambda start: synthetic.moving_bodies(key, scene, path, 8, count=2, start=start, speed=2.0))
    (early, after), (late, _) = make(5), make(7)
    assert early.centre.shape == (8, 2 * PARTS, 3)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[2:], b[:6]), early, late)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[1:], b[:-1]), early, after)
    steps = np.linalg.norm(np.diff(early.centre, axis=0), axis=-1)
    assert 0 < steps.max() < 0.15
    camera = np.asarray(geometry.invert(path(8, start=5))[:, None, ::2, 3])
    assert np.linalg.norm(np.asarray(early.centre)[:, ::PARTS, ::2] - camera, axis=-1).min() > 0.85


@pytest.mark.slow
def test_the_number_of_bodies_is_drawn_where_it_may() -> None:
    """48 keys, from none to three: each number comes at least five times; without `least` all are there."""
    scene = synthetic.make_scene(jax.random.key(0))
    path = partial(synthetic.camera_path, jax.random.key(1), scene)

    def there(key: jax.Array, least: int | None) -> jax.Array:
        now, _ = synthetic.moving_bodies(key, scene, path, 1, count=3, least=least)
        return jnp.sum(now.centre[0, ::PARTS, 1] < 100)

    keys = jax.random.split(jax.random.key(2), 48)
    counts = np.bincount(jax.vmap(partial(there, least=0))(keys), minlength=4)
    assert counts.sum() == 48 and len(counts) == 4 and counts.min() >= 5
    assert int(there(keys[0], None)) == 3


def test_a_crowd_walks_the_way_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The route for evaluation: the cameras of the loop of the same seed, with bodies in the way."""
    monkeypatch.setattr(walks, "_render", exact(walks._render, static_argnums=(3, 4, 5, 6)))
    loop, crowd = (Walk(route, 1 << 20, HEIGHT, WIDTH).part(30, 3) for route in ("loop", "crowd"))
    np.testing.assert_array_equal(loop.world_from_cam, crowd.world_from_cam)
    assert loop.moving is None and 0.01 < crowd.moving.mean() < 0.5
    np.testing.assert_array_equal(loop.depth[~crowd.moving], crowd.depth[~crowd.moving])


def test_points_are_not_tracked_among_bodies() -> None:
    with pytest.raises(ValueError, match="2 points cannot be tracked among 1 moving bodies"):
        CLIP(jax.random.key(0), queries=2, bodies=1)
