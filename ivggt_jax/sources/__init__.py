"""Frame sources: folders, lists, videos and cameras, fitted to the model's input."""

from ivggt_jax.sources.config import SourceConfig
from ivggt_jax.sources.fit import fit_image, pad_to_largest
from ivggt_jax.sources.frame import Fit, Frame, SourceError
from ivggt_jax.sources.image_file import read_image, to_rgb
from ivggt_jax.sources.source import Source, open_source

__all__ = [
    "Fit",
    "Frame",
    "Source",
    "SourceConfig",
    "SourceError",
    "fit_image",
    "open_source",
    "pad_to_largest",
    "read_image",
    "to_rgb",
]
