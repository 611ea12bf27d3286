"""Synthetic scenes against an independent ray caster in NumPy, and against their own ground truth.

Images are 28 × 42 unless said otherwise; seeds stand in each test.
"""

import importlib.util
from functools import partial
from pathlib import Path
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact import exact
from PIL import Image

from ivggt_jax import geometry, synthetic
from ivggt_jax.synthetic import scenes
from ivggt_jax.synthetic.primitives import BALL, CYLINDER, HOLLOW, Primitives, cast

HEIGHT, WIDTH = 28, 42
STEPS = 400
"""Frames of all paths: one compilation for each kind."""
KINDS = get_args(synthetic.Kind)
EXAMPLES = Path(__file__).parent.parent / "examples"


@partial(jax.jit, static_argnames=("kind", "look", "period"))
def walk(seed, kind, start=0, speed=1.0, look="ahead", period=None):
    """Scene and STEPS cameras of a seed."""
    scene_key, path_key = jax.random.split(jax.random.key(seed))
    scene = synthetic.make_scene(scene_key, kind)
    cameras = synthetic.camera_path(path_key, scene, STEPS, start=start, speed=speed, look=look, period=period)
    return scene, cameras


@partial(jax.jit, static_argnames="supersample")
def shoot(scene, cameras, intrinsics, supersample=2):
    return jax.lax.map(lambda c: synthetic.render(scene, c, intrinsics, HEIGHT, WIDTH, supersample), cameras)


@jax.jit
def follow(scene, query, cameras, intrinsics):
    return synthetic.tracks(scene, query, cameras, intrinsics, HEIGHT, WIDTH)


visible_primitives = jax.jit(scenes.visible_primitives)


def places(cameras):
    """Positions [T, 3] of cameras, float64."""
    return np.asarray(geometry.invert(cameras)[:, :, 3], np.float64)


@pytest.fixture(scope="module")
def intrinsics():
    return geometry.intrinsics_from_field_of_view(jnp.deg2rad(70.0), HEIGHT, WIDTH)


@pytest.fixture(scope="module", params=KINDS)
def rendered(request, intrinsics):
    """Scene and frames 0, 12 … 48 of each kind, 2 × 2 supersampled; seed 3."""
    scene, cameras = walk(3, request.param)
    return scene, shoot(scene, cameras[:49:12], intrinsics)


@pytest.fixture(scope="module")
def tracked(rendered, intrinsics):
    """Queries [912, 2] near every pixel but the border's, their tracks [5, 912, 2], and visibility; seed 6."""
    scene, frames = rendered
    grid = np.stack(np.meshgrid(np.arange(2, WIDTH - 2), np.arange(2, HEIGHT - 2)), -1).reshape(-1, 2)
    query = (grid + np.random.default_rng(6).uniform(-0.5, 0.5, grid.shape)).astype(np.float32)
    return query, *map(np.asarray, follow(scene, jnp.asarray(query), frames.cam_from_world, intrinsics))


def quadratic_roots(a, b, c):
    """Both roots of a·t² + 2·b·t + c, NaN where there is none."""
    with np.errstate(invalid="ignore", divide="ignore"):
        root = np.sqrt(b * b - a * c)
        return (-b - root) / a, (-b + root) / a


def hits_of_one(shape, half, origin, rays):
    """Distances [N, C] at which rays cross the surface of a primitive at the origin: textbook formulas in float64."""
    candidates = []
    if shape == BALL:
        candidates += quadratic_roots(*(np.sum(p * q / half**2, -1) for p, q in ((rays, rays), (rays, origin))),
                                      np.sum(origin**2 / half**2, -1) - 1)  # fmt: skip
        return np.stack(candidates, -1)
    axes = (1,) if shape == CYLINDER else (0, 1, 2)
    for axis in axes:
        for sign in (-1, 1):
            with np.errstate(divide="ignore", invalid="ignore"):
                t = (sign * half[axis] - origin[..., axis]) / rays[..., axis]
            place = np.abs(origin + t[..., None] * rays) / half
            others = np.delete(place, axis, axis=-1)
            inside = np.hypot(*others.T) <= 1 if shape == CYLINDER else (others <= 1).all(-1)
            candidates.append(np.where(inside, t, np.nan))
    if shape == CYLINDER:
        flat = np.asarray((1, 0, 1)) / half**2
        for t in quadratic_roots(np.sum(rays**2 * flat, -1), np.sum(rays * origin * flat, -1),
                                 np.sum(origin**2 * flat, -1) - 1):  # fmt: skip
            candidates.append(np.where(np.abs(origin[..., 1] + t * rays[..., 1]) <= half[1], t, np.nan))
    return np.stack(candidates, -1)


