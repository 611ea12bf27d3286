"""What the processes of a split run tell one another."""

from dataclasses import dataclass, field

import numpy as np

from ivggt_jax.config import CacheConfig, HeadName
from ivggt_jax.mapping.config import SubmapConfig
from ivggt_jax.model.vggt import Predictions
from ivggt_jax.sources import Frame, SourceConfig
from ivggt_jax.sources.frame import Mark


@dataclass(frozen=True)
class Order:
    """What a process is told once: how it is to see, and what."""

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
    """The frames of a submap, from its anchor up to and with the next one."""

    anchor: Mark
    usual: float | None
    """Usual sharpness of the frames before the anchor; None before the first."""
    least: int = 0
    """The next anchor comes after at least so many frames, the piece's own anchor among them: where the map says so."""


@dataclass(frozen=True)
class Task:
    """A piece that a process is to see. It gives up the one at hand for it."""

    number: int
    """By which answers are known."""
    piece: Piece


@dataclass(frozen=True)
class Ahead:
    """Where the next piece begins, known as soon as the frames of this one are read."""

    number: int
    piece: Piece


@dataclass(frozen=True)
class Seen:
    """A frame, and what the network says of it; numbers are those after it, counted from the anchor on."""

    number: int
    frame: Frame
    predictions: Predictions = field(repr=False)
    """Of the host, [1,1,…]; of the tokens only the camera's."""
    lengths: np.ndarray
    """[layer] live tokens."""
    clipped: int
    dropped: int


@dataclass(frozen=True)
class Ended:
    """There are no more frames in the piece, or they cannot be had."""

    number: int
    error: str | None = None


Answer = Ahead | Seen | Ended
