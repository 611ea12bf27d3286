"""Exports built from saved frames: read by their own tools, and checked by reprojection to the original pixels."""

import dataclasses
import json
import struct
import tracemalloc

import numpy as np
import pytest
from PIL import Image  # before pycolmap: the zlib in pycolmap breaks Pillow's when it is loaded first
from scipy.spatial.transform import Rotation
from writer_scene import (
    ALL,
    FITS,
    HEIGHT,
    HIGH,
    LOW,
    WIDTH,
    camera,
    intrinsics,
    invert,
    known_pixels,
    originals,
    result,
    saved,
)

from ivggt_jax.writers.colmap import export_colmap
from ivggt_jax.writers.exports import EXPORTS
from ivggt_jax.writers.glb import export_glb
from ivggt_jax.writers.nerfstudio import export_nerfstudio
from ivggt_jax.writers.saved_run import SavedRun, read_result
from ivggt_jax.writers.tracks import TOLERANCE, project

TRACKED = dataclasses.replace(ALL, dense=0)


@pytest.fixture
def pycolmap():
    return pytest.importorskip("pycolmap")


def assert_on_walls(points: np.ndarray, tolerance: float) -> None:
    assert np.minimum(np.abs(points - LOW), np.abs(points - HIGH)).min(axis=1).max() < tolerance


@pytest.mark.parametrize("fit", FITS)
def test_a_saved_run_gives_back_the_results(fit, tmp_path):
    mask = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 5 > 0
    items = [result(0, FITS[fit]), result(7, FITS[fit], points=None, points_confidence=None)]
    frame = dataclasses.replace(items[1].frame, mask=mask, timestamp=0.25, name="photo é.jpg")
    items[1] = dataclasses.replace(items[1], frame=frame)
    run = saved(tmp_path, items)
    assert len(run) == 2
    for item, read, bare in zip(items, run, run.cameras(), strict=True):
        for field in dataclasses.fields(item):
            if field.name != "frame":
                np.testing.assert_array_equal(getattr(read, field.name), getattr(item, field.name))
        for field in dataclasses.fields(item.frame):
            np.testing.assert_array_equal(getattr(read.frame, field.name), getattr(item.frame, field.name))
        assert bare.depth is None and bare.points is None
        np.testing.assert_array_equal(bare.cam_from_world, item.cam_from_world)


def test_a_run_without_saved_frames_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no saved frames.*--export npz"):
        SavedRun(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: b"not an archive",
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole.replace(b"-\0\0\0\x08\0", b"-\0\0\0\x63\0"),  # another method of compression
    ],
)
def test_a_damaged_frame_is_named(damage, tmp_path):
    saved(tmp_path, [result(0)])
    path = tmp_path / "frames" / "000000.npz"
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert path.read_bytes() != whole
    with pytest.raises(ValueError, match="000000.npz is not a frame that a run saved, or is damaged"):
        read_result(path)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("image", np.zeros((4, 4), np.uint8), "unpack"),
        ("image", np.zeros((HEIGHT, WIDTH, 3), np.float32), "image is float32"),
        ("image", np.zeros((HEIGHT, WIDTH, 4), np.uint8), r"image is uint8 \[112, 168, 4\]"),
        ("mask", np.ones((HEIGHT, WIDTH), np.uint8), "mask is uint8"),
        ("depth", np.ones((HEIGHT, WIDTH + 1), np.float32), "depth is float32"),
        ("depth", np.array("near"), "could not convert"),
        ("points", np.ones((HEIGHT, WIDTH), np.float32), "points is float32"),
        ("cam_from_world", np.full((3, 4), np.nan), "its camera"),
        ("cam_from_world", np.eye(4), "cam_from_world is float64"),
        ("intrinsics", np.eye(3, dtype=np.float32), "intrinsics is float32"),
        ("cam_from_world", np.zeros((3, 4)), "its camera"),
        ("cam_from_world", np.diag((1.0, 1.0, -1.0, 0))[:3], "its camera"),
        ("intrinsics", np.zeros((3, 3)), "its camera"),
        ("scale", np.zeros(2), "its camera or its size"),
        ("original_size", np.array((0, 3)), "its camera or its size"),
        ("index", np.array((1, 2)), "only"),
        ("index", np.array(-5), "its number is -5"),
        ("timestamp", np.array("noon"), "could not convert"),
        ("name", None, "name"),
    ],
)
def test_a_frame_that_is_another_programs_is_named(name, value, words, tmp_path):
    saved(tmp_path, [result(0)])
    path = tmp_path / "frames" / "000000.npz"
    with np.load(path) as file:
        arrays = dict(file)
    arrays[name] = value
    np.savez(path, **{key: array for key, array in arrays.items() if array is not None})
    with pytest.raises(ValueError, match=f"000000.npz is not a frame that a run saved, or is damaged: .*{words}"):
        read_result(path)


