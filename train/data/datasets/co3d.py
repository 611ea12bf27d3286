"""Co3D v2 as DUSt3R preprocesses it: selected_seqs_{train,test}.json and category/sequence/{images,depths}.

The JSON file maps category → sequence → frame numbers. images/frameNNNNNN.jpg comes with frameNNNNNN.npz: `camera_pose`
[4,4] world from camera, `camera_intrinsics` [3,3], `maximum_depth`; depths/frameNNNNNN.jpg.geometric.png counts
65,535ths of the maximum. The unit of length differs from sequence to sequence.
"""

from functools import partial
from pathlib import Path

import numpy as np

from ivggt_jax.disk.strict_json import read_json
from ivggt_jax.sources.image_file import read_image
from ivggt_jax.train.data.sampling import Sampling
from ivggt_jax.train.data.scene import Dataset, LabelledFrame, Scene, open_scenes, read_arrays, read_depth


class Co3DScene(Scene):
    """One video of an object. `selected` maps category → sequence → frame numbers."""

    def __init__(self, folder: Path, selected: dict[str, dict[str, list[int]]]):
        self.name = f"{folder.parent.name}/{folder.name}"
        self._folder = folder
        numbers = selected[folder.parent.name][folder.name]
        if not isinstance(numbers, list) or not all(isinstance(number, int) for number in numbers):
            raise ValueError("its frames are not listed by number")
        self._numbers = sorted(numbers)
        if not folder.is_dir():
            raise ValueError("there is no such folder")

    def __len__(self) -> int:
        return len(self._numbers)

    def frame(self, position: int) -> LabelledFrame:
        """Read one frame."""
        stem = f"frame{self._numbers[position]:06d}"
        camera = read_arrays(self._folder / "images" / f"{stem}.npz")
        maximum = float(np.nan_to_num(camera["maximum_depth"]))
        return LabelledFrame(
            read_image(self._folder / "images" / f"{stem}.jpg", exif=False),
            maximum * read_depth(self._folder / "depths" / f"{stem}.jpg.geometric.png", 65535),
            camera["camera_pose"].astype(np.float64),
            camera["camera_intrinsics"].astype(np.float64),
        )


def co3d(root: Path, split: str = "train") -> Dataset:
    """Co3D below `root`. Raises ValueError when no scene is usable, or the list of sequences is missing or invalid."""
    listing = root / f"selected_seqs_{split}.json"
    selected = read_json(listing)
    if not all(isinstance(sequences, dict) for sequences in selected.values()):
        raise ValueError(f"{listing} does not list categories, their sequences and the numbers of their frames")
    scenes = [root / category / sequence for category, sequences in selected.items() for sequence in sequences]
    return open_scenes(f"co3d {root}", scenes, partial(Co3DScene, selected=selected), Sampling(max_interval=25))
