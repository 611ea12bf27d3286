"""Long3D (InfiniteVGGT): long videos, each with one laser scan of the whole scene and no truth per frame."""

from pathlib import Path

from ivggt_jax.evaluate.datasets.files import damage, images_in, without_damage
from ivggt_jax.evaluate.datasets.sequence import ReadOptions, Sequence
from ivggt_jax.sources.image_file import IMAGE_SUFFIXES

LAYOUT = "<scene>/dense_cloud_map.pcd, with the images beside it or in one folder beside it"


def find(root: Path, options: ReadOptions) -> dict[str, Path]:
    """Folders of the scenes by name."""
    return {path.parent.name: path.parent for path in sorted(root.glob("*/dense_cloud_map.pcd"))}


def read(name: str, folder: Path, options: ReadOptions) -> Sequence:
    """One scene; `cloud` is its scan. Raises ValueError when the scan is damaged, or two folders have images."""
    cloud = folder / "dense_cloud_map.pcd"
    if problem := damage(cloud):
        raise ValueError(problem)
    holders = [path for path in (folder, *sorted(folder.iterdir())) if path.is_dir() and _holds_images(path)]
    if len(holders) != 1:
        raise ValueError(f"{folder}: images must lie in one folder, not in {len(holders)}")
    images = images_in(holders[0])
    return without_damage(Sequence(dataset="long3d", name=name, images=images, cloud=cloud))


def _holds_images(folder: Path) -> bool:
    return any(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.iterdir())