def reference_distances(primitives, origin, rays):
    """First hits [N] of rays [N, 3] from origin [3] in front of it, inf for a miss; float64."""
    nearest = np.full(len(rays), np.inf)
    for shape, centre, half, yaw in zip(
        *(np.asarray(x, np.float64) for x in (primitives.shape, primitives.centre, primitives.half, primitives.yaw)),
        strict=True,
    ):
        cosine, sine = np.cos(yaw), np.sin(yaw)
        world_to_local = np.asarray(((cosine, 0, -sine), (0, 1, 0), (sine, 0, cosine)))
        start, directions = world_to_local @ (np.asarray(origin, np.float64) - centre), rays @ world_to_local.T
        hits = hits_of_one(shape, half, np.broadcast_to(start, directions.shape), directions)
        hits = np.where(hits > 0, hits, np.inf)
        nearest = np.minimum(nearest, hits.min(-1))
    return nearest


def test_cast_agrees_with_textbook_formulas():
    """400 rays into 40 random primitives of every shape, in a hollow box; seed 0."""
    generator = np.random.default_rng(0)
    shape = np.append(np.arange(40) % 3, HOLLOW)
    primitives = Primitives(
        shape=jnp.asarray(shape, jnp.int32),
        centre=jnp.asarray(np.append(generator.uniform(-4, 4, (40, 3)), [[0, 0, 0]], 0), jnp.float32),
        half=jnp.asarray(np.append(generator.uniform(0.1, 1.0, (40, 3)), [[5, 6, 7]], 0), jnp.float32),
        yaw=jnp.asarray(generator.uniform(-3, 3, 41), jnp.float32),
        seed=jnp.zeros(41, jnp.uint32),
        grain=jnp.ones(41),
    )
    # Empty space about the origin: a ray must start outside of every convex primitive.
    outside = np.linalg.norm(primitives.centre, axis=1) > np.linalg.norm(primitives.half, axis=1)
    keep = outside | (shape == HOLLOW)
    primitives = jax.tree.map(lambda array: array[keep], primitives)
    rays = generator.normal(size=(400, 3)).astype(np.float32)
    expected = reference_distances(primitives, np.zeros(3), rays.astype(np.float64))
    distance, index = jax.jit(cast)(primitives, jnp.zeros(3), jnp.asarray(rays))
    np.testing.assert_allclose(distance, expected, rtol=2e-5)
    assert len(np.unique(index)) > 20
    empty, _ = cast(jax.tree.map(lambda array: array[:-1], primitives), jnp.zeros(3), jnp.asarray(rays))
    assert np.isinf(empty).any() and np.isfinite(empty).any()


def reference_depth(scene, frame, pixels):
    """Depth [N] at pixels [N, 2] of a frame, 0 for a miss; float64."""
    world_from_cam = np.asarray(geometry.invert(frame.cam_from_world), np.float64)
    rays = pixel_rays(frame, pixels)
    directions = rays @ world_from_cam[:, :3].T
    primitives = visible_primitives(scene, jnp.asarray(world_from_cam[:, 3]), jnp.asarray(directions))
    depth = reference_distances(primitives, world_from_cam[:, 3], directions)
    return np.where(depth * np.linalg.norm(rays, axis=1) < float(scene.far), depth, 0)


def pixel_rays(frame, pixels):
    return np.column_stack(((pixels - (WIDTH / 2, HEIGHT / 2)) / float(frame.intrinsics[0, 0]), np.ones(len(pixels))))


