"""ARKitScenes as CUT3R and StreamVGGT preprocess it: {Training,Test}/scene/{vga_wide,lowres_depth}.

new_scene_metadata.npz holds `images` (names, .png), `trajectories` [N,4,4] world from camera, and `intrinsics` [N,6]: width,
height, fx, fy, cx, cy. vga_wide has the images as .jpg; lowres_depth is in millimetres and smaller than the image.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from ivggt_jax.sources.image_file import read_image
from ivggt_jax.train.data.sampling import Sampling
from ivggt_jax.train.data.scene import Dataset, LabelledFrame, Scene, open_scenes, read_arrays, read_depth

METADATA = "new_scene_metadata.npz"


class ARKitScene(Scene):
    """One recording. Raises ValueError when its lists differ in length, and whatever NumPy raises for a damaged file."""

    def __init__(self, folder: Path):
        self.name = folder.name
        self._folder = folder
        metadata = read_arrays(folder / METADATA)
        self._stems = [Path(str(name)).stem for name in metadata["images"]]
        self._poses = metadata["trajectories"].astype(np.float64)
        self._intrinsics = metadata["intrinsics"].astype(np.float64)
        if not len(self._stems) == len(self._poses) == len(self._intrinsics):
            raise ValueError(
                f"{len(self._stems)} images, {len(self._poses)} poses and {len(self._intrinsics)} intrinsics"
            )

    def __len__(self) -> int:
        return len(self._stems)

    def frame(self, position: int) -> LabelledFrame:
        """Read one frame; its depth is enlarged to the image's size by nearest neighbours."""
        stem = self._stems[position]
        image = read_image(self._folder / "vga_wide" / f"{stem}.jpg", exif=False)
        depth = Image.fromarray(read_depth(self._folder / "lowres_depth" / f"{stem}.png", 1000))
        _, _, focal_x, focal_y, centre_x, centre_y = self._intrinsics[position]
        return LabelledFrame(
            image,
            np.asarray(depth.resize(image.size, Image.Resampling.NEAREST)),
            self._poses[position],
            np.array([[focal_x, 0, centre_x], [0, focal_y, centre_y], [0, 0, 1]]),
        )


def arkitscenes(root: Path, split: str = "train") -> Dataset:
    """ARKitScenes below `root`. Raises ValueError when no scene is usable."""
    scenes = sorted((root / {"train": "Training", "test": "Test"}[split]).glob("*/"))
    sampling = Sampling(max_interval=8, video=0.8, fixed_interval=0.5, block=16)
    return open_scenes(f"arkitscenes {root}", scenes, ARKitScene, sampling)
