"""Collects the places of a stream as it passes them: the anchor of a submap and two frames soon after it."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ivggt_jax.mapping.config import PLACE_EVERY, PLACE_FRAMES
from ivggt_jax.mapping.features import Features, find_features
from ivggt_jax.mapping.places import Place
from ivggt_jax.mapping.state import MapRecord
from ivggt_jax.mapping.submaps import LEAST_DETAIL
from ivggt_jax.transforms import Similarity


class PlaceMaker:
    """Makes places from one stream's frames, fed in order; at most `PLACE_FRAMES` - 1 frames wait at a time.

    Another instance can continue from the result of `state`.
    """

    def __init__(self, state: Mapping[str, np.ndarray] | None = None):
        state = state or {}
        self._submap, self._since = (int(number) for number in state.get("counts", (-1, 0)))
        self._token: np.ndarray | None = state.get("token")
        self._focal = state.get("focal", np.array(1.0))
        self._world_from_cam = list(state.get("world_from_cam", ()))
        columns = (state.get(name, ()) for name in ("pixels", "depth", "patches"))
        self._features = [Features(*arrays) for arrays in zip(*columns, strict=True)]

    def feed(
        self,
        image: np.ndarray,
        depth: np.ndarray,
        world_from_cam: np.ndarray,
        focal: np.ndarray,
        record: MapRecord,
        mask: np.ndarray | None = None,
    ) -> Place | None:
        """Take the next frame: image uint8 [H,W,3], depth [H,W], pose [3,4] in the world, and the map's record of it.

        `focal` [2], along x and y, is in image widths, `mask` bool [H,W] False where something covers the scene
        (`find_features`). Returns a place if the frame completes one. A frame that does not match the keyframes is left out: it
        is blurred, or shows another scene after a cut. Of another scene a frame in twenty matches by chance, so the frame after
        it must match, too, before one is taken again. A submap that ends before `PLACE_FRAMES` are taken makes no place.
        """
        if record.grown is not None and record.grown != 1:
            self._grow(float(record.grown))
        if record.anchor or self._submap < 0:
            self._begin(int(record.submap) + int(record.anchor), np.asarray(record.token, np.float16), float(focal[0]))
        elif self._token is None:
            return None
        else:
            self._since += 1
        if self._features:
            if record.agreement != 0 and record.agreement < LEAST_DETAIL:  # 0 if poses are not refined
                self._since = min(self._since, PLACE_EVERY - 2)
            if self._since < PLACE_EVERY:
                return None
        self._since = 0
        found = find_features(image, depth, mask)
        square = found.pixels * np.array((1, focal[0] / focal[1]), np.float32)
        self._features.append(replace(found, pixels=square))
        self._world_from_cam.append(np.asarray(world_from_cam, np.float64))
        return self._finish(record) if len(self._features) == PLACE_FRAMES else None

    def state(self) -> dict[str, np.ndarray]:
        """The pending data, for another instance to continue from."""
        found = {"counts": np.array((self._submap, self._since))}
        if self._token is not None:
            found |= {"token": self._token, "focal": self._focal, "world_from_cam": np.stack(self._world_from_cam)}
            found |= self._columns()
        return found

    def _columns(self) -> dict[str, np.ndarray]:
        """Corners of the waiting frames, [frame,…] each."""
        names = ("pixels", "depth", "patches")
        return {name: np.stack([getattr(features, name) for features in self._features]) for name in names}

    def _begin(self, submap: int, token: np.ndarray, focal: float) -> None:
        self._submap, self._since, self._token, self._focal = submap, 0, token, np.array(focal, np.float64)
        self._features, self._world_from_cam = [], []

    def _grow(self, factor: float) -> None:
        """Change the unit of the waiting frames; lengths are multiplied by `factor`."""
        self._features = [replace(found, depth=np.float32(factor) * found.depth) for found in self._features]
        self._world_from_cam = [Similarity(factor).poses(camera) for camera in self._world_from_cam]

    def _finish(self, record: MapRecord) -> Place:
        """The place, in the frame and unit of its submap; only frames after the anchor know where the submap lies."""
        assert self._token is not None
        placed = record.world_from_submap
        submap_from_world = Similarity(
            float(placed.scale), np.asarray(placed.rotation, np.float64), np.asarray(placed.translation, np.float64)
        ).inverse()
        columns = self._columns()
        columns["depth"] = (submap_from_world.scale * columns["depth"]).astype(np.float32)
        poses = submap_from_world.poses(np.stack(self._world_from_cam))
        place = Place(self._submap, int(record.part), self._token, poses, self._focal, **columns)
        self._drop()
        return place

    def _drop(self) -> None:
        self._token, self._features, self._world_from_cam = None, [], []