def test_depth_is_where_rays_meet_the_scene(rendered):
    scene, frames = rendered
    pixels = np.stack(np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT)), -1).reshape(-1, 2)
    for number in (0, 4):
        frame = jax.tree.map(lambda array, n=number: array[n], frames)
        expected = reference_depth(scene, frame, pixels)
        wrong = np.abs(np.ravel(frame.depth) - expected) > 1e-4 * (1 + expected)
        # Rays that graze an edge fall to either side of it by rounding.
        assert wrong.mean() < 0.003
        np.testing.assert_array_equal(frame.valid, frame.depth > 0)


def test_points_are_unprojected_depth(rendered):
    _, frames = rendered
    cameras, depth = np.asarray(frames.cam_from_world, np.float64), np.asarray(frames.depth, np.float64)
    for camera, z, points, valid in zip(
        cameras, depth, np.asarray(frames.points), np.asarray(frames.valid), strict=True
    ):
        in_camera = np.einsum("ij,hwj->hwi", camera[:, :3], points) + camera[:, 3]
        np.testing.assert_allclose(in_camera[valid][:, 2], z[valid], rtol=2e-6, atol=1e-5)
        assert (points[~valid] == 0).all() and (z[~valid] == 0).all()
    unprojected = geometry.unproject(frames.depth, frames.cam_from_world, frames.intrinsics)
    np.testing.assert_allclose(jnp.where(frames.valid[..., None], unprojected, 0), frames.points, rtol=0, atol=1e-5)


def test_frames_look_like_something(rendered):
    """In range, coloured, textured, and a room closed on all sides."""
    scene, frames = rendered
    image = np.asarray(frames.image)
    assert image.shape == (5, HEIGHT, WIDTH, 3) and image.min() >= 0 and image.max() <= 1
    assert 0.15 < image.mean() < 0.85 and image.std() > 0.05
    assert np.abs(np.diff(image, axis=2)).mean() > 0.01
    assert frames.valid.mean() > {"room": 0.9999, "street": 0.5, "corridor": 0.9, "doors": 0.9}[scene.kind]


def sample(image, pixels):
    """Bilinear samples [N, 3] of an image [H, W, 3] at pixels [N, 2] inside it."""
    low = np.clip(np.floor(pixels).astype(int), 0, (WIDTH - 2, HEIGHT - 2))
    x, y = (pixels - low).T[..., None]
    left, top = low.T
    rows = [(1 - x) * image[top + i, left] + x * image[top + i, left + 1] for i in (0, 1)]
    return (1 - y) * rows[0] + y * rows[1]


def test_textures_stay_on_their_surfaces(rendered, tracked):
    """Colours along tracks change much less from frame to frame than colours at a pixel."""
    _, frames = rendered
    query, track, visible = tracked
    image = np.asarray(frames.image)
    seen = visible[1] & (track[1] > 1).all(-1) & (track[1] < (WIDTH - 2, HEIGHT - 2)).all(-1)
    assert seen.mean() > 0.3
    before = sample(image[0], query[seen])
    followed = np.abs(sample(image[1], track[1][seen]) - before).mean()
    still = np.abs(sample(image[1], query[seen]) - before).mean()
    assert followed < 0.5 * still


