"""Bad input is refused before anything runs, with the numbers that do not fit."""

import dataclasses

import numpy as np
import pytest
from streaming import BOUNDED, start

from ivggt_jax import CacheConfig, Model, fit, infer_clip, init_stream, reset, scan, step, stream


def refused(numbers: str):
    return pytest.raises(ValueError, match=numbers)


@pytest.mark.parametrize(("height", "width"), [(28, 43), (27, 42), (0, 42)])
def test_sizes_that_are_no_multiple_of_the_patch(tiny: Model, height, width):
    with refused(f"{height}×{width}.*14"):
        init_stream(tiny, BOUNDED, height=height, width=width)
    with refused(f"{height}×{width}.*14"):
        infer_clip(tiny, np.zeros((1, 2, height, width, 3), np.float32))
    with refused(f"{height}×{width}.*14"):
        next(stream(tiny, [np.zeros((height, width, 3), np.float32)], BOUNDED))


def test_a_total_below_one_frame_a_layer(tiny: Model):
    with refused("43.*11 tokens × 4 layers = 44"):
        start(tiny, CacheConfig(total_budget=43))
    start(tiny, CacheConfig(total_budget=44))


@pytest.mark.parametrize("shape", [(28, 42, 3), (3, 28, 42), (2, 28, 42, 3), (3, 28, 56, 3), (3, 28, 42, 4)])
def test_frames_that_do_not_fit_the_state(tiny: Model, shape):
    for run, frames in ((step, np.zeros(shape, np.float32)), (scan, np.zeros((2, *shape), np.float32))):
        state = start(tiny)
        with refused(r"3, 28, 42, 3\].*" + ", ".join(map(str, shape))):
            run(tiny, state, frames)
        assert not state.frame.is_deleted(), "the state is still good"


@pytest.mark.parametrize("chunk", [1, 2])
def test_a_stream_that_changes_its_size(tiny: Model, chunk):
    frames = [np.zeros((28, 42, 3), np.float32), np.zeros((28, 28, 3), np.float32)]
    with refused("28.*42.*28, 28"):
        list(stream(tiny, frames, BOUNDED, chunk=chunk, heads=(), features=True))


def test_a_stream_that_changes_its_type(tiny: Model):
    frames = [np.zeros((28, 42, 3), np.uint8), np.zeros((28, 42, 3), np.float32)]
    with refused("uint8.*float32"):
        list(stream(tiny, frames, BOUNDED, heads=(), features=True))


