"""Tracks that are known from an adjustment, handed out as `tracks.Tracker` does."""

import numpy as np

from ivggt_jax.writers.result import Result
from ivggt_jax.writers.saved_run import SavedRun
from ivggt_jax.writers.tracks import NewPoints, stretch_of


class KnownTracks:
    """The tracks of a refined run in the words of a `Tracker`, for a COLMAP model."""

    def __init__(self, run: SavedRun):
        """Raises ValueError for a run without tracks."""
        if run.tracks is None:
            raise ValueError("the run has no tracks of its own")
        self._tracks, self._done = run.tracks, 0
        self._stretch = np.array([stretch_of(result) for result in run.cameras()])
        # Points are written, and numbered, by the frame whose depth placed them.
        self._order = np.argsort(run.tracks.origins, kind="stable")
        self._numbers = np.empty(len(self._order), np.int64)
        self._numbers[self._order] = np.arange(1, len(self._order) + 1)
        frames = run.tracks.frames
        by_frame = np.argsort(frames, kind="stable")
        begins = np.searchsorted(frames[by_frame], np.arange(len(run) + 1))
        self._of_frame = [by_frame[begin:end] for begin, end in zip(begins, begins[1:], strict=False)]
        self._places = np.empty(len(frames), np.int64)
        for own in self._of_frame:
            self._places[own] = np.arange(len(own))
        self._of_point = np.split(
            np.argsort(run.tracks.points, kind="stable"), np.cumsum(np.bincount(run.tracks.points))[:-1]
        )

    def feed(self, result: Result) -> None:
        """Nothing is to be learnt from a frame."""

    def points_of(self, position: int) -> NewPoints:
        """The points that this frame's depth placed."""
        tracks = self._tracks
        own = self._order[tracks.origins[self._order] == position]
        seen = [self._of_point[point] for point in own]
        views = [np.stack((tracks.frames[rows], self._places[rows]), axis=-1) for rows in seen]
        return NewPoints(self._numbers[own], tracks.positions[own], tracks.colours[own], views)

    def observations(self) -> tuple[np.ndarray, np.ndarray]:
        """The next frame's pixels float64 [M, 2] of the model's input, by integer index, and their points' numbers int64 [M]."""
        own, stretch = self._of_frame[self._done], self._stretch[self._done]
        self._done += 1
        return self._tracks.pixels[own] / (1, stretch) - 0.5, self._numbers[self._tracks.points[own]]
