"""Calibrations as other programs write them, read as one camera; and what is no calibration."""

import json
import os
import struct
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pycolmap
import pytest
from PIL import Image

from ivggt_jax.cameras.exif import offered_camera
from ivggt_jax.cameras.files import calibration_file, read_camera
from ivggt_jax.cameras.models import Camera, CameraError

FX, FY, CX, CY = 410.0, 405.0, 322.5, 236.25
BROWN = Camera("brown", (FX, FY), (CX, CY), (-0.28, 0.09, 0.0011, -0.0007, -0.013, 0, 0, 0), (640, 480))
FISHEYE = Camera("fisheye", (FX, FY), (CX, CY), (-0.012, 0.004, -0.003, 0.0007), (640, 480))
ROS = """
image_width: 640
image_height: 480
camera_name: left
camera_matrix: {rows: 3, cols: 3, data: [410.0, 0, 322.5, 0, 405, 236.25, 0, 0, 1]}
distortion_model: plumb_bob
distortion_coefficients: {rows: 1, cols: 5, data: [-0.28, 0.09, 0.0011, -0.0007, -0.013]}
"""
ROS_TOPIC = """
height: 480
width: 640
distortion_model: "equidistant"
d: [-0.012, 0.004, -0.003, 0.0007]
k: [410.0, 0.0, 322.5, 0.0, 405.0, 236.25, 0.0, 0.0, 1.0]
"""
KALIBR = """
cam0:
  camera_model: pinhole
  intrinsics: [410.0, 405.0, 322.5, 236.25]
  distortion_model: equidistant
  distortion_coeffs: [-0.012, 0.004, -0.003, 0.0007]
  resolution: [640, 480]
  rostopic: /cam0/image_raw
cam1:
  camera_model: pinhole
  intrinsics: [400.0, 400.0, 320.0, 240.0]
  distortion_model: radtan
  distortion_coeffs: [-0.28, 0.09, 0.0011, -0.0007]
  resolution: [640, 480]
"""
COLMAP = """# Camera list
1 FULL_OPENCV 640 480 410 405 323 236.75 -0.28 0.09 0.0011 -0.0007 -0.013 0 0 0
2 OPENCV_FISHEYE 640 480 410 405 323 236.75 -0.012 0.004 -0.003 0.0007
3 SIMPLE_RADIAL 640 480 400 320 240 0.1
"""
NERFSTUDIO = {"w": 640, "h": 480, "fl_x": FX, "fl_y": FY, "cx": CX + 0.5, "cy": CY + 0.5, "frames": []}


@pytest.fixture
def write(tmp_path: Path):
    def write(name: str, content: str | bytes) -> str:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


def test_numbers() -> None:
    assert read_camera("500,501,320,240") == Camera("pinhole", (500, 501), (320, 240))
    assert read_camera("410,405,322.5,236.25,-0.28,9e-2,0.0011,-0.0007,-0.013").distortion == BROWN.distortion
    assert read_camera("fisheye:410,405,322.5,236.25,-0.012,0.004,-0.003,0.0007").distortion == FISHEYE.distortion
    assert read_camera("equirectangular").kind == "equirectangular"


def test_ros_and_kalibr(write) -> None:
    assert read_camera(write("left.yaml", ROS)) == BROWN
    assert read_camera(write("info.yaml", ROS_TOPIC)) == FISHEYE
    chain = write("camchain.yaml", KALIBR)
    assert read_camera(f"{chain}#cam0") == FISHEYE
    assert read_camera(f"{chain}#cam1").distortion == (*BROWN.distortion[:4], 0, 0, 0, 0)
    with pytest.raises(CameraError, match="holds 2 different cameras: add #cam0"):
        read_camera(chain)
    with pytest.raises(CameraError, match="has no camera cam7, but cam0, cam1"):
        read_camera(f"{chain}#cam7")


@pytest.mark.parametrize(
    "text", [f"{ROS_TOPIC}---\n", f"---\n{ROS_TOPIC}---\n{ROS_TOPIC}---\n", f"---\n---\n{ROS_TOPIC}"]
)
def test_of_several_documents_the_first_that_is_not_empty(write, text: str) -> None:
    """`ros2 topic echo --once` ends with the mark of another."""
    assert read_camera(write("info.yaml", text)) == FISHEYE


def test_a_file_of_empty_documents_is_no_calibration(write) -> None:
    with pytest.raises(CameraError, match="is no calibration"):
        read_camera(write("info.yaml", "---\n---\n"))


