"""The output formats: which files each writes, and the options for making them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

BuiltOutput = Literal["colmap", "nerfstudio", "glb", "html"]
"""Formats that are built from all saved frames at the end."""
MadeOutput = Literal[
    "tum", "kitti", "intrinsics", "ply", "depth", "tracks", "masks", "moving", "video", "rrd", "mcap", BuiltOutput
]
"""Formats that can be made from saved frames."""
Output = Literal["npz", MadeOutput]
"""Formats that a run can write: those above, and the saved frames themselves."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format of `--export`."""

    files: tuple[str, ...]
    """What it writes into the top of the output folder, as patterns. A run that starts over removes these files only."""
    needs: Literal["depth", "points", "tracks"] | None = None
    """The prediction it is made from, if not every run has it."""
    reading: str | None = None
    """How to read the first of the files, for people and programs; copied to `run.json`."""


FORMATS: dict[Output, Format] = {
    "tum": Format(
        files=("trajectory.txt",),
        reading="world from camera, quaternion xyzw; timestamps in seconds, else frame indices",
    ),
    "kitti": Format(files=("kitti.txt",), reading="world from camera, the 3x4 matrix row by row"),
    "intrinsics": Format(
        files=("intrinsics.txt",),
        reading="pixels of the original images, undistorted if calibrated; pixel (0, 0) is the centre of the first pixel",
    ),
    "npz": Format(
        files=("frames",), reading="cam_from_world; intrinsics in pixels of the saved image; depth is z in the camera"
    ),
    "ply": Format(files=("points.ply",), needs="points"),
    "depth": Format(files=("depth",), needs="depth"),
    "tracks": Format(
        files=("tracks.txt",),
        needs="tracks",
        reading="pixels of the original images; pixel (0, 0) is the centre of the first pixel; visibility from 0 to 1",
    ),
    "masks": Format(
        files=("masks",), reading="of the original images' size; black: masked by the user, transparent or moving"
    ),
    "moving": Format(
        files=("moving",), needs="points", reading="what moves in each frame, in the world; its time is in the header"
    ),
    "video": Format(files=("video.mp4",), needs="depth"),
    "rrd": Format(files=("recording.rrd", f"recording-{6 * '[0-9]'}*.rrd")),
    "mcap": Format(files=("recording.mcap",)),
    "colmap": Format(
        files=("sparse", "images"),
        needs="depth",
        reading="COLMAP: camera from world, quaternion wxyz; the corner of the first pixel is (0, 0)",
    ),
    "nerfstudio": Format(
        files=("transforms.json", "images", "nerfstudio_depth", "nerfstudio_masks", "nerfstudio.ply"),
        needs="points",
        reading="nerfstudio: world from camera, OpenGL camera axes: x right, y up, z backward",
    ),
    "glb": Format(files=("scene.glb",), needs="points", reading="OpenGL axes: x right, y up, z backward"),
    "html": Format(files=("scene.html",), needs="points"),
}
"""All formats. What a run checks, removes and lists in `run.json` follows from this table."""

WITH_TRACKS = {"tracks", "npz", "video", "rrd"}
"""Formats that contain or show tracks."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options for writing files. Raises ValueError for a value that makes no sense."""

    confidence: float = 50.0
    """Percentile: a pixel becomes a point if its confidence reaches this percentile of its own frame."""
    voxel: float | None = None
    """Side of the cubes in which points are averaged, in the unit of the file; by default from the first frame's extent."""
    max_points: int = 2_000_000
    """Maximum number of points in a cloud; if there would be more, the cubes double in size."""
    sky: Literal["keep", "drop"] = "keep"
    """Whether pixels that look like sky become points."""
    shared_camera: bool = False
    """Give COLMAP and nerfstudio one camera for all frames (the median), even if each frame is a picture of its own."""
    own_cameras: bool = False
    """Give them one camera per frame, even if all frames are from one video or camera, for example if it zooms."""
    images: Path | None = None
    """Folder of the originals, for COLMAP and nerfstudio, found by stem; if missing, the model's input is written instead."""
    dense: int = 100_000
    """Points of the fused cloud added to COLMAP's points3D, without tracks, as a dense start for splats; 0: none."""
    frames_dtype: Literal["float32", "float16"] | None = None
    """Type of depth and confidences in frames/*.npz; by default float32, or float16 if no chosen output needs them."""

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
