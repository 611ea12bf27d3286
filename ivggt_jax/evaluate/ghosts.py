"""The benefit of leaving moving things out of a run, for its path and its cloud: points off all static surfaces are counted.

The walk among moving bodies is run as by `infer`, frame by frame: keeping everything, without what is detected as moving, without
what truly moves, and in the same scene without bodies. For the cloud, predicted depth is scaled per ten frames and placed by the
true cameras, so that a ghost shows an error of depth or mask, not of a drifting path.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial import KDTree

from ivggt_jax import geometry
from ivggt_jax.config import CacheConfig
from ivggt_jax.evaluate.clouds import nearest, tree, voxel_downsample
from ivggt_jax.evaluate.records import path_errors
from ivggt_jax.evaluate.walk_cloud import VOXEL
from ivggt_jax.evaluate.walks import FIELD_OF_VIEW, Walk, WalkPart, depth_errors
from ivggt_jax.mapping.config import SubmapConfig
from ivggt_jax.model.parameters import Model
from ivggt_jax.options.export import ExportOptions
from ivggt_jax.runs.moving import MovingThings
from ivggt_jax.runs.run import computed, make_result, moving_masked
from ivggt_jax.sources.frame import Fit, Frame
from ivggt_jax.streaming.steps import init_stream
from ivggt_jax.writers.pixels import point_mask
from ivggt_jax.writers.result import Result

OFF = 0.25
"""Distance in metres to the nearest static surface from which a point is a ghost."""


@dataclass(frozen=True)
class Runner:
    """The settings for running walks."""

    model: Model
    cache: CacheConfig
    submaps: SubmapConfig

    def run(self, part: WalkPart, drop: bool = False, known: np.ndarray | None = None) -> list[Result]:
        """The results of a walk's frames. `drop`: without detected motion; `known` bool [T,H,W]: without these moving pixels."""
        height, width = part.depth.shape[1:]
        heads = tuple(head for head in ("camera", "depth", "motion") if head in self.model.config.predicts)
        state = init_stream(self.model, self.cache, height=height, width=width, heads=heads, submaps=self.submaps)
        watch = MovingThings(self.model, state) if drop else None
        results = []
        for frame in _frames(part, known):
            if watch:
                state, found = watch.compute(state, [frame])
            else:
                state, found = computed(self.model, state, [frame])
            host = jax.device_get(jax.tree.map(lambda x: x[0, 0], found))
            result = make_result(frame, host, points_from_depth=True)
            results.append(moving_masked(result, host.motion > 0.5) if watch else result)
        return results


def moving_errors(runner: Runner, walk: Walk, without: Walk, frames: int) -> dict[str, float]:
    """Errors of a walk among bodies, and of the same walk `without` any: path error in percent, points of the cloud, ghosts."""
    part, empty = walk.part(0, frames), without.part(0, frames)
    assert part.moving is not None
    runs = {
        "keep": runner.run(part),
        "drop": runner.run(part, drop=True),
        "known_masks": runner.run(part, known=part.moving),
        "no_bodies": runner.run(empty),
    }
    surfaces = tree(voxel_downsample(_in_world(empty.depth, part.world_from_cam, empty.depth > 0), VOXEL))
    numbers: dict[str, float] = {}
    for name, results in runs.items():
        found = np.stack([result.world_from_cam for result in results])
        numbers[f"path_error_percent_{name}"] = 100 * path_errors(found, part.world_from_cam).over_length
        cloud = _cloud(results, empty if name == "no_bodies" else part)
        numbers[f"points_{name}"] = len(cloud)
        numbers[f"ghosts_{name}"] = count_ghosts(cloud, surfaces) if len(cloud) else 0
    dropped = np.stack([result.moving for result in runs["drop"] if result.moving is not None])
    numbers["motion_overlap_as_run"] = overlap(part.moving, dropped)
    numbers["moving_share_dropped"] = float(dropped[part.moving].mean())
    numbers["still_share_dropped"] = float(dropped[~part.moving].mean())
    return numbers


def count_ghosts(cloud: np.ndarray, surfaces: KDTree) -> int:
    """Number of points of a cloud [N,3], in metres, that are off the surfaces."""
    return int((nearest(cloud, surfaces)[0] > OFF).sum())


def overlap(truth: np.ndarray, said: np.ndarray) -> float:
    """Intersection over union of two masks, bool [F,H,W]; NaN if both are empty."""
    either = np.sum(truth | said)
    return float(np.sum(truth & said) / either) if either else np.nan


def _frames(part: WalkPart, known: np.ndarray | None) -> Iterator[Frame]:
    height, width = part.depth.shape[1:]
    fit = Fit((width, height), (1.0, 1.0), (0.0, 0.0))
    for number, image in enumerate(part.images):
        yield Frame(image, number, None, f"{number:06d}", fit, None if known is None else ~known[number])


def _cloud(results: list[Result], part: WalkPart) -> np.ndarray:
    """The points of the results, float64 [N,3] in metres, averaged in cubes."""
    depth = np.stack([result.depth for result in results if result.depth is not None])
    kept = np.stack([point_mask(result, ExportOptions()) for result in results])
    scale = depth_errors(depth, part.depth).scale
    return voxel_downsample(_in_world(depth * scale[:, None, None], part.world_from_cam, kept), VOXEL)


def _in_world(depth: np.ndarray, world_from_cam: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Points float64 [N,3] of the pixels `kept`, bool [T,H,W], of depth [T,H,W] in metres."""
    intrinsics = geometry.intrinsics_from_field_of_view(jnp.deg2rad(FIELD_OF_VIEW), *depth.shape[1:])
    rays = np.asarray(geometry.pixel_rays(intrinsics, *depth.shape[1:]), np.float64)
    points = (depth[..., None] * rays) @ world_from_cam[:, None, :, :3].swapaxes(-1, -2)
    return (points + world_from_cam[:, None, None, :, 3])[kept]
