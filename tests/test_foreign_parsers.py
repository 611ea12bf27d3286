"""Exports read by gsplat's and nerfstudio's own parsers: cameras, pictures and points as they were written.

Both need PyTorch, so they live in an environment of their own, and `IVGGT_PARSERS_PYTHON` names its interpreter:

    python -m venv parsers
    parsers/bin/pip install torch torchvision pycolmap 'imageio[pyav]' opencv-python-headless piexif scikit-learn \
        jaxtyping rich tyro viser tensorboard appdirs rawpy matplotlib \
        open3d-cpu plotly dash
    parsers/bin/pip install --no-deps nerfstudio
    git clone https://github.com/nerfstudio-project/gsplat
    echo "$PWD/gsplat/examples" > parsers/lib/python3.11/site-packages/gsplat_examples.pth
    IVGGT_PARSERS_PYTHON=parsers/bin/python pytest -m slow tests/test_foreign_parsers.py
"""

import dataclasses
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from writer_scene import ALL, FITS, HEIGHT, WIDTH, known_pixels, result, saved

from ivggt_jax.writers import Result
from ivggt_jax.writers.colmap import export_colmap
from ivggt_jax.writers.nerfstudio import export_nerfstudio

PYTHON = os.environ.get("IVGGT_PARSERS_PYTHON")
PARSERS = {"gsplat": export_colmap, "colmap": export_colmap, "nerfstudio": export_nerfstudio}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PYTHON is None, reason="needs IVGGT_PARSERS_PYTHON, a Python with gsplat's and nerfstudio's parsers"),
]  # fmt: skip


def read_by(parser: str, folders: list[Path]) -> list[Any]:
    """What the parser makes of exports, or its errors; all in one process, because it takes long to import."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [str(PYTHON), str(Path(__file__).with_name("foreign_parsers.py")), parser, *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(lines) == len(folders), done.stdout
    return [json.loads(line) for line in lines]


def photographs(folder: Path, names: list[str], mode: str, fit: str) -> list[Result]:
    """Frames of the scene whose originals, of one grey, lie in a folder under these names."""
    items = []
    for index, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, FITS[fit].original_size, 100).save(path)
        item = result(index, FITS[fit])
        items.append(dataclasses.replace(item, frame=dataclasses.replace(item.frame, name=name, path=path)))
    return items


def scenes(folder: Path) -> dict[str, tuple[list[Result], list[int] | None]]:
    """Frames, and the size (height, width) of the pictures that are expected; None: as the model saw them."""
    photos = [f"{index}.jpg" for index in range(12)]  # 10 lies before 2 for whoever sorts text
    rig = [f"cam{camera}/{index}.jpg" for camera in range(2) for index in range(3)]
    as_seen = [result(index, FITS["cropped"]) for index in range(6)]
    fresh = {"rgb": ("RGB", "stretched"), "grey": ("L", "padded"), "palette": ("P", "cropped")}
    found: dict[str, tuple[list[Result], list[int] | None]] = {"video": (as_seen, None), "two": (as_seen[:2], None)}
    for name, (mode, fit) in fresh.items():
        names = [photo.replace("jpg", "png") for photo in photos] if mode == "P" else photos
        found[name] = photographs(folder / name, names, mode, fit), list(FITS[fit].original_size[::-1])
    found["rig"] = photographs(folder / "rig", rig, "RGB", "resized"), list(FITS["resized"].original_size[::-1])
    return found


def assert_read(items: list[Result], size: list[int] | None, read: Any) -> None:
    """Known points lie on known pixels of the pictures as they are loaded, through the cameras as they are read, in the
    world as the parser turned it. It computes in float32."""
    assert "error" not in read, read["error"]
    assert read["points"] > 1000 and len(read["pictures"]) == len(items)
    by_name = {name: rest for name, *rest in read["pictures"]}
    from_world = np.array(read["from_world"])
    for item in items:
        frame = item.frame
        names = frame.name, f"{frame.name}.png", f"{frame.index:06d}.png"
        shape, matrix, pose = next(by_name[name] for name in names if name in by_name)
        assert shape == [*(size or (HEIGHT, WIDTH)), 3]
        points, pixels = known_pixels(item)
        expected = pixels + 0.5 if size else (pixels + 0.5) * frame.fit.scale + frame.fit.offset
        world = points @ from_world[:3, :3].T + from_world[:3, 3]
        in_camera = (world - np.array(pose)[:, 3]) @ np.array(pose)[:, :3] @ np.array(matrix).T
        np.testing.assert_allclose(in_camera[:, :2] / in_camera[:, 2:], expected, atol=0.01)


@pytest.mark.parametrize("parser", PARSERS)
def test_exports_are_read(parser: str, tmp_path: Path) -> None:
    found = scenes(tmp_path / "photos")
    folders = [tmp_path / name for name in found]
    for folder, (items, _) in zip(folders, found.values(), strict=True):
        PARSERS[parser](saved(folder, items), folder, ALL)
    for (items, size), read in zip(found.values(), read_by(parser, folders), strict=True):
        assert_read(items, size, read)
        assert len(read.get("depths", [])) == (len(items) if parser == "nerfstudio" else 0)


@pytest.mark.parametrize(
    ("parser", "words"),
    [("gsplat", "LinAlgError"), ("colmap", "ZeroDivisionError"), ("nerfstudio", "ZeroDivisionError")],
)
def test_one_picture_is_announced(parser: str, words: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They measure the world by the distances of its cameras, and one has none."""
    PARSERS[parser](saved(tmp_path, [result(0)]), tmp_path, ALL)
    assert "thin: " in caplog.text
    (read,) = read_by(parser, [tmp_path])
    assert words in read["error"]


@pytest.mark.parametrize(("parser", "words"), [("gsplat", "LinAlgError"), ("colmap", "shapes cannot be multiplied")])
def test_no_points_are_announced(parser: str, words: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """All pixels are masked: there is nothing to train from, or to turn the world upright by."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    items = [
        dataclasses.replace(item, frame=dataclasses.replace(item.frame, mask=mask)) for item in map(result, range(3))
    ]
    export_colmap(saved(tmp_path, items), tmp_path, ALL)
    assert "0 more are there to start splats from" in caplog.text
    (read,) = read_by(parser, [tmp_path])
    assert words in read["error"]