def test_a_frame_that_unpacks_to_too_much_is_not_unpacked(tmp_path, monkeypatch):
    saved(tmp_path, [result(0)])
    monkeypatch.setattr("ivggt_jax.writers.saved_run.LARGEST", 100_000)
    with pytest.raises(ValueError, match="it unpacks to more than"):
        read_result(tmp_path / "frames" / "000000.npz")


def expected_pixels(item, with_originals: bool) -> np.ndarray:
    """Where the known points lie in the exported picture, counted from the corner of the first pixel."""
    corner = known_pixels(item)[1] + 0.5
    return corner if with_originals else corner * item.frame.fit.scale + item.frame.fit.offset


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("with_originals", [True, False])
def test_colmap_reprojects_known_points_to_known_pixels(fit, with_originals, pycolmap, tmp_path):
    items = [result(index, FITS[fit]) for index in range(0, 6, 2)]
    folder = originals(tmp_path / "photos", items) if with_originals else None
    export_colmap(saved(tmp_path, items), tmp_path, dataclasses.replace(ALL, images=folder))
    model = pycolmap.Reconstruction(str(tmp_path / "sparse" / "0"))
    assert len(model.images) == len(items)
    for number, item in enumerate(items, start=1):
        image = model.images[number]
        if with_originals:
            assert image.name == item.frame.name
        with Image.open(tmp_path / "images" / image.name) as picture:
            assert picture.size == (image.camera.width, image.camera.height)
        pixels = np.array([image.project_point(point) for point in known_pixels(item)[0]])
        np.testing.assert_allclose(pixels, expected_pixels(item, with_originals), atol=1e-6)
        np.testing.assert_allclose(image.projection_center(), camera(item.frame.index)[:, 3], atol=1e-9)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("with_originals", [True, False])
def test_nerfstudio_reprojects_known_points_to_known_pixels(fit, with_originals, tmp_path):
    items = [result(index, FITS[fit]) for index in range(0, 6, 2)]
    folder = originals(tmp_path / "photos", items) if with_originals else None
    export_nerfstudio(saved(tmp_path, items), tmp_path, dataclasses.replace(ALL, images=folder))
    scene = json.loads((tmp_path / "transforms.json").read_text())
    for item, frame in zip(items, (scene | frame for frame in scene["frames"]), strict=True):
        with Image.open(tmp_path / frame["file_path"]) as picture:
            assert picture.size == (frame["w"], frame["h"])
        # nerfstudio's own rays: x right, y up, z backward, from a matrix world-from-camera.
        pose = np.array(frame["transform_matrix"])
        x, y, z = ((known_pixels(item)[0] - pose[:3, 3]) @ pose[:3, :3]).T
        pixels = np.stack((frame["fl_x"] * x / -z + frame["cx"], frame["fl_y"] * -y / -z + frame["cy"]), axis=-1)
        np.testing.assert_allclose(pixels, expected_pixels(item, with_originals), atol=1e-6)
        np.testing.assert_allclose(pose[:3, 3], camera(item.frame.index)[:, 3], atol=1e-12)


