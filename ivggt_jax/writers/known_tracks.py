"""Tracks from a bundle adjustment, with the interface of `tracks.Tracker`."""

import numpy as np

from ivggt_jax.writers.adjustment import rows_by
from ivggt_jax.writers.result import Result
from ivggt_jax.writers.saved_run import SavedRun
from ivggt_jax.writers.tracks import NewPoints, stretch_of


class KnownTracks:
    """The tracks of a refined run with the interface of `Tracker`, for a COLMAP model."""

    def __init__(self, run: SavedRun):
        """Raises ValueError for a run without tracks."""
        if run.tracks is None:
            raise ValueError("the run has no tracks of its own")
        self._tracks, self._done = run.tracks, 0
        self._stretch = np.array([stretch_of(result) for result in run.cameras()])
        # Points are written and numbered by the frame whose depth placed them.
        self._placed = rows_by(run.tracks.origins, len(run))
        self._numbers = np.empty(len(run.tracks.origins), np.int64)
        self._numbers[np.concatenate(self._placed)] = np.arange(1, len(self._numbers) + 1)
        self._of_frame = rows_by(run.tracks.frames, len(run))
        self._places = np.empty(len(run.tracks.frames), np.int64)
        for own in self._of_frame:
            self._places[own] = np.arange(len(own))
        self._of_point = rows_by(run.tracks.points, len(self._numbers))

    def feed(self, result: Result) -> None:
        """Does nothing: the tracks are already known."""

    def points_of(self, position: int) -> NewPoints:
        """The points that this frame's depth placed."""
        tracks, own = self._tracks, self._placed[position]
        seen = [self._of_point[point] for point in own]
        views = [np.stack((tracks.frames[rows], self._places[rows]), axis=-1) for rows in seen]
        return NewPoints(self._numbers[own], tracks.positions[own], tracks.colours[own], views)

    def observations(self) -> tuple[np.ndarray, np.ndarray]:
        """The next frame's pixels float64 [M, 2] of the model's input, centres at integers, and their point numbers int64 [M]."""
        own, stretch = self._of_frame[self._done], self._stretch[self._done]
        self._done += 1
        return self._tracks.pixels[own] / (1, stretch) - 0.5, self._numbers[self._tracks.points[own]]
