"""Reads calibrations of other programs: COLMAP, OpenCV, ROS, Kalibr, nerfstudio, or plain numbers."""

import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ivggt_jax.cameras.models import COEFFICIENTS, Camera, CameraError, Kind
from ivggt_jax.disk.strict_json import read_json
from ivggt_jax.disk.text import decoded

COLMAP = {
    0: ("SIMPLE_PINHOLE", 3),
    1: ("PINHOLE", 4),
    2: ("SIMPLE_RADIAL", 4),
    3: ("RADIAL", 5),
    4: ("OPENCV", 8),
    5: ("OPENCV_FISHEYE", 8),
    6: ("FULL_OPENCV", 12),
    8: ("SIMPLE_RADIAL_FISHEYE", 4),
    9: ("RADIAL_FISHEYE", 5),
}
"""Supported camera models of COLMAP, by number: name, and number of parameters."""
KINDS: dict[str, Kind] = {
    "plumb_bob": "brown", "rational_polynomial": "brown", "radtan": "brown", "brown": "brown", "none": "pinhole",
    "pinhole": "pinhole", "equidistant": "fisheye", "fisheye": "fisheye", "equi": "fisheye", "radial-tangential": "brown",
}  # fmt: skip
"""Names of distortion models in ROS, Kalibr, EuRoC and common use."""
WAYS = (
    "COLMAP's cameras.txt or cameras.bin, YAML of OpenCV, ROS (camera_info) or Kalibr, nerfstudio's transforms.json, "
    "fx,fy,cx,cy[,k1,k2,p1,p2,…], or equirectangular"
)
"""What `--camera` accepts, for error messages."""


def read_camera(text: str) -> Camera:
    """The camera given by `--camera`: a file, numbers, or `equirectangular`.

    The prefix `fisheye:` says that four coefficients are a fisheye's, if the file itself does not name the model; `#NAME` after a
    file selects one of its cameras. Raises CameraError for anything else.
    """
    kind, rest = _model_and_rest(text)
    if rest == "equirectangular":
        return Camera("equirectangular", (1.0, 1.0), (0.0, 0.0))
    if re.fullmatch(r"[-+0-9.eE,\s]+", rest) and "," in rest:
        return _of_numbers(rest, kind)
    path, which = _file_and_name(rest)
    try:
        found = _the_one(_read(path, KINDS[kind or "brown"]), which)
        if kind and found.kind != KINDS[kind] and (kind, found.kind) != ("brown", "pinhole"):  # one without distortion
            raise CameraError(f"says itself that it is {found.kind}: leave out {kind}:")
        return found
    except CameraError as error:
        raise CameraError(f"{path}: {error}") from None
    except OSError as error:
        raise CameraError(f"{path}: cannot be read ({error.strerror}); --camera takes {WAYS}") from None
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:  # values of other types
        raise CameraError(f"{path}: is no calibration ({_one_line(error)}); --camera takes {WAYS}") from None
    except (struct.error, yaml.YAMLError, RecursionError) as error:
        raise CameraError(f"{path}: is no calibration ({_one_line(error)}); --camera takes {WAYS}") from None


def calibration_file(text: str) -> Path | None:
    """The file named by `--camera`; None if it names none that exists."""
    path, _ = _file_and_name(_model_and_rest(text)[1])
    return path if path.is_file() else None


def _model_and_rest(text: str) -> tuple[str, str]:
    kind, _, rest = text.partition(":") if text.startswith(("fisheye:", "brown:", "pinhole:")) else ("", "", text)
    return kind, rest


def _file_and_name(text: str) -> tuple[Path, str]:
    name, _, which = text.partition("#") if not Path(text).expanduser().exists() else (text, "", "")
    return Path(name).expanduser(), which


def _of_numbers(text: str, kind: str) -> Camera:
    try:
        numbers = [float(word) for word in text.split(",")]
        if len(numbers) < 4:
            raise CameraError(f"{len(numbers)} numbers")
        return _camera(KINDS[kind or "brown"], numbers[:4], numbers[4:], None)
    except ValueError as error:
        raise CameraError(f"--camera {text} is not fx,fy,cx,cy[,k1,k2,p1,p2,…]: {error}") from None


