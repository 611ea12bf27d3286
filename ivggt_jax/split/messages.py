"""Messages between the processes of a split run."""

from dataclasses import dataclass, field

import numpy as np

from ivggt_jax.config import CacheConfig, HeadName
from ivggt_jax.mapping.config import SubmapConfig
from ivggt_jax.model.vggt import Predictions
from ivggt_jax.sources import Frame, SourceConfig
from ivggt_jax.sources.frame import Mark


@dataclass(frozen=True)
class Order:
    """The settings sent to a process once: the source, the model and the stream."""

    source: SourceConfig
    checkpoint: str
    precision: str | None
    heads: tuple[HeadName, ...]
    cache: CacheConfig
    submaps: SubmapConfig
    height: int
    width: int


@dataclass(frozen=True)
class Piece:
    """The frames of a submap, from its anchor to the next one, inclusive."""

    anchor: Mark
    usual: float | None
    """Usual sharpness of the frames before the anchor; None for the first one."""
    least: int = 0
    """Least number of frames before the next anchor, including the piece's own anchor; set if the map demands it."""


@dataclass(frozen=True)
class Task:
    """A piece for a process to see. It replaces the process's current piece."""

    number: int
    """Identifies the answers to it."""
    piece: Piece


@dataclass(frozen=True)
class Ahead:
    """Where the next piece begins; known as soon as this piece's frames are read."""

    number: int
    piece: Piece


@dataclass(frozen=True)
class Seen:
    """A frame with its predictions; counts are those after it, from the anchor on."""

    number: int
    frame: Frame
    predictions: Predictions = field(repr=False)
    """On the host, [1,1,…]; of the tokens only the camera's."""
    lengths: np.ndarray
    """[layer] live tokens."""
    clipped: int
    dropped: int


@dataclass(frozen=True)
class Ended:
    """The piece has no more frames, or they cannot be read."""

    number: int
    error: str | None = None


Answer = Ahead | Seen | Ended