def test_tracks_agree_with_depth_maps(rendered, tracked):
    scene, frames = rendered
    query, track, visible = tracked
    first = jax.tree.map(lambda array: array[0], frames)
    depth = reference_depth(scene, first, query)
    assert (visible[0] == (depth > 0)).mean() > 0.997
    world_from_cam = np.asarray(geometry.invert(first.cam_from_world), np.float64)
    points = (pixel_rays(first, query) * depth[:, None]) @ world_from_cam[:, :3].T + world_from_cam[:, 3]
    maps = np.where(frames.valid, frames.depth, np.inf)
    occluded, agreements = 0, []
    for t, camera in enumerate(np.asarray(frames.cam_from_world, np.float64)):
        x, y, z = camera[:, :3] @ points.T + camera[:, 3:]
        frame = jax.tree.map(lambda array, t=t: array[t], frames)
        focal = float(frame.intrinsics[0, 0])
        with np.errstate(invalid="ignore", divide="ignore"):
            expected = np.stack((focal * x / z + WIDTH / 2, focal * y / z + HEIGHT / 2), -1)
        inside = (expected > 1).all(-1) & (expected < (WIDTH - 2, HEIGHT - 2)).all(-1) & (z > 0) & (depth > 0)
        assert (np.abs(track[t] - expected)[inside] > 0.02).mean() < 0.003
        nearest = reference_depth(scene, frame, expected[inside])
        unobstructed = (nearest > 0.998 * z[inside]) & (nearest > 0)
        assert (unobstructed == visible[t, inside]).mean() > 0.995
        u, v = np.rint(expected[inside]).astype(int).T
        around = np.stack([maps[t, v + i, u + j] for i in (-1, 0, 1) for j in (-1, 0, 1)])
        among = (around.min(0) * 0.97 < z[inside]) & (z[inside] < around.max(0) * 1.03)
        agreements += list(np.where(visible[t, inside], among, around.min(0) < z[inside]))
        occluded += (~visible[t, inside]).sum()
    # A gap narrower than a pixel shows a track what the depth map misses.
    assert np.mean(agreements) > 0.99
    outside = (track < -0.5).any(-1) | (track > (WIDTH - 0.5, HEIGHT - 0.5)).any(-1)
    assert outside.any() and not visible[outside].any()
    assert occluded > 0 or scene.kind != "room"


def test_sky_cannot_be_tracked(rendered, tracked):
    scene, frames = rendered
    query, track, visible = tracked
    sky = reference_depth(scene, jax.tree.map(lambda array: array[0], frames), query) == 0
    assert sky.sum() > {"room": -1, "street": 50, "corridor": -1, "doors": -1}[scene.kind]
    assert not visible[:, sky].any()
    np.testing.assert_array_equal(track[:, sky], np.broadcast_to(query[sky], track[:, sky].shape))


def test_supersampling_is_a_mean_of_shifted_images(intrinsics):
    scene, cameras = walk(1, "room")
    photograph = exact(shoot, static_argnames="supersample")
    once, fine = (photograph(scene, cameras[:5], intrinsics, supersample=n) for n in (1, 2))
    np.testing.assert_allclose(once.depth, fine.depth, rtol=1e-6)
    shifted = [
        photograph(scene, cameras[:5], intrinsics.at[0, 2].add(dx).at[1, 2].add(dy), supersample=1).image
        for dx in (-0.25, 0.25)
        for dy in (-0.25, 0.25)
    ]
    assert np.abs(np.mean(shifted, axis=0) - fine.image).mean() < 1e-4
    assert np.abs(once.image - fine.image).mean() > 1e-3