def _read(path: Path, unnamed: Kind) -> dict[str, Camera]:
    """The cameras of a file by name; coefficients whose model is not named are of the kind `unnamed`."""
    suffix = path.suffix.lower()
    if not path.is_file():
        what = "is no file" if path.exists() else "there is no such file"
        raise CameraError(f"{what}; --camera takes {WAYS}")
    if suffix == ".bin":
        return _colmap_binary(path.read_bytes())
    if suffix == ".txt":
        return _colmap_text(decoded(path.read_bytes()))
    if suffix == ".json":
        record = read_json(path)
        return _nerfstudio(record) if "frames" in record or "fl_x" in record else _of_yaml(record, unnamed)
    if suffix in (".yaml", ".yml"):
        # OpenCV's first line, %YAML:1.0, and its tag for matrices are not valid YAML.
        text = re.sub(r"\A%YAML:.*|!!opencv-matrix", "", decoded(path.read_bytes()))
        # What `ros2 topic echo` prints ends with the mark of another document.
        documents = (document for document in yaml.safe_load_all(text) if document is not None)
        return _of_yaml(next(documents, None), unnamed)
    raise CameraError(f"its ending tells no calibration; --camera takes {WAYS}")


def _the_one(cameras: Mapping[str, Camera], which: str) -> Camera:
    """The camera with this name; without a name the only one, where identical cameras count as one."""
    if which:
        if which not in cameras:
            raise CameraError(f"it has no camera {which}, but {', '.join(list(cameras)[:8])}")
        return cameras[which]
    different = set(cameras.values())
    if len(different) != 1:
        named = f": add #{next(iter(cameras))} or another name to the file's" if cameras else ""
        raise CameraError(f"it holds {len(different)} different cameras{named}")
    return different.pop()


def _camera(
    kind: Kind,
    intrinsics: Sequence[float],
    distortion: Sequence[float],
    size: Sequence[int] | None,
    corner: float = 0.0,
) -> Camera:
    """A checked camera; `corner` is the offset of the file's pixel coordinates from integer pixel centres."""
    fx, fy, cx, cy = (float(value) for value in intrinsics)
    coefficients = [float(value) for value in distortion]
    most = COEFFICIENTS[kind]
    if any(coefficients[most:]):
        raise CameraError(f"it has {len(coefficients)} coefficients of distortion, of which {most} are known here")
    if not np.isfinite([fx, fy, cx, cy, *coefficients]).all() or fx <= 0 or fy <= 0:
        raise CameraError("its focal length is not positive, or a number is not finite")
    width, height = (0, 0) if size is None else (int(value) for value in size)
    if size is not None and (width <= 0 or height <= 0 or [float(value) for value in size] != [width, height]):
        raise CameraError(f"its pictures would have {size[0]}×{size[1]} pixels")
    padded = tuple((coefficients + [0.0] * most)[:most])
    if kind == "brown" and not any(padded):
        kind, padded = "pinhole", ()
    return Camera(kind, (fx, fy), (cx - corner, cy - corner), padded, None if size is None else (width, height))


def _of_colmap(model: str, width: int, height: int, values: Sequence[float]) -> Camera:
    size = (width, height)
    if model not in [name for name, _ in COLMAP.values()]:
        raise CameraError(
            f"COLMAP's model {model} is not known here, but {', '.join(name for name, _ in COLMAP.values())}"
        )
    if len(values) != dict(COLMAP.values())[model]:
        raise CameraError(f"{model} has {dict(COLMAP.values())[model]} parameters, not {len(values)}")
    two = model in ("PINHOLE", "OPENCV", "OPENCV_FISHEYE", "FULL_OPENCV")
    head = values[:4] if two else (values[0], *values[:3])
    rest = list(values[4:] if two else values[3:])
    if model.endswith("FISHEYE"):
        return _camera("fisheye", head, rest, size, 0.5)
    return _camera("brown", head, rest, size, 0.5)


def _colmap_text(text: str) -> dict[str, Camera]:
    rows = [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return {row[0]: _of_colmap(row[1], int(row[2]), int(row[3]), [float(word) for word in row[4:]]) for row in rows}


def _colmap_binary(data: bytes) -> dict[str, Camera]:
    (count,), at, cameras = struct.unpack_from("<Q", data), 8, {}
    for _ in range(count):
        number, model, width, height = struct.unpack_from("<iiQQ", data, at)
        if model not in COLMAP:
            raise CameraError(f"COLMAP's model number {model} is not known here")
        name, parameters = COLMAP[model]
        values = struct.unpack_from(f"<{parameters}d", data, at + 24)
        cameras[str(number)] = _of_colmap(name, width, height, values)
        at += 24 + 8 * parameters
    return cameras


def _nerfstudio(record: Mapping[str, Any]) -> dict[str, Camera]:
    """The frames' own cameras if they have any, else the shared one."""
    shared = {name: value for name, value in record.items() if name != "frames"}
    frames = [frame for frame in record.get("frames", []) if "fl_x" in frame] or [{}]
    return {str(frame.get("file_path", "0")): _of_nerfstudio({**shared, **frame}) for frame in frames}


def _of_nerfstudio(values: Mapping[str, Any]) -> Camera:
    model = values.get("camera_model", "OPENCV")
    if model == "EQUIRECTANGULAR":
        return Camera("equirectangular", (1.0, 1.0), (0.0, 0.0))
    if model not in ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "OPENCV_FISHEYE"):
        raise CameraError(f"nerfstudio's model {model} is not known here")
    fx = values["fl_x"]
    intrinsics = (fx, values.get("fl_y", fx), values["cx"], values["cy"])
    k1, k2, k3, k4, p1, p2 = (values.get(name, 0.0) for name in ("k1", "k2", "k3", "k4", "p1", "p2"))
    size = (values["w"], values["h"])
    if model == "OPENCV_FISHEYE":
        return _camera("fisheye", intrinsics, (k1, k2, k3, k4), size, 0.5)
    if k4:  # of r⁸, which OpenCV's polynomial does not have
        raise CameraError("its k4 is not known here")
    return _camera("brown", intrinsics, (k1, k2, p1, p2, k3), size, 0.5)


