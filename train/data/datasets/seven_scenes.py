"""7-Scenes as published: scene/{TrainSplit,TestSplit}.txt and scene/seq-NN/frame-NNNNNN.{color.png,depth.png,pose.txt}.

Depth is in millimetres, 65,535 where unknown. depth.proj.png, which has the depth seen from the colour camera, is used if it
exists; the raw depth is a few pixels off.
"""

import re
from pathlib import Path

import numpy as np

from ivggt_jax.sources.image_file import read_image
from ivggt_jax.train.data.sampling import Sampling
from ivggt_jax.train.data.scene import Dataset, LabelledFrame, Scene, open_scenes, read_depth

INTRINSICS = np.array([[525.0, 0, 320], [0, 525, 240], [0, 0, 1]])
NEAREST, FARTHEST = 1e-3, 10.0
"""Range of depths that are used, in metres."""


class SevenScenesSequence(Scene):
    """One recording of a scene. Raises ValueError when it holds no frames."""

    def __init__(self, folder: Path):
        self.name = f"{folder.parent.name}/{folder.name}"
        self._stems = [str(path).removesuffix(".color.png") for path in sorted(folder.glob("frame-*.color.png"))]
        if not self._stems:
            raise ValueError("no frames (frame-*.color.png)")

    def __len__(self) -> int:
        return len(self._stems)

    def frame(self, position: int) -> LabelledFrame:
        """Read one frame."""
        stem = self._stems[position]
        registered = Path(f"{stem}.depth.proj.png")
        depth = read_depth(registered if registered.exists() else Path(f"{stem}.depth.png"), 1000)
        pose = np.loadtxt(f"{stem}.pose.txt")
        if pose.shape != (4, 4):
            raise ValueError(f"{stem}.pose.txt: a pose has 4 rows of 4 numbers, not {pose.shape}")
        return LabelledFrame(
            read_image(Path(f"{stem}.color.png"), exif=False),
            np.where((depth >= NEAREST) & (depth <= FARTHEST), depth, 0),
            pose,
            INTRINSICS,
        )


def seven_scenes(root: Path, split: str = "train") -> Dataset:
    """7-Scenes below `root`. Raises ValueError when no sequence is usable."""
    folders = []
    for listing in sorted(root.glob(f"*/{split.capitalize()}Split.txt")):
        numbers = re.findall(r"^sequence(\d+)", listing.read_text(), re.MULTILINE)
        folders += [listing.parent / f"seq-{int(number):02d}" for number in numbers]
    return open_scenes(f"7scenes {root}", folders, SevenScenesSequence, Sampling(max_interval=8, block=16))
