"""ScanNet as CUT3R and StreamVGGT preprocess it: scans_{train,test}/scene/{color,depth,cam}.

color/NAME.jpg has the size of depth/NAME.png (millimetres); cam/NAME.npz holds `intrinsics` [3,3] of the depth camera and
`pose` [4,4], world from camera.
"""

from pathlib import Path

import numpy as np

from ivggt_jax.sources.folder import folder_images
from ivggt_jax.sources.image_file import read_image
from ivggt_jax.train.data.sampling import Sampling
from ivggt_jax.train.data.scene import Dataset, LabelledFrame, Scene, open_scenes, read_arrays, read_depth


class ScanNetScene(Scene):
    """One scan. Raises SourceError when it has no colour images."""

    def __init__(self, folder: Path):
        self.name = folder.name
        self._folder = folder
        self._stems = [path.stem for path in folder_images(folder / "color")]

    def __len__(self) -> int:
        return len(self._stems)

    def frame(self, position: int) -> LabelledFrame:
        """Read one frame."""
        stem = self._stems[position]
        camera = read_arrays(self._folder / "cam" / f"{stem}.npz")
        return LabelledFrame(
            read_image(self._folder / "color" / f"{stem}.jpg", exif=False),
            read_depth(self._folder / "depth" / f"{stem}.png", 1000),
            camera["pose"].astype(np.float64),
            camera["intrinsics"].astype(np.float64),
        )


def scannet(root: Path, split: str = "train") -> Dataset:
    """ScanNet below `root`. Raises ValueError when no scene is usable."""
    scenes = sorted((root / f"scans_{split}").glob("*/"))
    sampling = Sampling(max_interval=30, video=0.6, fixed_interval=0.6, block=16)
    return open_scenes(f"scannet {root}", scenes, ScanNetScene, sampling)
