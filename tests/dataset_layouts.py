"""Small datasets in the layouts of the published ones, for the tests of their readers."""

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from ivggt_jax.evaluate.datasets import PLAIN, Sequence, open_dataset

WIDTH, HEIGHT, FRAMES = 8, 6, 4
DEPTH = np.arange(WIDTH * HEIGHT, dtype=np.uint16).reshape(HEIGHT, WIDTH) * 100


def write_image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)).save(path)
    return path


def write_depth(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(DEPTH).save(path)
    return path


def write_text(path: Path, rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row if isinstance(row, str) else ' '.join(map(str, row))}\n" for row in rows))
    return path


def pose(index):
    """world_from_cam [4, 4] of a frame."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", [10 + index, 20, 30], degrees=True).as_matrix()
    matrix[:3, 3] = (index, 0.5, -2)
    return matrix


POSES = np.array([pose(index)[:3] for index in range(FRAMES)])


def tum_row(index, time):
    return (time, *POSES[index][:, 3], *Rotation.from_matrix(POSES[index][:, :3]).as_quat())


def times(offset=0.0):
    return [1305031102.175304 + 0.033 * index + offset for index in range(FRAMES)]


def make_7scenes(root):
    write_text(root / "chess" / "TestSplit.txt", ["sequence3", "sequence5"])
    for index in range(FRAMES):
        stem = root / "chess" / "seq-03" / f"frame-{index:06d}"
        write_image(stem.with_suffix(".color.png"))
        write_depth(stem.with_suffix(".depth.png"))
        write_text(stem.with_suffix(".pose.txt"), pose(index))
    return "chess/seq-03"


def make_nrgbd(root):
    opengl = [pose(index) @ np.diag([1, -1, -1, 1]) for index in range(FRAMES)]
    write_text(root / "kitchen" / "poses.txt", np.concatenate(opengl))
    for index in range(FRAMES):
        write_image(root / "kitchen" / "images" / f"img{index}.png")
        write_depth(root / "kitchen" / "depth" / f"depth{index}.png")
    return "kitchen"


def make_sintel(root):
    tag, size = np.float32(202021.25).tobytes(), np.array([WIDTH, HEIGHT], "<i4").tobytes()
    for index in range(FRAMES):
        name = f"frame_{index + 1:04d}"
        write_image(root / "training" / "final" / "alley_2" / f"{name}.png")
        numbers = np.concatenate((np.diag([500.0, 500, 1]).ravel(), np.linalg.inv(pose(index))[:3].ravel()))
        for folder, suffix, data in (
            ("depth", "dpt", size + (DEPTH / 1000).astype("<f4").tobytes()),
            ("camdata_left", "cam", numbers.astype("<f8").tobytes()),
        ):
            path = root / "training" / folder / "alley_2" / f"{name}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tag + data)
    return "alley_2"


def make_tum(root, name="freiburg1_desk", suffix=""):
    for image, depth in zip(times(), times(0.005), strict=True):
        write_image(root / name / f"rgb{suffix}" / f"{image:.6f}.png")
        write_depth(root / name / f"depth{suffix}" / f"{depth:.6f}.png")
    # The truth is recorded at another rate: between any two poses that belong to images lies one that does not.
    rows = [tum_row(index, time) for index, time in enumerate(times(-0.004))]
    others = [tum_row(0, time + 0.0165) for time in times(-0.004)]
    rows = [row for pair in zip(rows, others, strict=True) for row in pair]
    write_text(root / name / f"groundtruth{suffix}.txt", ["# timestamp tx ty tz qx qy qz qw", *rows])
    return name


def make_bonn(root):
    make_tum(root, "rgbd_bonn_crowd2")
    return "crowd2"


def make_kitti(root):
    folder, name = root / "depth_selection" / "val_selection_cropped", "2011_09_26_drive_0002_sync_02"
    for index in range(FRAMES):
        stem = f"2011_09_26_drive_0002_sync_{{}}_{index:010d}_image_02.png"
        write_image(folder / "image_gathered" / name / stem.format("image"))
        write_depth(folder / "groundtruth_depth_gathered" / name / stem.format("groundtruth_depth"))
    return name


BASELINE = np.array([-0.06, 0.001, 0.002])


def make_kitti_odometry(root):
    intrinsics = np.array([[718.0, 0, 607], [0, 718, 185], [0, 0, 1]])
    projection = intrinsics @ np.concatenate((np.eye(3), BASELINE[:, None]), axis=1)
    grey = POSES.copy()
    grey[..., 3] += POSES[..., :3] @ BASELINE  # the centre of the grey camera, seen from the colour camera
    for index in range(FRAMES):
        write_image(root / "sequences" / "07" / "image_2" / f"{index:06d}.png")
    write_text(root / "poses" / "07.txt", grey.reshape(FRAMES, 12))
    write_text(root / "sequences" / "07" / "times.txt", [[0.1 * index] for index in range(FRAMES)])
    write_text(root / "sequences" / "07" / "calib.txt", ["P0: 1 2 3", "P2: " + " ".join(map(str, projection.ravel()))])
    return "07"


def make_scannet(root):
    for index in range(FRAMES):
        write_image(root / "scene0707_00" / "color" / f"{index * 3}.jpg")
        write_text(root / "scene0707_00" / "pose" / f"{index * 3}.txt", pose(index))
    write_text(root / "scene0707_00" / "intrinsic" / "intrinsic_color.txt", np.diag([1170.0, 1170, 1, 1]))
    return "scene0707_00"


def make_long3d(root):
    for index in range(FRAMES):
        write_image(root / "library" / "images" / f"{index}.jpg")
    header = ["VERSION 0.7", "FIELDS x y z", "SIZE 4 4 4", "TYPE F F F", "POINTS 2", "DATA ascii"]
    write_text(root / "library" / "dense_cloud_map.pcd", [*header, "0 0 0", "1 2 3"])
    return "library"


MAKERS = {
    "7scenes": make_7scenes,
    "nrgbd": make_nrgbd,
    "sintel": make_sintel,
    "bonn": make_bonn,
    "kitti": make_kitti,
    "kitti_odometry": make_kitti_odometry,
    "tum": make_tum,
    "scannet": make_scannet,
    "long3d": make_long3d,
}
UNITS = {"7scenes": 1000, "nrgbd": 1000, "sintel": 1000, "bonn": 5000, "tum": 5000, "kitti": 256}
WITHOUT_POSES = ("kitti", "long3d")


def only_sequence(name, root, options=PLAIN) -> Sequence:
    found = [member for member in open_dataset(name, root, options=options) if isinstance(member, Sequence)]
    assert len(found) == 1
    return found[0]