def _of_yaml(record: Any, unnamed: Kind) -> dict[str, Camera]:
    """Cameras from ROS, OpenCV, Kalibr or EuRoC, recognised by the keys."""
    if not isinstance(record, dict):
        raise CameraError(f"is no calibration; --camera takes {WAYS}")
    of_kalibr = {name: _of_kalibr(value) for name, value in record.items() if re.fullmatch(r"cam\d+", str(name))}
    if of_kalibr:
        return of_kalibr
    if "intrinsics" in record and "resolution" in record:  # EuRoC's sensor.yaml
        return {"0": _of_kalibr(record)}
    if "M2" in record:  # OpenCV's stereo calibration
        return {n: _of_matrix({**record, "K": record[f"M{n}"], "D": record.get(f"D{n}")}, unnamed) for n in "12"}
    return {"0": _of_matrix(record, unnamed)}


def _of_matrix(record: Mapping[str, Any], unnamed: Kind) -> Camera:
    """A camera given by its matrix: ROS and OpenCV; Open3D and MATLAB, which write it column by column."""
    matrix = _first(record, "camera_matrix", "K", "k", "cameraMatrix", "M1", "intrinsic_matrix")
    if matrix is None:
        raise CameraError(f"has no camera_matrix, K or cam0; --camera takes {WAYS}")
    numbers = _numbers(matrix)
    if len(numbers) != 9:
        raise CameraError(f"its camera matrix has {len(numbers)} numbers, not 9")
    rows = np.reshape(numbers, (3, 3))
    (fx, _, cx), (_, fy, cy), last = rows if rows[2].tolist() == [0, 0, 1] else rows.T
    if last.tolist() != [0, 0, 1]:
        raise CameraError(f"its camera matrix ends with {rows[2].tolist()}, not with 0, 0, 1")
    found = _first(record, "distortion_coefficients", "distCoeffs", "dist_coeffs", "D", "d", "D1")
    name = _first(record, "distortion_model", "camera_model", "model")
    if name == "pinhole":  # names the projection only, not the distortion
        name = None
    if name is None and "fisheye_model" in record:  # OpenCV's calibration program
        name = "fisheye" if record["fisheye_model"] else "brown"
    kind = _kind(name) if name else unnamed
    width = _first(record, "image_width", "width", "imageWidth")
    height = _first(record, "image_height", "height", "imageHeight")
    size = None if width is None or height is None else (width, height)
    return _camera(kind, (fx, fy, cx, cy), [] if found is None else _numbers(found), size)


def _of_kalibr(values: Mapping[str, Any]) -> Camera:
    if values["camera_model"] != "pinhole":
        raise CameraError(f"Kalibr's camera model {values['camera_model']} is not known here, but pinhole")
    kind = _kind(values.get("distortion_model", "none"))
    distortion = _first(values, "distortion_coeffs", "distortion_coefficients") or ()
    return _camera(kind, values["intrinsics"], distortion, values["resolution"])


def _kind(name: Any) -> Kind:
    if str(name).lower() not in KINDS:
        raise CameraError(f"its distortion model {name} is not known here, but {', '.join(KINDS)}")
    return KINDS[str(name).lower()]


def _first(record: Mapping[str, Any], *names: str) -> Any:
    return next((record[name] for name in names if record.get(name) is not None), None)


def _numbers(value: Any) -> list[float]:
    """Numbers of a matrix as written by ROS and OpenCV (with a data field), or as rows."""
    return np.asarray(value["data"] if isinstance(value, dict) else value, np.float64).reshape(-1).tolist()


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:120]}"