@pytest.mark.parametrize("dtype", [np.int32, np.uint16, bool])
def test_images_that_could_mean_anything(tiny: Model, dtype):
    with refused(f"uint8, or floats.*{np.dtype(dtype)}"):
        infer_clip(tiny, np.zeros((1, 2, 28, 42, 3), dtype))
    with refused(f"uint8, or floats.*{np.dtype(dtype)}"):
        step(tiny, start(tiny), np.zeros((3, 28, 42, 3), dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_floats_from_0_to_255(tiny: Model, dtype):
    """One white pixel is enough; a little more than 1, as interpolation makes it, is white."""
    picture = np.full((28, 42, 3), 0.5, dtype)
    picture[3, 4] = 1.1
    assert len(list(stream(tiny, [picture], BOUNDED, heads=(), features=True))) == 1
    picture[3, 4] = 255
    with refused("floats must be in .0,1., but one is 255: divide by 255"):
        list(stream(tiny, [picture], BOUNDED, heads=(), features=True))
    with refused("floats must be in .0,1., but one is 255: divide by 255"):
        infer_clip(tiny, picture[None, None])
    with refused("floats must be in .0,1., but one is 255: divide by 255"):
        fit(picture)
    with refused("floats must be in .0,1., but one is 255: divide by 255"):
        step(tiny, start(tiny), np.stack([picture] * 3))
    with refused("floats must be in .0,1., but one is 255: divide by 255"):
        scan(tiny, start(tiny), frames=np.stack([picture] * 3)[None])


@pytest.mark.parametrize("frames", ["walk", ["a.png", "b.png"], [[[0.5]]]])
def test_frames_that_are_no_arrays(tiny: Model, frames):
    with refused(r"frames must be arrays \[H,W,3\], not (str|list): ivggt_jax.fit\(path\) reads a file"):
        next(stream(tiny, frames, BOUNDED))


def test_lists_instead_of_arrays(tiny: Model):
    frame = np.zeros((3, 28, 42, 3), np.float32)
    for name, use in {
        "images": lambda: infer_clip(tiny, [frame]),
        "frame": lambda: step(tiny, start(tiny), list(frame)),
        "frames": lambda: scan(tiny, start(tiny), [frame]),
        "masks": lambda: step(tiny, start(tiny), frame, masks=[frame[..., 0] > 0]),
        "query_points": lambda: start(tiny, query_points=[[[1, 2]]] * 3),
        "focal": lambda: start(tiny, focal=[[40, 40]] * 3),
    }.items():
        with refused(f"^{name} must be an array, not a list: np.stack makes one of several"):
            use()


def test_a_state_is_used_once(tiny: Model):
    state, frame = start(tiny), np.zeros((3, 28, 42, 3), np.float32)
    step(tiny, state, frame)
    for use in (
        lambda: step(tiny, state, frame),
        lambda: scan(tiny, state, frame[None]),
        lambda: reset(state, [True] * 3),
    ):
        with refused("this state was used up by an earlier call: go on with the state that it returned"):
            use()


def test_a_scan_of_no_frames(tiny: Model):
    with refused("0 frames"):
        scan(tiny, start(tiny), np.zeros((0, 3, 28, 42, 3), np.float32))


def test_a_model_without_a_head_of_the_state(tiny: Model):
    with refused("no parameters for camera; this model has depth"):
        step(tiny.only_heads(["depth"]), start(tiny), np.zeros((3, 28, 42, 3), np.float32))


def test_a_state_of_another_model(tiny: Model):
    """With more iterations than the state's camera ring has room for, poses would be wrong, and nothing else."""
    model = Model(dataclasses.replace(tiny.config, camera_iterations=6), tiny.params)
    with refused("another model: camera_iterations=4, not 6"):
        step(model, start(tiny), np.zeros((3, 28, 42, 3), np.float32))


def test_a_chunk_of_no_frames(tiny: Model):
    with refused("chunk.*0"):
        list(stream(tiny, [np.zeros((28, 42, 3), np.float32)], BOUNDED, chunk=0))


@pytest.mark.parametrize("shape", [(2, 28, 42, 3), (1, 2, 28, 42, 4), (1, 0, 28, 42, 3)])
def test_images_that_are_no_clip(tiny: Model, shape):
    with refused(", ".join(map(str, shape))):
        infer_clip(tiny, np.zeros(shape, np.float32))


@pytest.mark.parametrize("shape", [(5, 2), (2, 5, 2), (1, 5, 3)])
def test_query_points_of_a_wrong_shape(tiny: Model, shape):
    with refused(rf"\[1,N,2\].*{', '.join(map(str, shape))}"):
        infer_clip(tiny, np.zeros((1, 2, 28, 42, 3), np.float32), query_points=np.zeros(shape))
    with refused(rf"\[1,N,2\].*{', '.join(map(str, shape))}"):
        start(tiny, batch=1, query_points=np.zeros(shape))


@pytest.mark.parametrize("point", [(-0.6, 3), (41.6, 3), (3, 27.6), (np.nan, 3)])
def test_query_points_outside_the_frame(tiny: Model, point):
    """A frame of 42×28 pixels reaches from -½ to 41½ and 27½."""
    good, bad = np.array([[[-0.5, 27.5], [41.5, -0.5]]], np.float32), np.array([[[1, 1], point]], np.float32)
    for use in (
        lambda points: infer_clip(tiny, np.zeros((1, 2, 28, 42, 3), np.float32), query_points=points),
        lambda points: start(tiny, batch=1, query_points=points),
        lambda points: reset(start(tiny, batch=1, heads=["tracks"], query_points=good), np.array([True]), points),
    ):
        use(good)
        with refused(r"query point \[.*\] is outside the frame of 42×28 pixels"):
            use(bad)


def test_names(tiny: Model):
    with refused("normals, poses; known: camera, depth, points, tracks"):
        start(tiny, heads=["poses", "depth", "normals"])
    with refused("query_points"):
        start(tiny, heads=["tracks"])
    with refused("'online'"):
        infer_clip(tiny, np.zeros((1, 2, 28, 42, 3), np.float32), mode="online")
    with refused("'recency'.*diversity"):
        start(tiny, CacheConfig(total_budget=44, policy="recency"))


@pytest.mark.parametrize(
    ("fields", "numbers"),
    [
        ({"total_budget": None}, "max_frames"),
        ({"total_budget": 0}, "total_budget.*0"),
        ({"max_frames": 0}, "max_frames.*0"),
        ({"temperature": 0.0}, "temperature.*0.0"),
        ({"temperature": 1e-39}, "temperature.*1e-39"),
        ({"capacity_factor": float("inf")}, "capacity_factor.*inf"),
        ({"capacity_factor": 0.9}, "capacity_factor.*0.9"),
        ({"camera_cache": "all"}, "camera_cache.*'all'"),
        ({"camera_frames": 1}, "camera_frames.*1"),
        ({"track_window": 1}, "track_window.*1"),
    ],
)
def test_cache_configurations_that_contradict_themselves(fields, numbers):
    with refused(numbers):
        CacheConfig(**fields)