@pytest.mark.parametrize("kind", ["street", "corridor", "doors"])
def test_no_cell_in_sight_is_left_out(kind, monkeypatch):
    """The cells that are cast look the same as 24 of them: 30 seeds, any direction, 100° of diagonal view."""
    intrinsics = geometry.intrinsics_from_field_of_view(jnp.deg2rad(90.0), HEIGHT, WIDTH)
    views = []
    for seed in range(30):
        scene, cameras = walk(seed, kind, start=97 * seed)
        turn = geometry.rotation_from_quaternion(jnp.asarray((0, np.sin(0.1 * seed), 0, np.cos(0.1 * seed))))
        views.append((scene, geometry.compose(jnp.concatenate((turn, jnp.zeros((3, 1))), 1), cameras[0])))
    views = jax.tree.map(lambda *arrays: jnp.stack(arrays), *views)

    def pictures():
        def picture(view):
            frame = synthetic.render(*view, intrinsics, HEIGHT, WIDTH)
            # Nothing casts a shadow in corridors: depth says it all, and colours would take long to compile.
            return (frame.depth, frame.image) if kind == "street" else (frame.depth,)

        return jax.jit(lambda views: jax.lax.map(picture, views))(views)

    few = pictures()
    monkeypatch.setattr(scenes, "_CELLS", 24)
    monkeypatch.setattr(scenes, "_CELL_MARGIN", 70.0)
    for one, other in zip(few, pictures(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-4)


def signed_clearance(primitives, place):
    """Distance [K] from a place [3] to boxes around the primitives, negative inside (outside, for a hollow box)."""
    cosine, sine = np.cos(primitives.yaw), np.sin(primitives.yaw)
    x, y, z = (place - np.asarray(primitives.centre)).T
    beyond = np.abs(np.stack((cosine * x - sine * z, y, sine * x + cosine * z), -1)) - np.asarray(primitives.half)
    distance = np.linalg.norm(np.maximum(beyond, 0), axis=-1) + np.minimum(beyond.max(-1), 0)
    return np.where(np.asarray(primitives.shape) == HOLLOW, -beyond.max(-1), distance)


@pytest.mark.parametrize("kind", KINDS)
def test_camera_touches_nothing(kind):
    """25 seeds, 16 places each over 800 frames: at least 0.3 m from all objects, and upright in the scene."""
    near = jax.vmap(visible_primitives, in_axes=(None, 0, 0))
    for seed in range(25):
        for start in (1000 * seed, 1000 * seed + STEPS):
            scene, cameras = walk(seed, kind, start=start)
            poses = geometry.invert(cameras[:: STEPS // 8])
            around = near(scene, poses[:, :, 3], poses[:, :, 2])
            for number, pose in enumerate(np.asarray(poses)):
                primitives = jax.tree.map(lambda array, n=number: array[n % len(array)], around)
                assert signed_clearance(primitives, pose[:, 3]).min() > 0.3
                assert pose[1, 1] > 0.9


@pytest.mark.parametrize("look", get_args(synthetic.Look))
@pytest.mark.parametrize("kind", KINDS)
def test_paths_are_smooth_and_as_fast_as_promised(kind, look):
    """10 seeds from frame 0, and from frame 20,000."""
    mean_steps = []
    for seed in range(10):
        for start in (0, 20_000):
            _, cameras = walk(seed, kind, start=start, look=look)
            place = places(cameras)
            step = np.linalg.norm(np.diff(place, axis=0), axis=1)
            mean_steps.append(step.mean())
            assert step.max() < 0.1
            assert np.linalg.norm(np.diff(place, 2, axis=0), axis=1).max() < 5e-3
            rotation = np.asarray(cameras[:, :, :3], np.float64)
            cosine = (np.einsum("tij,tij->t", rotation[1:], rotation[:-1]) - 1) / 2
            assert np.degrees(np.arccos(np.clip(cosine, -1, 1))).max() < 3.5
    assert min(mean_steps) > 0.01 and max(mean_steps) < 0.06


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_of_a_path_join(kind):
    """Another start gives the same frames, to float rounding some 400 m down the way."""
    (_, one), (_, other) = (walk(8, kind, start=start) for start in (9_900, 10_053))
    np.testing.assert_allclose(one[153:], other[:-153], rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_loops_come_back_and_open_paths_do_not(kind):
    _, cameras = walk(4, kind, period=100)
    np.testing.assert_array_equal(cameras[:300], cameras[100:])
    place = places(cameras)
    assert np.linalg.norm(place[50] - place[0]) > 0.3
    if kind != "room":
        reached = [places(walk(4, kind, start=start)[1])[0, 2] for start in range(0, 10_000, 1000)]
        assert np.diff(reached).min() > 10


def test_speed_and_look():
    _, slow = walk(2, "street", speed=1.0)
    _, fast = walk(2, "street", speed=2.0)
    lengths = [np.linalg.norm(np.diff(places(c), axis=0), axis=1).sum() for c in (slow[:401], fast[:200])]
    assert lengths[1] == pytest.approx(lengths[0], rel=0.1)
    _, cameras = walk(2, "room", look="aside")
    to_middle = geometry.transform_points(cameras, jnp.asarray([[0.0, -1.4, 0.0]]))[:, 0]
    assert (to_middle[:, 2] > 0.5 * jnp.linalg.norm(to_middle, axis=-1)).mean() > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_scenes_are_pure_functions_of_their_keys(kind):
    make = partial(synthetic.make_scene, kind=kind)
    keys = jax.random.split(jax.random.key(0), 6)
    batch = jax.jit(jax.vmap(make))(keys)
    again = jax.jit(make)(keys[3])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[3], b, rtol=1e-6, atol=1e-6), batch, again)
    assert len(np.unique(np.asarray(batch.size), axis=0)) == 6


def test_clip_is_a_consistent_batch():
    """Batch of 2 rooms, 3 frames, 8 queries; key 1."""
    make = jax.jit(jax.vmap(lambda key: synthetic.clip(key, 3, HEIGHT, WIDTH, queries=8)))
    keys = jax.random.split(jax.random.key(1), 2)
    batch = make(keys)
    jax.tree.map(np.testing.assert_array_equal, batch, make(keys))
    assert batch.images.shape == (2, 3, HEIGHT, WIDTH, 3) and batch.tracks.shape == (2, 3, 8, 2)
    assert not np.allclose(batch.images[0], batch.images[1])
    np.testing.assert_allclose(batch.cam_from_world[:, 0], np.broadcast_to(np.eye(3, 4), (2, 3, 4)), rtol=0, atol=2e-6)
    cameras, intrinsics = geometry.cameras_from_pose(batch.pose_encoding, HEIGHT, WIDTH)
    np.testing.assert_allclose(cameras, batch.cam_from_world, rtol=0, atol=2e-6)
    np.testing.assert_allclose(intrinsics, batch.intrinsics, rtol=1e-5)
    assert (np.degrees(batch.pose_encoding[..., 8]) > 45).all() and (np.degrees(batch.pose_encoding[..., 8]) < 75).all()
    # The tracks are projections of one set of points in the first camera's frame.
    rays = jnp.linalg.solve(
        batch.intrinsics[:, 0], jnp.concatenate((batch.query_points, jnp.ones((2, 8, 1))), -1).mT
    ).mT
    nearest = jnp.rint(batch.query_points).astype(int)
    depth = jax.vmap(lambda z, q: z[q[:, 1], q[:, 0]])(batch.depth[:, 0], nearest)
    pixels, _ = geometry.project((rays * depth[..., None])[:, None], batch.cam_from_world, batch.intrinsics)
    assert np.median(np.abs(pixels - batch.tracks)) < 0.1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda key, scene: synthetic.make_scene(key, "forest"), "'forest'"),
        (lambda key, scene: synthetic.camera_path(key, scene, 4, look="up"), "'up'"),
        (lambda key, scene: synthetic.camera_path(key, scene, 4, period=8), "period .* not 8"),
    ],
)
def test_errors_name_the_offender(call, message):
    with pytest.raises(ValueError, match=message):
        call(jax.random.key(0), walk(0, "room")[0])


