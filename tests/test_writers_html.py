"""`scene.html`, read as its page reads it: points in the order of their frames, cameras, pictures; and the page in a browser."""

import base64
import dataclasses
import io
import json
import re
import shutil
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation
from writer_scene import ALL, HEIGHT, HIGH, LOW, WIDTH, camera, result, saved

from ivggt_jax.writers import ExportOptions
from ivggt_jax.writers.drawn import MOST_FRAMES
from ivggt_jax.writers.drawn import facing as drawn_facing
from ivggt_jax.writers.frusta import first_look, overview, upright
from ivggt_jax.writers.html import export_html


def block(page: str, name: str) -> str:
    """What stands in a block of data of the page."""
    return re.search(rf'<script type="[a-z/]+" id="{name}">([^<]*)</script>', page)[1]


def read(page: str) -> tuple[dict, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The scene, positions [N, 3], colours with percentiles [N, 4], nearness [N] and the direction of surfaces [N, 3]."""
    scene = json.loads(block(page, "data"))
    data, count = zlib.decompress(base64.b64decode(block(page, "points"))), scene["points"]
    assert len(data) == 20 * count
    looks = np.frombuffer(data, np.uint8, 4 * count, 12 * count).reshape(-1, 4)
    return (
        scene,
        np.frombuffer(data, "<f4", 3 * count).reshape(-1, 3),
        looks,
        np.frombuffer(data, np.uint8, count, 16 * count),
        np.frombuffer(data, np.int8, 3 * count, 17 * count).reshape(-1, 3),
    )


def write(out: Path, items, options: ExportOptions = ALL) -> str:
    export_html(saved(out, items), out, options)
    return (out / "scene.html").read_text(encoding="utf-8")


def test_it_is_one_file_that_needs_no_other(tmp_path):
    page = write(tmp_path, [result(0)])
    assert not re.search(r'(src|href)="?http|<link|<script src|@[A-Z]+@', page)


def test_a_name_that_is_not_utf_8_is_written_escaped(tmp_path):
    item = result(0)
    scene, *_ = read(
        write(tmp_path, [dataclasses.replace(item, frame=dataclasses.replace(item.frame, name="caf\udce9"))])
    )
    assert [frame["name"] for frame in scene["frames"]] == ["caf\\xe9"]


def test_it_holds_every_frames_points_and_camera(tmp_path):
    items = [result(index) for index in range(3)]
    scene, points, looks, near, _ = read(write(tmp_path, items))
    assert scene["points"] == 3 * HEIGHT * WIDTH and [frame["index"] for frame in scene["frames"]] == [0, 1, 2]
    for item, frame in zip(items, scene["frames"], strict=True):
        own = slice(frame["first"], frame["first"] + HEIGHT * WIDTH)
        found, wanted = points[own], item.points.reshape(-1, 3)
        order, expected = np.lexsort(found.T), np.lexsort(wanted.T)
        np.testing.assert_array_equal(found[order], wanted[expected])
        np.testing.assert_array_equal(looks[own, :3][order], item.frame.image.reshape(-1, 3)[expected])
        sure = item.points_confidence.ravel()[expected]
        assert np.all(np.diff(looks[own, 3][order][np.argsort(sure)].astype(int)) >= 0)
        depth = item.depth.ravel()[expected]
        assert np.all(np.diff(near[own][order][np.argsort(depth)].astype(int)) <= 0)
        tip, *corners = np.array(frame["pyramid"])
        np.testing.assert_allclose(tip, camera(item.frame.index)[:, 3], atol=1e-6)
        u, v, depths = (item.cam_from_world @ np.append(corners, np.ones((4, 1)), axis=1).T).round(5)
        k = item.intrinsics
        np.testing.assert_allclose(u * k[0, 0] + k[0, 2], np.array((0, WIDTH, WIDTH, 0)) - 0.5, atol=1e-2)
        np.testing.assert_allclose(v * k[1, 1] + k[1, 2], np.array((0, 0, HEIGHT, HEIGHT)) - 0.5, atol=1e-2)
        assert (depths == 1).all()
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(frame["picture"])))).astype(int)
        assert np.abs(picture - item.frame.image).mean() < 12
    assert (near == 0).any() and (near == 255).any()
    np.testing.assert_allclose(scene["middle"], np.median(points, axis=0))


def test_options_decide_what_becomes_a_point(tmp_path):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[:56] = True
    item = result(0)
    item = dataclasses.replace(item, frame=dataclasses.replace(item.frame, mask=mask))
    scene, points, *_ = read(write(tmp_path, [item], ExportOptions(confidence=30, voxel=0.25)))
    assert (scene["points"], scene["confidence"], scene["size"]) == (56 * WIDTH, 30, 0.25)
    walls = np.minimum(np.abs(points - LOW), np.abs(points - HIGH)).min(axis=1)
    assert walls.max() < 1e-5
    assert read(write(tmp_path, [item], ExportOptions(max_points=1000)))[0]["points"] <= 1000
    with pytest.raises(ValueError, match="scene.html would have no points"):
        write(tmp_path, [result(0, points=np.full((HEIGHT, WIDTH, 3), np.nan, np.float32))])


def test_walls_face_the_room(tmp_path):
    """Away from corners, each of the six points inwards to 1 in 127; a pixel without a neighbour's depth has no direction."""
    _, points, _, _, facing = read(write(tmp_path, [result(index) for index in range(0, 40, 10)]))
    inside = np.concatenate((points - LOW, HIGH - points), axis=1)
    nearest, second = np.sort(inside, axis=1)[:, :2].T
    clear = (nearest < 1e-4) & (second > 0.2)
    wall = np.argmin(inside[clear], axis=1)
    inwards = np.concatenate((np.eye(3), -np.eye(3)))[wall]
    assert len(set(wall)) >= 4
    np.testing.assert_allclose(facing[clear], 127 * inwards, atol=1)
    item = result(0)
    points = item.points.copy()
    points[40, 50] = np.nan
    facing = drawn_facing(points, item.world_from_cam[:, 3])
    assert not facing[40, 50].any() and not facing[40, 51].any() and facing[40, 53].any()


def test_a_room_seen_on_all_sides_is_shown_from_outside_and_above():
    """From elsewhere the first look is over the first camera's shoulder."""
    around = np.random.default_rng(0).uniform((-4, -1, -4), (4, 1, 4), (1000, 3))
    first, axes = result(0), np.eye(3)
    eye, middle = overview(around, first, axes)
    assert np.linalg.norm(eye - middle) > np.linalg.norm(np.percentile(around, 95, axis=0)[[0, 2]])
    assert middle[1] - eye[1] > 0.3 * np.linalg.norm(eye - middle)
    ahead = around / 10 + (0, 0, 5)
    np.testing.assert_array_equal(overview(ahead, first, axes), first_look(ahead, first, axes))


def test_a_long_run_is_thinned(tmp_path, monkeypatch):
    run, item = saved(tmp_path, [result(0)]), result(0)
    monkeypatch.setattr(type(run), "__len__", lambda _: 1300)
    monkeypatch.setattr(type(run), "__getitem__", lambda _, position: dataclasses.replace(
        item, frame=dataclasses.replace(item.frame, index=position)))  # fmt: skip
    export_html(run, tmp_path, ALL)
    scene, *_ = read((tmp_path / "scene.html").read_text())
    assert [frame["index"] for frame in scene["frames"]] == list(range(0, 1300, 4))
    assert len(scene["frames"]) <= MOST_FRAMES and scene["points"] == 325 * 2048


@pytest.mark.parametrize("pitch", [0, -30, -90, 90])
def test_cameras_are_shown_upright_in_any_world(pitch):
    """The first camera is tilted, the hundred after it turn about the vertical; the world is z up, turned by 40 degrees."""
    angles = np.zeros((101, 2))
    angles[0, 0], angles[1:, 1] = pitch, np.linspace(0, 90, 100)
    world = Rotation.from_euler("z", 40, degrees=True) * Rotation.from_matrix([[1, 0, 0], [0, 0, 1], [0, -1, 0]])
    poses = np.zeros((101, 3, 4))
    poses[:, :, :3] = (world * Rotation.from_euler("xy", angles, degrees=True)).as_matrix()
    np.testing.assert_allclose(upright(poses), world.as_matrix().T, atol=0.02)  # the first one has a vote, too


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
def test_a_browser_shows_it(tmp_path):
    """It reads the data and names the last frame; a name that looks like an element is a name."""
    item = result(1)
    name = '</script><b title="x">&é.png'
    write(tmp_path, [result(0), dataclasses.replace(item, frame=dataclasses.replace(item.frame, name=name))])
    options = ["--headless=new", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    command = [
        "chromium",
        *options,
        f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=10000",
        "--dump-dom",
    ]
    shown = subprocess.run(
        [*command, (tmp_path / "scene.html").as_uri()], capture_output=True, text=True, timeout=300
    ).stdout
    assert "37,632 points of 2 frames" in shown
    assert '<p id="frame">&lt;/script&gt;&lt;b title="x"&gt;&amp;é.png</p>' in shown