@pytest.mark.parametrize("shared", [False, True])
def test_a_nerfstudio_loader_agrees_with_colmaps_cameras(shared, pycolmap, tmp_path):
    """Written from nerfstudio's description of transforms.json: values of a frame go before those of the whole file."""
    items = [result(index, FITS["cropped"]) for index in range(4)]
    run = saved(tmp_path, items)
    for export in (export_colmap, export_nerfstudio):
        export(run, tmp_path, dataclasses.replace(ALL, shared_camera=shared))
    transforms = json.loads((tmp_path / "transforms.json").read_text())
    model = pycolmap.Reconstruction(str(tmp_path / "sparse" / "0"))
    colmap = {f"images/{image.name}": image for image in model.images.values()}
    assert len(transforms["frames"]) == len(colmap) == 4
    for frame in transforms["frames"]:
        found, image = transforms | frame, colmap[frame["file_path"]]
        matrix = np.array([[found["fl_x"], 0, found["cx"]], [0, found["fl_y"], found["cy"]], [0, 0, 1]])
        world_from_cam = np.array(found["transform_matrix"])[:3] @ np.diag((1.0, -1.0, -1.0, 1.0))
        np.testing.assert_allclose(matrix, image.camera.calibration_matrix(), atol=1e-6)
        np.testing.assert_allclose(invert(world_from_cam), image.cam_from_world().matrix(), atol=1e-6)
        assert (found["w"], found["h"]) == (image.camera.width, image.camera.height)


def test_colmap_tracks_have_three_views_and_agree_with_the_scene(pycolmap, tmp_path):
    items = [result(index) for index in range(12)]
    export_colmap(saved(tmp_path, items), tmp_path, TRACKED)
    model = pycolmap.Reconstruction(str(tmp_path / "sparse" / "0"))
    assert len(model.points3D) > 150
    assert min(point.track.length() for point in model.points3D.values()) == 3
    assert model.compute_mean_track_length() > 4
    assert_on_walls(np.array([point.xyz for point in model.points3D.values()]), 1e-6)
    errors = []
    for point in model.points3D.values():
        elements = point.track.elements
        assert len({element.image_id for element in elements}) == len(elements)
        for element in elements:
            image = model.images[element.image_id]
            observed = image.points2D[element.point2D_idx]
            np.testing.assert_array_equal(model.points3D[observed.point3D_id].xyz, point.xyz)
            errors.append(np.linalg.norm(image.project_point(point.xyz) - observed.xy))
    # Where the images agree, found to a small part of a pixel (0 in the frame that made the point).
    assert np.median(errors) < 0.05
    assert np.percentile(errors, 95) < 0.3


def test_bundle_adjustment_lowers_the_error_of_a_model_with_wrong_poses(pycolmap, tmp_path):
    random = np.random.default_rng(0)
    items = []
    for index in range(16):
        pose = camera(index)
        turn = Rotation.from_rotvec(0.004 * random.normal(size=3)).as_matrix()
        pose = np.concatenate((pose[:, :3] @ turn, pose[:, 3:] + 0.004 * random.normal(size=(3, 1))), axis=1)
        items.append(result(index, cam_from_world=invert(pose)))
    export_colmap(saved(tmp_path, items), tmp_path, TRACKED)
    model = pycolmap.Reconstruction(str(tmp_path / "sparse" / "0"))
    model.update_point_3d_errors()
    before, turned_before = model.compute_mean_reprojection_error(), mean_turn(model)
    options = pycolmap.BundleAdjustmentOptions()
    options.refine_focal_length = options.refine_principal_point = options.refine_extra_params = False
    options.print_summary = False
    config = pycolmap.BundleAdjustmentConfig()
    for number in model.images:
        config.add_image(number)
    config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    pycolmap.create_default_bundle_adjuster(options, config, model).solve()
    model.update_point_3d_errors()
    assert before > 0.3
    assert model.compute_mean_reprojection_error() < before / 4
    assert mean_turn(model) < turned_before / 2


def mean_turn(model) -> float:
    """Mean angle in radians by which neighbouring cameras turn differently from the truth."""
    truth = [Rotation.from_matrix(camera(number - 1)[:, :3]) for number in sorted(model.images)]
    found = [
        Rotation.from_matrix(model.images[number].cam_from_world().rotation.matrix()).inv()
        for number in sorted(model.images)
    ]
    steps = [
        (a.inv() * b).inv() * (c.inv() * d) for a, b, c, d in zip(truth, truth[1:], found, found[1:], strict=False)
    ]
    return float(np.mean([step.magnitude() for step in steps]))


