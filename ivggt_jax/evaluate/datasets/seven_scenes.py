"""7-Scenes (Shotton et al., CVPR 2013): the test sequences of seven rooms, with Kinect depth and poses."""

from functools import partial
from pathlib import Path

from ivggt_jax.evaluate.datasets.files import (
    images_in,
    intrinsics_of_640,
    matched,
    number,
    read_png_depth,
    without_damage,
)
from ivggt_jax.evaluate.datasets.sequence import ReadOptions, Sequence
from ivggt_jax.trajectories.tables import read_pose_files

LAYOUT = "<scene>/TestSplit.txt and <scene>/seq-01/frame-000000.{color.png,depth.png,pose.txt}"


def find(root: Path, options: ReadOptions) -> dict[str, Path]:
    """Folders of the test sequences by name, such as `chess/seq-03`."""
    found = {}
    for split in sorted(root.glob("*/TestSplit.txt")):
        for line in split.read_text(encoding="utf-8").split():
            folder = split.parent / f"seq-{number(Path(line)):02d}"
            found[f"{split.parent.name}/{folder.name}"] = folder
    return found


def read(name: str, folder: Path, options: ReadOptions) -> Sequence:
    """One sequence.

    Both kinds of depth are used with the colour camera's intrinsics, as published. Raw depth is not registered to that camera,
    which costs every method accuracy. 65,535 and everything beyond 10 m count as unknown.
    """
    kind = "depth.proj.png" if options.registered_depth else "depth.png"
    images = images_in(folder, "*.color.png")
    depths, depth_problems = matched(images, folder.glob(f"*.{kind}"), kind)
    pose_files, pose_file_problems = matched(images, folder.glob("*.pose.txt"), "pose.txt")
    poses, pose_problems = read_pose_files(pose_files)
    return without_damage(
        Sequence(
            dataset="7scenes",
            name=name,
            images=images,
            depths=depths,
            read_depth=partial(read_png_depth, units_per_metre=1000, largest=10),
            world_from_cam=poses,
            intrinsics=intrinsics_of_640(525, images),
            problems=(*depth_problems, *pose_file_problems, *pose_problems),
        )
    )
