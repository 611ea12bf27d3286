"""From a video in 1080p to what splats are trained from: read by gsplat's and nerfstudio's own parsers (`test_foreign_parsers`)."""

import dataclasses
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from test_foreign_parsers import PARSERS, PYTHON, read_by
from test_refine_ba import camera, path_error
from writer_scene import ALL, FITS, invert, known_pixels, result

from ivggt_jax.export import ExportConfig, export
from ivggt_jax.infer import main
from ivggt_jax.sources import SourceConfig, open_source
from ivggt_jax.trajectories.alignment import align_trajectory
from ivggt_jax.trajectories.tables import read_trajectory
from ivggt_jax.writers import Writers, write_run_json
from ivggt_jax.writers.saved_run import SavedRun

pytestmark = pytest.mark.slow
ROOM = Path(__file__).parents[1] / "examples" / "room"