@pytest.mark.parametrize(("dense", "expected"), [(0, 0), (1, 1), (5000, 5000), (10**6, None)])
def test_dense_points_follow_the_tracked_ones(dense, expected, pycolmap, tmp_path):
    """As many as are wanted or as there are, on the walls, without tracks; what has tracks stays as it is."""
    run = saved(tmp_path, [result(index) for index in range(6)])
    models = []
    for name, count in (("tracked", 0), ("dense", dense)):
        export_colmap(run, tmp_path / name, dataclasses.replace(ALL, dense=count, voxel=0.01))
        models.append(pycolmap.Reconstruction(str(tmp_path / name / "sparse" / "0")))
    tracked, whole = (model.points3D for model in models)
    more = [point for number, point in whole.items() if number not in tracked]
    assert len(more) == (
        len(run.cloud(dataclasses.replace(ALL, voxel=0.01, dense=0))) if expected is None else expected
    )
    assert len(tracked) > 100
    for number, point in tracked.items():
        assert (whole[number].xyz == point.xyz).all() and whole[number].track.length() == point.track.length()
    assert {point.track.length() for point in more} <= {0}
    if more:
        assert_on_walls(np.array([point.xyz for point in more]), 0.02)
    for path in ("cameras.bin", "images.bin"):
        files = [(tmp_path / name / "sparse" / "0" / path).read_bytes() for name in ("tracked", "dense")]
        assert files[0] == files[1]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_few_pictures_make_a_model_with_points_and_a_line(count, pycolmap, tmp_path, caplog):
    run = saved(tmp_path, [result(4 * index) for index in range(count)])
    export_colmap(run, tmp_path, ALL)
    model = pycolmap.Reconstruction(str(tmp_path / "sparse" / "0"))
    assert len(model.images) == count and len(model.points3D) > 10_000
    assert ("thin: 0 points of the COLMAP model" in caplog.text) == (count < 3)
    assert ("thin: " in caplog.text) == (count < 3)


def test_no_point_at_all_is_a_model_and_a_line(pycolmap, tmp_path, caplog):
    """All pixels are masked; the cameras are worth having."""
    items = [result(index) for index in range(3)]
    mask = np.zeros((HEIGHT, WIDTH), bool)
    items = [dataclasses.replace(item, frame=dataclasses.replace(item.frame, mask=mask)) for item in items]
    export_colmap(saved(tmp_path, items), tmp_path, ALL)
    model = pycolmap.Reconstruction(str(tmp_path / "sparse" / "0"))
    assert len(model.images) == 3 and not model.points3D
    assert "thin: 0 points of the COLMAP model are seen in three of its 3 pictures" in caplog.text


def test_depths_that_disagree_make_no_tracks(tmp_path):
    items = [result(index) for index in range(6)]
    wrong = [
        dataclasses.replace(item, depth=item.depth * np.float32(1 + 3 * TOLERANCE * index))
        for index, item in enumerate(items)
    ]
    counts = []
    for name, group in (("right", items), ("wrong", wrong)):
        export_colmap(saved(tmp_path / name, group), tmp_path / name, TRACKED)
        data = (tmp_path / name / "sparse" / "0" / "points3D.bin").read_bytes()
        counts.append(struct.unpack("<Q", data[:8])[0])
    assert counts[0] > 200
    assert counts[1] < counts[0] / 10


def test_the_shared_camera_is_the_median_and_needs_one_size(pycolmap, tmp_path):
    items = [result(index) for index in range(3)]
    for item, factor in zip(items, (0.9, 1.0, 1.3), strict=True):
        item.intrinsics[[0, 1], [0, 1]] *= factor
    options = dataclasses.replace(ALL, shared_camera=True, images=originals(tmp_path / "photos", items))
    run = saved(tmp_path, items)
    export_colmap(run, tmp_path, options)
    export_nerfstudio(run, tmp_path, options)
    model = pycolmap.Reconstruction(str(tmp_path / "sparse" / "0"))
    assert len(model.cameras) == 1
    k = FITS["resized"].intrinsics_to_original(intrinsics(FITS["resized"]))
    np.testing.assert_allclose(model.cameras[1].params, (k[0, 0], k[1, 1], k[0, 2] + 0.5, k[1, 2] + 0.5))
    transforms = json.loads((tmp_path / "transforms.json").read_text())
    np.testing.assert_allclose([transforms[key] for key in ("fl_x", "fl_y", "cx", "cy")], model.cameras[1].params)
    assert "fl_x" not in transforms["frames"][0]
    mixed = [result(0), result(1, FITS["padded"])]
    options = dataclasses.replace(options, images=originals(tmp_path / "mixed_photos", mixed))
    with pytest.raises(ValueError, match="--shared-camera needs pictures of one size.*336x224, 600x480"):
        export_colmap(saved(tmp_path / "mixed", mixed), tmp_path / "mixed", options)