@pytest.mark.parametrize("ending", ["yml", "json"])
def test_opencv_as_it_writes_itself(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"camera.{ending}"
    file = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
    file.write("image_width", 640)
    file.write("image_height", 480)
    file.write("camera_matrix", np.array([[FX, 0, CX], [0, FY, CY], [0, 0, 1]]))
    file.write("distortion_coefficients", np.array([BROWN.distortion[:5]]))
    file.release()
    assert read_camera(str(path)) == BROWN


def test_four_coefficients_of_opencv_are_a_fisheyes_where_one_says_so(write) -> None:
    text = ROS.replace("distortion_model: plumb_bob\n", "").replace("cols: 5", "cols: 4")
    path = write(
        "fisheye.yml", text.replace("[-0.28, 0.09, 0.0011, -0.0007, -0.013]", "[-0.012, 0.004, -0.003, 0.0007]")
    )
    assert read_camera(path).kind == "brown"
    assert read_camera(f"fisheye:{path}") == FISHEYE
    assert read_camera(f"fisheye:{write('pinhole.yml', 'camera_model: pinhole' + Path(path).read_text())}") == FISHEYE
    five = write("five.yaml", ROS.replace("distortion_model: plumb_bob\n", ""))
    with pytest.raises(CameraError, match="5 coefficients of distortion, of which 4 are known"):
        read_camera(f"fisheye:{five}")  # a fifth that is not 0 is no fisheye's
    said = Path(path).read_text()
    assert read_camera(write("said.yml", f"fisheye_model: 1\n{said}")) == FISHEYE
    assert read_camera(write("said.yml", f"fisheye_model: 0\n{said}")).kind == "brown"


def test_a_folder_named_by_a_time_of_day(write, tmp_path: Path) -> None:
    """Colons in a path are the path's."""
    (tmp_path / "10:30:00").mkdir()
    path = write("10:30:00/camera.yml", ROS_TOPIC)
    assert read_camera(f"fisheye:{path}") == read_camera(path) == FISHEYE
    assert calibration_file(f"fisheye:{path}") == Path(path)


def test_open3d_writes_its_matrix_column_by_column(write) -> None:
    record = {"width": 640, "height": 480, "intrinsic_matrix": [FX, 0, 0, 0, FY, 0, CX, CY, 1]}
    assert read_camera(write("camera_intrinsic.json", json.dumps(record))) == replace(
        BROWN, kind="pinhole", distortion=()
    )


def test_both_cameras_of_opencvs_stereo_calibration(tmp_path: Path) -> None:
    """Neither is taken without its name."""
    path = tmp_path / "intrinsics.yml"
    file = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
    for number, shift in (("1", 0), ("2", 5)):
        file.write(f"M{number}", np.array([[FX, 0, CX + shift], [0, FY, CY], [0, 0, 1]]))
        file.write(f"D{number}", np.array([BROWN.distortion[:5]]))
    file.release()
    assert read_camera(f"{path}#1") == replace(BROWN, size=None)
    assert read_camera(f"{path}#2") == replace(BROWN, size=None, centre=(CX + 5, CY))
    with pytest.raises(CameraError, match="holds 2 different cameras: add #1"):
        read_camera(str(path))


def test_euroc(write) -> None:
    """The fields of a camera's sensor.yaml."""
    text = f"""
sensor_type: camera
T_BS: {{cols: 4, rows: 4, data: [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]}}
rate_hz: 20
resolution: [640, 480]
camera_model: pinhole
intrinsics: [{FX}, {FY}, {CX}, {CY}]
distortion_model: radial-tangential
distortion_coefficients: {list(BROWN.distortion[:4])}
"""
    assert read_camera(write("sensor.yaml", text)) == replace(BROWN, distortion=(*BROWN.distortion[:4], 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("prefix", "name", "content", "kind"),
    [
        ("fisheye", "ros.yaml", ROS, "brown"),
        ("brown", "topic.yaml", ROS_TOPIC, "fisheye"),
        ("pinhole", "topic.yaml", ROS_TOPIC, "fisheye"),
        ("fisheye", "cameras.txt", "1 PINHOLE 640 480 410 405 323 236.75", "pinhole"),
        ("fisheye", "cameras.txt", "1 OPENCV 640 480 410 405 323 236.75 -0.28 0.09 0 0", "brown"),
        ("brown", "camchain.yaml", KALIBR.partition("cam1")[0], "fisheye"),
        ("fisheye", "transforms.json", json.dumps(NERFSTUDIO | {"k1": 0.1}), "brown"),
    ],
)
def test_a_file_that_names_its_model_is_believed(write, prefix: str, name: str, content: str, kind: str) -> None:
    with pytest.raises(CameraError, match=f"says itself that it is {kind}: leave out {prefix}:"):
        read_camera(f"{prefix}:{write(name, content)}")
    assert read_camera(f"brown:{write('none.txt', '1 PINHOLE 640 480 410 405 323 236.75')}").kind == "pinhole"


def test_colmap(write, tmp_path: Path) -> None:
    text = write("cameras.txt", COLMAP)
    assert read_camera(f"{text}#1") == BROWN and read_camera(f"{text}#2") == FISHEYE
    assert read_camera(f"{text}#3") == Camera("brown", (400, 400), (319.5, 239.5), (0.1, *(0.0,) * 7), (640, 480))
    written = pycolmap.Reconstruction()
    values = [FX, FY, CX + 0.5, CY + 0.5, *FISHEYE.distortion]
    written.add_camera(pycolmap.Camera(model="OPENCV_FISHEYE", width=640, height=480, params=values, camera_id=7))
    written.write_binary(tmp_path)
    assert read_camera(str(tmp_path / "cameras.bin")) == FISHEYE


def test_nerfstudio(write) -> None:
    distortion = dict(zip(("k1", "k2", "p1", "p2", "k3"), BROWN.distortion, strict=False))
    assert read_camera(write("a.json", json.dumps({**NERFSTUDIO, **distortion, "camera_model": "OPENCV"}))) == BROWN
    names = dict(zip(("k1", "k2", "k3", "k4"), FISHEYE.distortion, strict=True))
    each = {**NERFSTUDIO, **names}
    frames = [{**each, "file_path": f"images/{i}.png"} for i in range(3)]
    assert read_camera(write("b.json", json.dumps({"camera_model": "OPENCV_FISHEYE", "frames": frames}))) == FISHEYE
    frames[1]["fl_x"] = 500.0
    with pytest.raises(CameraError, match="2 different cameras"):
        read_camera(write("c.json", json.dumps({"camera_model": "OPENCV_FISHEYE", "frames": frames})))


BAD = {
    "there is no such file": ("nowhere.yaml", None),
    "its ending tells no calibration": ("camera.dat", b"\0\1"),
    "is no calibration": ("list.yaml", "- 1\n- 2\n"),
    "has no camera_matrix, K or cam0": ("other.yaml", "name: walk\n"),
    "its camera matrix has 8 numbers": ("short.yaml", ROS.replace("0, 0, 1]", "0, 0]")),
    "its camera matrix ends with": ("odd.yaml", ROS.replace("0, 0, 1]", "0, 0, 2]")),
    "its focal length is not positive": ("zero.yaml", ROS.replace("410.0", "0")),
    "a number is not finite": ("nan.yaml", ROS.replace("410.0", ".nan")),
    "its pictures would have -640": ("minus.yaml", ROS.replace("640", "-640")),
    "distortion model omni is not known": ("omni.yaml", ROS.replace("plumb_bob", "omni")),
    "Kalibr's camera model eucm": ("eucm.yaml", KALIBR.replace("pinhole", "eucm")),
    "COLMAP's model FOV is not known": ("fov.txt", "1 FOV 640 480 1 1 1 1 1\n"),
    "PINHOLE has 4 parameters, not 3": ("few.txt", "1 PINHOLE 640 480 1 1 1\n"),
    "is no calibration \\(ValueError": ("rgb.txt", "1305031102.175304 rgb/1.png x y z\n"),
    "is no calibration \\(error": ("cameras.bin", b"\1\0\0\0\0\0\0\0\1\0\0\0"),
    "model number 77": ("model.bin", struct.pack("<QiiQQ", 1, 1, 77, 640, 480)),
    "is no calibration \\(KeyError": ("transforms.json", '{"frames": [], "camera_model": "OPENCV"}'),
    "is no calibration \\(ParserError|is no calibration \\(ScannerError": ("broken.yaml", "camera_matrix: [1, 2"),
    "0 different cameras": ("empty.txt", "# nothing\n"),
    "is no calibration \\(AttributeError": ("names.json", '{"frames": ["fl_x"]}'),
    "is no calibration \\(OverflowError": ("endless.yaml", ROS.replace("640", ".inf")),
    "its pictures would have 640.5": ("half.yaml", ROS.replace("640", "640.5")),
}


@pytest.mark.parametrize("message", BAD)
def test_what_is_no_calibration_is_named_in_a_line(write, tmp_path: Path, message: str) -> None:
    name, content = BAD[message]
    path = str(tmp_path / name) if content is None else write(name, content)
    with pytest.raises(CameraError, match=message) as error:
        read_camera(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text", ["1,2,3", "500,500,a,b", "-500,500,320,240", "1,1,1,1,1,1,1,1,1,1,1,1,1", "pinhole:5,5,2,2,1"]
)
def test_numbers_that_are_no_camera(text: str) -> None:
    with pytest.raises(CameraError):
        read_camera(text)


def test_a_focal_length_is_offered_from_exif(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = 28
    Image.new("RGB", (400, 300)).save(tmp_path / "a.jpg", exif=exif)
    Image.new("RGB", (400, 300)).save(tmp_path / "b.jpg")
    assert offered_camera(tmp_path / "a.jpg", (400, 300)) == "324,324,199.5,149.5"  # 28 / 43.267 of the diagonal of 500
    assert offered_camera(tmp_path / "b.jpg", (400, 300)) is None


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize(
    ("name", "text"), [("a.txt", "1 PINHOLE 640 480 5 5 3 2\n"), ("b.yml", "%YAML:1.0\n---\n" + ROS)]
)
def test_text_of_any_encoding(tmp_path: Path, name: str, text: str, encoding: str) -> None:
    for path, data in ((tmp_path / name, text.encode(encoding)), (tmp_path / f"plain_{name}", text.encode())):
        path.write_bytes(data)
    assert read_camera(str(tmp_path / name)) == read_camera(str(tmp_path / f"plain_{name}"))


def test_what_is_there_and_no_file_is_said(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    for path in (tmp_path, tmp_path / "pipe.yaml"):
        with pytest.raises(CameraError, match="is no file"):
            read_camera(str(path))
