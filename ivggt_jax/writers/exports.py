"""Outputs that need the whole run: built from its saved frames, at the end or any time later."""

from collections.abc import Callable
from pathlib import Path

from ivggt_jax.writers.colmap import export_colmap
from ivggt_jax.writers.glb import export_glb
from ivggt_jax.writers.html import export_html
from ivggt_jax.writers.nerfstudio import export_nerfstudio
from ivggt_jax.writers.saved_run import SavedRun
from ivggt_jax.writers.writer import ExportOptions

EXPORTS: dict[str, Callable[[SavedRun, Path, ExportOptions], None]] = {
    "colmap": export_colmap,
    "nerfstudio": export_nerfstudio,
    "glb": export_glb,
    "html": export_html,
}
"""Functions by the name in --export; each takes a run, the output folder, and the options."""