@pytest.mark.parametrize("fit", FITS)
def test_nerfstudio_depth_lies_on_the_pictures_pixels(fit, tmp_path):
    item = result(3, FITS[fit])
    options = dataclasses.replace(ALL, images=originals(tmp_path / "photos", [item]))
    export_nerfstudio(saved(tmp_path, [item]), tmp_path, options)
    frame = json.loads((tmp_path / "transforms.json").read_text())["frames"][0]
    depth = np.asarray(Image.open(tmp_path / frame["depth_file_path"])).astype(np.float64) / 1000
    points, pixels = known_pixels(item)
    width, height = item.frame.fit.original_size
    inside = ((pixels >= 0) & (pixels < (width, height))).all(axis=1)  # and not in the padding
    assert inside.sum() > 20
    # As nerfstudio does: the nearest depth for every pixel of the picture.
    column, row = np.floor((pixels[inside] + 0.5) * (depth.shape[1] / width, depth.shape[0] / height)).astype(int).T
    _, expected = project(item, points[inside])
    slope = np.abs(np.gradient(item.depth)).sum(axis=0)[3::20, 5::26].ravel()[inside]
    assert np.all(np.abs(depth[row, column] - expected) <= slope + 1e-3)
    seen = depth > 0
    covered = np.array((WIDTH, HEIGHT)) / item.frame.fit.scale / (width, height)
    assert seen.mean() == pytest.approx(np.minimum(covered, 1).prod(), abs=0.02)
    assert (tmp_path / "nerfstudio.ply").read_bytes().startswith(b"ply\n")


