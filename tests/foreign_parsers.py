"""Reads exports as their consumers do, in the Python that has them: `python foreign_parsers.py PARSER FOLDER …`.

PARSER `gsplat` is that of gsplat's examples, `nerfstudio` that of transforms.json, `colmap` nerfstudio's of COLMAP models.
Prints one line of JSON for each folder: of each picture its path, the shape of the pixels that were loaded, the camera
matrix, and world_from_cam with OpenCV's axes; the similarity that the parser put the world through; the number of points
that training begins with, and the depth files. Or the error that the parser raised.
"""

import json
import sys
from pathlib import Path

import numpy as np


def by_gsplat(folder: Path) -> dict:
    from datasets.colmap import Dataset, Parser

    parser = Parser(str(folder), factor=1, normalize=True, test_every=1)
    pictures = []
    for index, item in enumerate(Dataset(parser, split="val")):  # which is every test_every-th
        camera = np.asarray(item["K"]).tolist(), np.asarray(item["camtoworld"])[:3].tolist()
        pictures.append((parser.image_names[index], list(item["image"].shape), *camera))
    return {
        "pictures": pictures,
        "from_world": parser.transform.tolist(),
        "points": len(parser.points),
    }


def by_nerfstudio(folder: Path, colmap: bool) -> dict:
    from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
    from nerfstudio.data.datasets.base_dataset import InputDataset

    if colmap:
        config = ColmapDataParserConfig(data=folder, colmap_path=Path("sparse/0"), eval_mode="all", downscale_factor=1)
    else:
        config = NerfstudioDataParserConfig(data=folder, eval_mode="all", load_3D_points=True)
    outputs = config.setup().get_dataparser_outputs(split="train")
    dataset = InputDataset(outputs)
    pictures = []
    for index, path in enumerate(outputs.image_filenames):
        camera = outputs.cameras[index]
        pose = np.asarray(camera.camera_to_worlds) @ np.diag((1.0, -1.0, -1.0, 1.0))
        matrix = np.asarray(camera.get_intrinsics_matrices())
        shape = list(dataset.get_image_float32(index).shape)
        pictures.append(
            (path.relative_to(folder / "images").as_posix(), shape, matrix.tolist(), pose.astype(float).tolist())
        )
    transform = np.asarray(outputs.dataparser_transform, np.float64) * outputs.dataparser_scale
    return {
        "pictures": pictures,
        "from_world": [*transform.tolist(), [0, 0, 0, 1]],
        "points": len(outputs.metadata.get("points3D_xyz", [])),
        "depths": [str(path.relative_to(folder)) for path in outputs.metadata.get("depth_filenames") or []],
    }


if __name__ == "__main__":
    kind, *folders = sys.argv[1:]
    for folder in map(Path, folders):
        try:
            read = by_gsplat(folder) if kind == "gsplat" else by_nerfstudio(folder, kind == "colmap")
        except Exception as error:
            read = {"error": f"{type(error).__name__}: {error}"}
        print("\n" + json.dumps(read))
