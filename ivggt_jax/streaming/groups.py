"""Groups of frames that are computed together."""

from collections.abc import Iterable, Iterator

import jax
import numpy as np


def groups(frames: Iterable[jax.Array | np.ndarray], size: int) -> Iterator[list[jax.Array | np.ndarray]]:
    """Yield frames in groups of `size`; the last may be shorter. If `frames` raises, the frames before that come first.

    Raises ValueError for what is no array, and for a frame whose shape or type differs from the first one's.
    """
    group: list[jax.Array | np.ndarray] = []
    kind: tuple[tuple[int, ...], np.dtype] | None = None
    try:
        for frame in frames:
            if not hasattr(frame, "shape"):
                raise ValueError(
                    f"frames must be arrays [H,W,3], not {type(frame).__name__}: ivggt_jax.fit(path) reads a file"
                )
            kind = kind or (frame.shape, frame.dtype)
            if (frame.shape, frame.dtype) != kind:
                wanted, found = (f"{list(shape)} {dtype}" for shape, dtype in (kind, (frame.shape, frame.dtype)))
                raise ValueError(f"frames must all be {wanted} like the first, not {found}")
            group.append(frame)
            if len(group) == size:
                yield group
                group = []
    except Exception:
        if group:
            yield group
        raise
    if group:
        yield group