def test_nerfstudio_has_masks_for_all_pictures_or_for_none(tmp_path):
    """They have the pictures' sizes, which nerfstudio checks. Padding is masked, but no part of the picture."""
    items = [result(index, fit) for index, fit in enumerate((FITS["resized"], FITS["padded"], FITS["padded"]))]
    padding = np.ones((HEIGHT, WIDTH), bool)
    left, top = (round(offset) for offset in FITS["padded"].offset)
    padding[:top] = padding[-top:] = padding[:, :left] = padding[:, -left:] = False
    masks = [np.ones((HEIGHT, WIDTH), bool), padding, padding.copy()]
    masks[2][HEIGHT // 2 :] = False
    masked = [
        dataclasses.replace(item, frame=dataclasses.replace(item.frame, mask=mask))
        for item, mask in zip(items, masks, strict=True)
    ]
    options = dataclasses.replace(ALL, images=originals(tmp_path / "photos", items))
    for name, group, expected in (("none", masked[:2], 0), ("all", masked, 3)):
        out = tmp_path / name
        export_nerfstudio(saved(out, group), out, options)
        frames = json.loads((out / "transforms.json").read_text())["frames"]
        assert sum("mask_path" in frame for frame in frames) == expected
        assert (out / "nerfstudio_masks").exists() == bool(expected)
    shown = [np.asarray(Image.open(out / frame["mask_path"])) for frame in frames]
    assert [mask.shape[::-1] for mask in shown] == [
        np.asarray(Image.open(out / frame["file_path"])).shape[1::-1] for frame in frames
    ]
    assert (shown[0] == 255).all() and (shown[1] == 255).all()
    height = len(shown[2])
    assert (shown[2][: height // 2 - 2] == 255).all() and (shown[2][height // 2 + 2 :] == 0).all()


def test_glb_has_the_points_and_true_pyramids_in_opengl_axes(tmp_path):
    trimesh = pytest.importorskip("trimesh")
    items = [result(index, FITS["stretched"]) for index in range(4)]
    export_glb(saved(tmp_path, items), tmp_path, dataclasses.replace(ALL, voxel=0.01))
    scene = trimesh.load(tmp_path / "scene.glb")
    flip = np.array((1, -1, -1))
    points = np.asarray(scene.geometry["points"].vertices) * flip
    assert len(points) > 5000
    assert_on_walls(points, 0.02)
    dim = {tuple(colour[:3]) for colour in np.asarray(scene.geometry["points"].colors)}
    shown = np.concatenate([item.frame.image.reshape(-1, 3) for item in items])
    light = np.where(shown / 255 <= 0.04045, shown / 255 / 12.92, ((shown / 255 + 0.055) / 1.055) ** 2.4)
    assert np.mean(list(dim)) == pytest.approx(255 * light.mean(), rel=0.15), "glTF's colours are linear"
    drawn = scene.geometry["cameras"]
    outwards = drawn.triangles_center - drawn.vertices.reshape(-1, 5, 3).mean(axis=1).repeat(4, axis=0)
    assert (np.sum(drawn.face_normals * outwards, axis=1) > 0).all(), "viewers hide what they see from behind"
    assert b'"metallicFactor":0' in (tmp_path / "scene.glb").read_bytes().replace(b" ", b"")
    pyramids = (np.asarray(scene.geometry["cameras"].vertices) * flip).reshape(-1, 5, 3)
    corners = np.array(((0, 0), (WIDTH, 0), (WIDTH, HEIGHT), (0, HEIGHT))) - 0.5
    for item, pyramid in zip(items, pyramids, strict=True):
        np.testing.assert_allclose(pyramid[0], camera(item.frame.index)[:, 3], atol=1e-6)
        np.testing.assert_allclose(project(item, pyramid[1:])[0], corners, atol=0.01)


@pytest.mark.parametrize(
    "world, there",
    [
        (((1, 0, 0), (0, 0, 1), (0, -1, 0)), (1, 3, -2)),  # z up, as robots have it: as programs with z up read glTF
        (((1, 0, 0), (0, -1, 0), (0, 0, -1)), (1, 2, 3)),  # y up: as glTF has it
        (((0, 0, 1), (-1, 0, 0), (0, -1, 0)), (1, 3, -2)),  # z up, x forward
    ],
)
def test_glb_is_upright_in_any_world(tmp_path, world, there):
    """A point at (1, 2, 3) of a world, and the first camera, which looks 30 degrees down there."""
    trimesh = pytest.importorskip("trimesh")
    turn = np.array(world) @ Rotation.from_euler("x", -30, degrees=True).as_matrix()
    item = dataclasses.replace(
        result(0),
        cam_from_world=invert(np.column_stack((turn, (1, 2, 3)))),
        points=np.full_like(result(0).points, np.array((1, 2, 3))),
    )
    export_glb(saved(tmp_path, [item]), tmp_path, ALL)
    scene = trimesh.load(tmp_path / "scene.glb")
    np.testing.assert_allclose(scene.geometry["points"].vertices, [there], atol=1e-6)
    pyramid = np.asarray(scene.geometry["cameras"].vertices)
    np.testing.assert_allclose(pyramid[0], there, atol=1e-6)
    assert pyramid[3:, 1].mean() < pyramid[1:3, 1].mean(), "the lower edge of the picture is below"
    assert np.linalg.det(pyramid[[1, 2, 4]] - pyramid[0]) > 0, "nothing is mirrored"


def test_depth_that_nerfstudios_maps_cannot_hold_is_counted(tmp_path, caplog):
    item = result(0)
    depth = item.depth.copy()
    depth[:2, :3] = 70
    EXPORTS["nerfstudio"](saved(tmp_path, [dataclasses.replace(item, depth=depth), result(1)]), tmp_path, ALL)
    assert "6 pixels are farther than 65.5, more than nerfstudio's depth maps hold" in caplog.text


def test_exports_come_out_the_same_twice(tmp_path):
    run = saved(tmp_path, [result(index) for index in range(4)])
    files = []
    for _ in range(2):
        for name in EXPORTS:
            EXPORTS[name](SavedRun(tmp_path), tmp_path, ALL)
        files.append({path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()})
    assert len(run) == 4
    assert files[0] == files[1]


@pytest.mark.slow
def test_colmap_takes_the_memory_of_its_window_whatever_the_length(tmp_path):
    peaks = []
    for count in (40, 80):
        items = (result(index % 20) for index in range(count))
        items = (
            dataclasses.replace(item, frame=dataclasses.replace(item.frame, index=n)) for n, item in enumerate(items)
        )
        run = saved(tmp_path / f"{count}", items)
        tracemalloc.start()
        export_colmap(run, tmp_path / f"{count}", ALL)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]
