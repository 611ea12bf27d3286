"""A cloud of any number of frames in constant memory: points averaged in the cells (voxels) of a hash grid."""

from collections.abc import Mapping

import numpy as np

BITS = 21
"""Bits of a voxel's index along one axis; three fit an int64 key."""
HALF = 1 << (BITS - 1)
FULL = (1 << BITS) - 1
VALUES = 6
"""Values averaged in a voxel: x, y, z, red, green, blue."""


class VoxelGrid:
    """Running means of points and colours in cubes, never more than `max_points` of them.

    When a frame would add more, the cubes double in size and the cloud is averaged again, until they fit. The result depends only
    on the points and their order. Points beyond 2²⁰ cubes from the origin are left out.

    All memory is allocated at the start: 40 bytes per cube for key, mean and count, and 8 to 16 for the hash table. Except for
    the rare doublings, the time per frame depends on the frame's points, not on the cloud's.
    """

    def __init__(self, voxel: float | None, max_points: int):
        """Start empty. voxel None: a 512th of the extent of the first added points."""
        self.voxel = voxel
        self._count = 0
        self._keys = np.zeros(max_points, np.int64)
        self._means = np.zeros((max_points, VALUES), np.float32)
        self._counts = np.zeros(max_points, np.int64)
        self._bits = int(2 * max_points - 1).bit_length()
        self._table = np.full(1 << self._bits, -1, np.int32)

    def __len__(self) -> int:
        return self._count

    def add(self, points: np.ndarray, colours: np.ndarray) -> None:
        """Add finite points [N, 3] with colours uint8 [N, 3]."""
        if len(points) == 0:
            return
        if self.voxel is None:
            self.voxel = automatic_voxel(points)
        index = np.floor(points.astype(np.float64) / self.voxel)
        inside = (np.abs(index) < HALF).all(axis=-1)
        values = np.concatenate((points[inside], colours[inside]), axis=1, dtype=np.float64)
        keys = _pack(index[inside].astype(np.int64))
        keys, values, counts = _merge(keys, values, np.ones(len(keys), np.int64))
        rows, slots = self._find(keys)
        while self._count + np.count_nonzero(rows < 0) > len(self._keys):
            self._coarsen()
            keys, values, counts = _merge(_coarser(keys), values, counts)
            rows, slots = self._find(keys)
        known = rows >= 0
        self._update(rows[known], values[known], counts[known])
        self._insert(keys[~known], slots[~known], values[~known], counts[~known])

    def cloud(self) -> tuple[np.ndarray, np.ndarray]:
        """Points float32 [N, 3] and colours uint8 [N, 3], in the order in which their voxels were first seen."""
        means = self._means[: self._count]
        return means[:, :3], np.rint(means[:, 3:]).astype(np.uint8)

    def state(self) -> dict[str, np.ndarray]:
        """Everything that `restore` needs to continue exactly; its size follows the cloud's."""
        live = slice(self._count)
        return {
            "voxel": np.array(np.nan if self.voxel is None else self.voxel),
            "keys": self._keys[live].copy(),
            "means": self._means[live].copy(),
            "counts": self._counts[live].copy(),
        }

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Become the grid with this `state()`. Raises ValueError when it had more points than fit here."""
        keys = state["keys"]
        if len(keys) > len(self._keys):
            raise ValueError(f"the saved cloud has {len(keys)} points, more than --max-points {len(self._keys)}")
        self.voxel = None if np.isnan(state["voxel"]) else float(state["voxel"])
        self._replace(keys, state["means"], state["counts"])

    def _update(self, rows: np.ndarray, values: np.ndarray, counts: np.ndarray) -> None:
        """Update the means of distinct rows with new means [K, 6] of `counts` points each."""
        self._counts[rows] += counts
        step = (counts / self._counts[rows])[:, None]
        self._means[rows] += step * (values - self._means[rows])

    def _coarsen(self) -> None:
        assert self.voxel is not None
        self.voxel *= 2
        live = slice(self._count)
        self._replace(*_merge(_coarser(self._keys[live]), self._means[live].astype(np.float64), self._counts[live]))

    def _replace(self, keys: np.ndarray, means: np.ndarray, counts: np.ndarray) -> None:
        """Replace all voxels by these distinct ones."""
        self._table[:] = -1
        self._count = 0
        self._insert(keys, self._find(keys)[1], means, counts)

    def _insert(self, keys: np.ndarray, slots: np.ndarray, means: np.ndarray, counts: np.ndarray) -> None:
        """Append rows for distinct new keys; `slots` are the free slots where `_find` ended."""
        rows = np.arange(self._count, self._count + len(keys))
        self._keys[rows], self._means[rows], self._counts[rows] = keys, means, counts
        self._count += len(keys)
        while len(rows):
            free = self._table[slots] < 0
            self._table[slots[free]] = rows[free]
            # If several rows want one slot, the last one written gets it; the others continue to the next slot.
            waiting = self._table[slots] != rows
            rows, slots = rows[waiting], self._next(slots[waiting])

    def _find(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows of keys, −1 for missing ones, and the slots where the search ended (linear probing)."""
        golden = np.uint64(0x9E3779B97F4A7C15)
        slots = ((keys.astype(np.uint64) * golden) >> np.uint64(64 - self._bits)).astype(np.int64)
        rows = np.full(len(keys), -1, np.int64)
        searching = np.arange(len(keys))
        while len(searching):
            found = self._table[slots[searching]]
            match = (found >= 0) & (self._keys[found] == keys[searching])
            rows[searching[match]] = found[match]
            searching = searching[(found >= 0) & ~match]
            slots[searching] = self._next(slots[searching])
        return rows, slots

    def _next(self, slots: np.ndarray) -> np.ndarray:
        return (slots + 1) & ((1 << self._bits) - 1)


def automatic_voxel(points: np.ndarray) -> float:
    """A 512th of the diagonal of the box that contains the middle 90 % of points [N, 3] along each axis.

    At 518 pixels across this is about the distance between neighbouring pixels' points.
    """
    low, high = np.percentile(points, [5, 95], axis=0)
    diagonal = float(np.linalg.norm(high - low)) or float(np.abs(points).max()) or 1.0
    return diagonal / 512


def _pack(index: np.ndarray) -> np.ndarray:
    """Keys int64 [N] of voxel indices int64 [N, 3] in (−2²⁰, 2²⁰)."""
    x, y, z = (index + HALF).T
    return (x << (2 * BITS)) | (y << BITS) | z


def _coarser(keys: np.ndarray) -> np.ndarray:
    """Keys of the cubes of twice the size: floor(floor(p / v) / 2) = floor(p / 2v)."""
    index = np.stack((keys >> (2 * BITS), (keys >> BITS) & FULL, keys & FULL), axis=1) - HALF
    return _pack(index >> 1)


def _merge(keys: np.ndarray, means: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct keys in increasing order, with the means float64 [K, 6] of their groups, weighted by counts, and summed counts."""
    order = np.argsort(keys, kind="stable")
    keys, counts = keys[order], counts[order]
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    if len(starts) == 0:
        return keys, means, counts
    totals = np.add.reduceat(counts, starts)
    sums = np.add.reduceat(means[order] * counts[:, None], starts, axis=0)
    return keys[starts], sums / totals[:, None], totals
