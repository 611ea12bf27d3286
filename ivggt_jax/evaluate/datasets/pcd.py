"""Point clouds in PCD files, the Point Cloud Library's format (https://pointclouds.org/documentation/tutorials)."""

from pathlib import Path

import numpy as np

_HEADER_END = b"DATA "


def read_pcd(path: Path) -> np.ndarray:
    """The finite points of a PCD file (ascii or binary), float64 [N, 3]; other fields are ignored.

    Raises ValueError, naming the file, for other formats, a file without x, y and z, or a truncated one.
    """
    data = path.read_bytes()
    start = data.find(_HEADER_END)
    if start < 0:
        raise ValueError(f"{path} is not a PCD file: it has no line DATA")
    end = data.find(b"\n", start)
    lines = (line.split() for line in data[:start].decode("ascii", "replace").splitlines() if not line.startswith("#"))
    header = {words[0]: words[1:] for words in lines if words}
    kind = data[start + len(_HEADER_END) : end].strip().decode("ascii", "replace")
    body = data[end + 1 :]
    try:
        columns = _columns(header)
        count = int(header["POINTS"][0])
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise ValueError(f"{path} has a damaged header: {error}") from error
    if not {"x", "y", "z"} <= set(columns.names or ()):
        raise ValueError(f"{path} has no fields x, y and z, but {' '.join(columns.names or ())}")
    if kind == "binary":
        if len(body) < count * columns.itemsize:
            raise ValueError(f"{path} is cut off: {len(body)} bytes for {count} points of {columns.itemsize}")
        table = np.frombuffer(body, columns, count)
        points = np.stack([table[axis].astype(np.float64) for axis in "xyz"], axis=1)
    elif kind == "ascii":
        points = _ascii_points(path, body, columns, count)
    else:
        raise ValueError(f"{path} holds {kind!r} data; convert it with `pcl_convert_pcd_ascii_binary {path} out.pcd 1`")
    return points[np.isfinite(points).all(axis=1)]


def _columns(header: dict[str, list[str]]) -> np.dtype:
    """The record type of a point; a field of several numbers has their count as its shape."""
    kinds = {"F": "f", "I": "i", "U": "u"}
    counts = header.get("COUNT", ["1"] * len(header["FIELDS"]))
    fields = zip(header["FIELDS"], header["TYPE"], header["SIZE"], counts, strict=True)
    # Padding fields are all called _, but names must be unique.
    return np.dtype(
        [
            (name if name != "_" else f"_{index}", f"<{kinds[kind]}{size}", (int(count),) if int(count) != 1 else ())
            for index, (name, kind, size, count) in enumerate(fields)
        ]
    )


def _ascii_points(path: Path, body: bytes, columns: np.dtype, count: int) -> np.ndarray:
    names = columns.names or ()
    sizes = [int(np.prod(columns[name].shape)) for name in names]
    starts = dict(zip(names, np.cumsum([0, *sizes[:-1]]), strict=True))
    numbers = np.array(body.split(), np.float64)
    if numbers.size < count * sum(sizes):
        raise ValueError(f"{path} is cut off: {numbers.size} numbers for {count} points of {sum(sizes)}")
    table = numbers[: count * sum(sizes)].reshape(count, sum(sizes))
    return table[:, [starts[axis] for axis in "xyz"]]
