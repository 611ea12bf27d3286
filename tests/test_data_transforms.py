"""Crops, rescales and jitter: pixels, depth and intrinsics must tell one story."""

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from ivggt_jax.geometry import unproject
from ivggt_jax.train.data.scene import LabelledFrame
from ivggt_jax.train.data.transforms import color_jitter, draw_query_points, fit_frame, stack_clip

WIDTH, HEIGHT = 160, 120
INTRINSICS = np.array([[130.0, 0, 86.3], [0, 140, 55.7], [0, 0, 1]])


def ramp_frame(**changes: object) -> LabelledFrame:
    """Red and green count columns and rows, and the depth is their sum: a pixel tells where it comes from."""
    columns, rows = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    image = np.stack([columns, rows, np.zeros_like(rows)], -1).astype(np.uint8)
    depth = (1 + columns + rows).astype(np.float32)
    return LabelledFrame(**{"image": Image.fromarray(image), "depth": depth, "world_from_cam": np.eye(4),
                            "intrinsics": INTRINSICS} | changes)  # fmt: skip


@pytest.mark.parametrize(
    ("width", "height", "enlarge"), [(56, 42, 0), (56, 42, 15), (98, 28, 3), (28, 70, 7), (224, 168, 0)]
)
def test_a_pixel_keeps_its_ray(width: int, height: int, enlarge: int) -> None:
    fitted = fit_frame(ramp_frame(), width, height, enlarge)
    assert fitted.image.size == (width, height)
    assert fitted.depth.shape == (height, width)
    pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1)
    focal, centre = np.diag(fitted.intrinsics)[:2], fitted.intrinsics[:2, 2]
    rays = (pixels - centre) / focal
    source = np.asarray(fitted.image, float)[..., :2]
    expected = (source - INTRINSICS[:2, 2]) / np.diag(INTRINSICS)[:2]
    inside = slice(3, -3)
    error = np.abs(rays - expected)[inside, inside] * np.diag(INTRINSICS)[:2]
    assert error.max() < 0.75, "in original pixels: half from rounding colours"
    assert np.abs(error.mean((0, 1))).max() < 0.3
    nearest = np.abs(fitted.depth - 1 - source.sum(-1))[inside, inside]
    assert nearest.max() <= 1 + 2 * max(1.0, 120 / min(width, height))


def test_the_principal_point_comes_to_the_middle() -> None:
    fitted = fit_frame(ramp_frame(), 56, 42)
    np.testing.assert_allclose(fitted.intrinsics[:2, 2], (28, 21), atol=1.0)
    ratio = fitted.intrinsics[1, 1] / fitted.intrinsics[0, 0]
    assert ratio == pytest.approx(140 / 130, rel=0.02), "the aspect ratio stays"


def test_enlarging_zooms_in() -> None:
    plain, zoomed = (fit_frame(ramp_frame(), 56, 42, enlarge) for enlarge in (0, 15))
    assert zoomed.intrinsics[0, 0] > 1.2 * plain.intrinsics[0, 0]


def test_unlabelled_images_count_as_centred() -> None:
    bare = LabelledFrame(ramp_frame().image)
    fitted = fit_frame(bare, 56, 28)
    assert fitted.depth is None and fitted.intrinsics is None
    columns = np.asarray(fitted.image)[..., 0].mean(0)
    assert columns[0] + columns[-1] == pytest.approx(WIDTH - 1, abs=2)


def test_unusable_frames_are_errors() -> None:
    aside = INTRINSICS + np.array([[0, 0, 60], [0, 0, 0], [0, 0, 0]])
    with pytest.raises(ValueError, match="principal point"):
        fit_frame(ramp_frame(intrinsics=aside), 56, 42)
    with pytest.raises(ValueError, match="differ"):
        fit_frame(ramp_frame(depth=np.ones((60, 80), np.float32)), 56, 42)


def test_jitter_is_one_for_all_frames_and_seeded() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8))
    first, again, other = (color_jitter(np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first(image), first(image))
    np.testing.assert_array_equal(first(image), again(image))
    assert not np.array_equal(first(image), other(image))
    assert not np.array_equal(first(image), image)
    assert first(image).mode == "RGB"


def test_clip_is_in_the_first_cameras_frame() -> None:
    random = np.random.default_rng(0)
    frames = []
    for _ in range(3):
        world_from_cam = np.eye(4)
        world_from_cam[:3, :3] = Rotation.random(random_state=int(random.integers(100))).as_matrix()
        world_from_cam[:3, 3] = random.normal(size=3) + 10_000  # far from the origin, where float32 ends
        depth = random.uniform(-0.5, 3, (HEIGHT, WIDTH))
        depth[0, :3] = np.nan, np.inf, 0
        frames.append(ramp_frame(world_from_cam=world_from_cam, depth=depth))
    clip = stack_clip(frames, labelled=True)
    assert {name: array.shape for name, array in clip.items()} == {
        "images": (3, HEIGHT, WIDTH, 3), "depth": (3, HEIGHT, WIDTH), "valid": (3, HEIGHT, WIDTH),
        "cam_from_world": (3, 3, 4), "intrinsics": (3, 3, 3), "points": (3, HEIGHT, WIDTH, 3),
    }  # fmt: skip
    assert clip["images"].dtype == np.uint8
    np.testing.assert_allclose(clip["cam_from_world"][0], np.eye(3, 4), atol=1e-6)
    relative = np.linalg.inv(frames[2].world_from_cam) @ frames[0].world_from_cam
    np.testing.assert_allclose(clip["cam_from_world"][2], relative[:3], atol=1e-5)
    assert not clip["valid"][:, 0, :3].any()
    np.testing.assert_array_equal(clip["valid"], clip["depth"] > 0)
    assert np.isfinite(clip["depth"]).all()
    expected = np.asarray(unproject(clip["depth"], clip["cam_from_world"], clip["intrinsics"]))
    np.testing.assert_allclose(clip["points"][clip["valid"]], expected[clip["valid"]], atol=2e-5)
    assert (clip["points"][~clip["valid"]] == 0).all()


def test_missing_or_broken_labels_are_errors() -> None:
    assert set(stack_clip([ramp_frame(depth=None)], labelled=False)) == {"images"}
    with pytest.raises(ValueError, match="no depth"):
        stack_clip([ramp_frame(depth=None)], labelled=True)
    with pytest.raises(ValueError, match="not finite"):
        stack_clip([ramp_frame(world_from_cam=np.full((4, 4), -np.inf))], labelled=True)


def test_query_points_are_valid_pixels_of_the_first_frame() -> None:
    clip = stack_clip([ramp_frame(), ramp_frame()], labelled=True)
    clip["valid"][0] = False
    clip["valid"][0, 30:40, 100:] = True
    points = draw_query_points(np.random.default_rng(0), clip, 64)
    assert points.shape == (64, 2)
    columns, rows = points.astype(int).T
    assert clip["valid"][0, rows, columns].all()
    assert len(np.unique(points, axis=0)) > 32
    clip["valid"][0] = False
    anywhere = draw_query_points(np.random.default_rng(0), clip, 64)
    assert (anywhere < (WIDTH, HEIGHT)).all() and anywhere.std(0).min() > 10
