"""What a run can write, and how it becomes files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

BuiltOutput = Literal["colmap", "nerfstudio", "glb", "html"]
"""What is built from all saved frames."""
MadeOutput = Literal["tum", "kitti", "intrinsics", "ply", "depth", "video", "rrd", "mcap", BuiltOutput]
"""What can be made of saved frames."""
Output = Literal["npz", MadeOutput]
"""What a run can write: the saved frames themselves, too."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """How results become files. Raises ValueError for a value that makes no sense."""

    confidence: float = 50.0
    """Percentile: a pixel makes a point when its confidence is at least this percentile of its own frame's."""
    voxel: float | None = None
    """Side of the cubes in which points are averaged, in the model's unit; None: from the first frame's extent."""
    max_points: int = 2_000_000
    """Maximum number of points in a cloud; the cubes double in size when there would be more."""
    sky: Literal["keep", "drop"] = "keep"
    """Whether pixels that look like sky make points."""
    shared_camera: bool = False
    """Give COLMAP and nerfstudio one camera for all frames (the median) also where each is a picture of its own."""
    own_cameras: bool = False
    """Give them one camera per frame also where all frames are of one video or camera, as when it zooms."""
    images: Path | None = None
    """Where the originals are now, for COLMAP and nerfstudio, found by stem; frames not there are written as the model saw them."""
    dense: int = 100_000
    """Points of the fused cloud added to COLMAP's points3D, without tracks, as a dense start for splats; 0: none."""
    frames_dtype: Literal["float32", "float16"] | None = None
    """Type of depth, points and confidences in frames/*.npz; by default float32; float16 if npz was not requested."""

    def __post_init__(self) -> None:
        if not 0 <= self.confidence < 100:
            raise ValueError(f"--confidence is a percentile from 0 to below 100, not {self.confidence}")
        if self.voxel is not None and not self.voxel > 0:
            raise ValueError(f"--voxel must be positive, not {self.voxel}")
        if self.shared_camera and self.own_cameras:
            raise ValueError("--shared-camera and --own-cameras contradict each other: give one of them")
        if self.dense < 0:
            raise ValueError(f"--dense must be 0 or more points, not {self.dense}")
        if self.max_points < 8:
            raise ValueError(f"--max-points must be at least 8, not {self.max_points}")
