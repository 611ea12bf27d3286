"""Places as a stream passes them: the anchor of a submap and two frames soon after it."""

from collections.abc import Mapping

import numpy as np

from ivggt_jax.mapping.places import FRAMES, Place, coarse
from ivggt_jax.mapping.state import MapRecord
from ivggt_jax.transforms import Similarity

EVERY = 4
"""Frames from one frame of a place to the next."""


class PlaceMaker:
    """Makes places of one stream's frames, fed in order; at most `FRAMES` - 1 of them wait at a time.

    `state` is what another one needs to go on from there.
    """

    def __init__(self, state: Mapping[str, np.ndarray] | None = None):
        state = state or {}
        self._token: np.ndarray | None = state.get("token")
        self._submap, self._since = int(state.get("submap", -1)), int(state.get("since", 0))
        self._images = list(state.get("images", ()))
        self._world_from_cam = list(state.get("world_from_cam", ()))
        self._depth = list(state.get("depth", ()))

    def feed(
        self, image: np.ndarray, world_from_cam: np.ndarray, depth: np.ndarray, record: MapRecord
    ) -> Place | None:
        """Takes the next frame: image uint8 [H,W,3], pose [3,4] and depth [H,W] in the world, and what the map says of it.

        Returns the place that it completes, if it does. A submap that ends before makes none.
        """
        if record.anchor or (self._submap < 0 and self._token is None):
            self._begin(int(record.submap) + int(record.anchor), np.asarray(record.token))
        elif self._token is None:
            return None
        else:
            self._since += 1
        if self._since % EVERY == 0:
            self._images.append(image)
            self._world_from_cam.append(np.asarray(world_from_cam, np.float64))
            self._depth.append(np.asarray(coarse(depth), np.float32))
        return self._finish(record) if len(self._images) == FRAMES else None

    def state(self) -> dict[str, np.ndarray]:
        """What waits for the frames to come."""
        found = {"submap": np.array(self._submap), "since": np.array(self._since)}
        if self._token is not None:
            found |= {
                "token": self._token,
                "images": np.stack(self._images),
                "world_from_cam": np.stack(self._world_from_cam),
                "depth": np.stack(self._depth),
            }
        return found

    def _begin(self, submap: int, token: np.ndarray) -> None:
        self._submap, self._since, self._token = submap, 0, token
        self._images, self._world_from_cam, self._depth = [], [], []

    def _finish(self, record: MapRecord) -> Place:
        """The place, in the frame and unit of its submap, of which only the frames after the anchor say where it lies."""
        assert self._token is not None
        placed = record.world_from_submap
        world_from_submap = Similarity(
            float(placed.scale), np.asarray(placed.rotation, np.float64), np.asarray(placed.translation, np.float64)
        )
        with np.errstate(over="ignore"):
            depth = (np.stack(self._depth) / world_from_submap.scale).astype(np.float16)
        place = Place(
            self._submap,
            self._token.astype(np.float16),
            np.stack(self._images),
            world_from_submap.inverse().poses(np.stack(self._world_from_cam)),
            depth,
        )
        self._token, self._images, self._world_from_cam, self._depth = None, [], [], []
        return place