@pytest.fixture(scope="module")
def make_room():
    specification = importlib.util.spec_from_file_location("make_room", EXAMPLES / "make_room.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_example_ground_truth(make_room):
    _, cameras, intrinsics = make_room.room()
    truth = np.loadtxt(EXAMPLES / "room" / "groundtruth.txt")
    np.testing.assert_allclose(truth, make_room.ground_truth(cameras), rtol=0, atol=1e-5)
    table = np.loadtxt(EXAMPLES / "room" / "intrinsics.txt")
    assert len(table) == len(truth) == make_room.FRAMES
    expected = (*(float(intrinsics[i, i]) for i in (0, 1)), 196, 147, 392, 294)
    np.testing.assert_allclose(table[:, 1:], np.broadcast_to(expected, (len(table), 6)), rtol=0, atol=1e-3)
    np.testing.assert_array_equal(table[:, 0], truth[:, 0])


def test_example_frames(make_room):
    """All are there, small, and frame 11 is what the renderer draws, up to JPEG's loss."""
    files = sorted((EXAMPLES / "room" / "frames").iterdir())
    assert [file.name for file in files] == [f"{n:06d}.jpg" for n in range(make_room.FRAMES)]
    assert sum(file.stat().st_size for file in files) < 1.5e6
    scene, cameras, intrinsics = make_room.room()
    drawn = np.asarray(make_room.image(scene, cameras[11], intrinsics), np.float64)
    with Image.open(files[11]) as stored:
        difference = np.abs(np.asarray(stored, np.float64) - drawn)
    assert difference.mean() < 4 and np.percentile(difference, 99) < 25
