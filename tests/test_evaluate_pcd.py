"""PCD files of every kind that is read, damaged ones, and Open3D's own."""

import numpy as np
import pytest

from ivggt_jax.evaluate.datasets.pcd import read_pcd

POINTS = np.array([[0.5, 1, -2], [3, 4.25, 5], [6, 7, 8]])


def header(fields="x y z", sizes="4 4 4", kinds="F F F", counts=None, points=3, kind="ascii"):
    lines = ["# .PCD v0.7", "VERSION 0.7", f"FIELDS {fields}", f"SIZE {sizes}", f"TYPE {kinds}"]
    lines += [f"COUNT {counts}"] if counts else []
    return "\n".join([*lines, f"WIDTH {points}", "HEIGHT 1", f"POINTS {points}", f"DATA {kind}", ""]).encode()


def test_text(tmp_path):
    path = tmp_path / "cloud.pcd"
    rows = "\n".join(" ".join(map(str, (*point, 9, 9, 9))) for point in POINTS).encode()
    path.write_bytes(header("x y z normal", "4 4 4 4", "F F F F", "1 1 1 3") + rows)
    np.testing.assert_array_equal(read_pcd(path), POINTS)


def test_binary_with_other_fields_and_padding(tmp_path):
    path = tmp_path / "cloud.pcd"
    table = np.zeros(
        3, [("x", "<f4"), ("_", "u1", (4,)), ("y", "<f8"), ("z", "<f4"), ("pad", "u1", (2,)), ("i", "<u2")]
    )
    for axis, values in zip("xyz", POINTS.T, strict=True):
        table[axis] = values
    table["z"][2] = np.nan
    path.write_bytes(
        header("x _ y z _ i", "4 1 8 4 1 2", "F U F F U U", "1 4 1 1 2 1", kind="binary") + table.tobytes()
    )
    np.testing.assert_array_equal(read_pcd(path), POINTS[:2])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"ply\n", "not a PCD file"),
        (header(fields="a b c") + b"1 2 3", "no fields x, y and z"),
        (header(kinds="F F Q") + b"1 2 3", "damaged header"),
        (header(sizes="4 4") + b"1 2 3", "damaged header"),
        (header() + b"1 2 3", "cut off"),
        (header(kind="binary") + bytes(30), "cut off"),
        (header(kind="binary_compressed"), "convert"),
    ],
)
def test_damage_is_named(data, message, tmp_path):
    path = tmp_path / "cloud.pcd"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as error:
        read_pcd(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("text", [True, False])
def test_open3d_s_files_are_read(text, tmp_path):
    open3d = pytest.importorskip("open3d", exc_type=ImportError)
    path = tmp_path / "cloud.pcd"
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(POINTS))
    cloud.colors = open3d.utility.Vector3dVector(np.zeros((3, 3)))
    open3d.io.write_point_cloud(str(path), cloud, write_ascii=text)
    np.testing.assert_array_equal(read_pcd(path), POINTS)
